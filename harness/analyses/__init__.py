"""What visualize.py draws of a trained network: one file an analysis, one line each in ANALYSES.

An analysis is a module with `NEEDS`, what it needs of "images", "other images" (whose classes the network did not
learn), "snapshots", "steps" (of a recurrent network with one layer in one direction) and "gates" (of an LSTM or GRU),
and `analyze(subject)`, which selects, computes by interpret/, draws, and returns its Findings: figures, tables, and how
to read them. `draw_analyses` runs them, and writes what they found; `read_analyses` reads it again. base.py has the
Subject, findings.py the files.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import command_line, typed_path
from harness.errors import Interrupted, UserError

if TYPE_CHECKING:
    from harness.checkpoint import Trained

# In the order in which they are made and shown, each a module here.
OF_CNN = ("filters", "activations", "deconvnet", "evolution", "invariance", "occlusion", "correspondence", "depth")
OF_CNN += ("transfer", "lengths")
OF_RECURRENT = ("reading", "hidden_state", "gates", "memory", "saliency", "lengths")
ANALYSES = (*OF_CNN[:-1], *OF_RECURRENT)  # both end with the lengths
ON_REQUEST = ("transfer", "lengths")  # of a CNN: the one trains networks for minutes, the other is mostly for digits
OF_REPORT = (*OF_CNN[:-1], "reading", "gates", "memory")
OF_OWN_PICTURES = ("deconvnet", "invariance", "occlusion", "reading", "saliency")


def draw_analyses(
    checkpoint: Path,
    build_model: Callable,
    *,
    names: Sequence[str] | None = None,
    own: Sequence[Path] | None = None,
    data_dir: Path = Path("data"),
    device: str = "auto",
    data: str | None = None,
    mirror: str | None = None,
    maps: Iterable[tuple[str, list[int]]] | None = None,
    shown_count: int = 5,
    seed: int = 0,
    per_filter: bool = False,
    out: Path | None = None,
    tensorboard: bool = False,
    command: str | None = None,
) -> list:
    """Make the named analyses of a best.pt or last.pt (default: all that can be), write them, and return the Pictures.

    They are written to `out`, by default figures/ in the run's folder. With `own`, files of a person's own pictures,
    these are shown instead of test images. `command` is recorded as what made them; the other options are the flags of
    visualize.py. UserError, before anything is computed, if the checkpoint, its snapshots or the images cannot be used,
    or if what is to be written cannot be.
    """
    # PyTorch and Matplotlib take seconds to import, and --help asks for the names alone.
    from tqdm import tqdm

    from harness.analyses import base, findings
    from harness.checkpoint import load_snapshots, load_trained
    from harness.files import check_writable, lock_folder, make_folder, read_file
    from harness.pictures import in_style
    from harness.run import FIGURES_PAGE
    from harness.tensorboard import add_images, find_events

    trained = load_trained(checkpoint, build_model)
    run = trained.folder
    maps = base.maps_by_layer(maps or (), trained)
    subject = base.Subject(trained, shown_count, seed, per_filter, maps, build_model=build_model)
    own = own or ()
    suited = [name for name in (OF_RECURRENT if subject.recurrent else OF_CNN) if not own or name in OF_OWN_PICTURES]
    if others := [name for name in names or () if name not in suited]:
        of = "a picture" if own else "a recurrent network" if subject.recurrent else "a CNN"
        raise UserError(f"--only: of {of} there is {', '.join(suited)} to show, and not {others[0]}")
    if len(own) > 10:
        raise UserError(f"--image shows 10 pictures at a time, and not {len(own)}")
    made = names or [name for name in suited if subject.recurrent or name not in ON_REQUEST]
    modules = {name: import_module(f"{__name__}.{name}") for name in made}
    needs = set().union(*(module.NEEDS for module in modules.values()))
    lacks = base.lacks(subject.recurrent) if subject.recurrent else {}
    if "snapshots" in needs:
        subject.snapshots = load_snapshots(trained)
        if not subject.snapshots:
            lacks["snapshots"] = f"{run} has no snapshots (--snapshot-epochs)"
    if "other images" in needs:
        subject.others = [] if data else base.other_images(trained, data_dir, mirror)
        if data:
            lacks["other images"] = "it chooses its images itself; leave out --data"
        elif not subject.others:
            lacks["other images"] = (
                "it needs two classes that the network did not learn: "
                f"of a training with --classes, or of another image set in {data_dir}"
            )
    for need, why in lacks.items():
        lacking = [name for name, module in modules.items() if need in module.NEEDS]
        if lacking and names:
            raise UserError(f"{lacking[0]} cannot be shown: {why}")
        if lacking:
            print(f"note: {', '.join(lacking)} left out, {why}")
        modules = {name: module for name, module in modules.items() if name not in lacking}
    if "images" in needs:
        base.show_images(subject, data, data_dir=data_dir, mirror=mirror, device=device, own=own)
    if tensorboard:
        find_events(run)
        with lock_folder(run):  # early, so that nothing is computed in vain
            pass
    folder = out or run / "figures"
    make_folder(folder)
    check_writable(folder)
    page = folder / "index.html"
    if page.exists() and FIGURES_PAGE not in read_file(page)[:400]:
        raise UserError(f"{page} was not written by visualize.py and would be replaced; choose another --out")
    only = ["--only", ",".join(names)] if names else []
    images, trained_on = subject.images, {"name": trained.dataset, "checksum": trained.checksum}
    provenance = {
        "network": type(trained.model).__name__,
        "checkpoint": str(checkpoint),
        "epoch": trained.epoch,
        "trained_on": trained_on,
        "channels": trained.channels,
        "dataset": {"name": images.name, "checksum": images.checksum} if images else trained_on,
        "command": command or command_line(["python", "visualize.py", typed_path(checkpoint), *only]),
    }
    title = f"Inside {subject.network}: {subject.source}"
    pictures = []
    with tqdm(modules.items(), unit="", leave=False, disable=not sys.stderr.isatty()) as bar:
        for name, module in bar:
            bar.set_description(name)
            started = time.perf_counter()
            try:
                found = in_style(module.analyze)(subject)
                findings.write_findings(folder, name, found, provenance)
                findings.write_page(folder, read_analyses(folder).values(), title)  # all that are in the folder
            except Interrupted as interruption:
                interruption.message = f"interrupted during {name}; what was finished before is in {folder}"
                raise
            if found.printed:
                tqdm.write(found.printed, file=sys.stdout)
            files = ", ".join(f"{picture.name}.png" for picture in found.pictures)
            tqdm.write(f"{name:14} {time.perf_counter() - started:5.1f} s   {files}", file=sys.stdout)
            sys.stdout.flush()
            pictures += found.pictures
    if tensorboard:
        with lock_folder(run):
            group = "visualize/own_" if own else "visualize/"
            add_images(run, {f"{group}{picture.name}": picture.drawing.pixels for picture in pictures}, trained.epoch)
    return pictures


def possible_analyses(trained: "Trained") -> list[str]:
    """The analyses that can be made of this network, but for those on request. UserError if a snapshot is damaged."""
    from harness.analyses import base
    from harness.checkpoint import load_snapshots

    recurrent = getattr(trained.model, "recurrent", None)
    lacks = {*base.lacks(recurrent)} if recurrent else {*["snapshots"] * (not load_snapshots(trained))}
    names = OF_RECURRENT if recurrent else [name for name in OF_CNN if name not in ON_REQUEST]
    return [name for name in names if lacks.isdisjoint(import_module(f"{__name__}.{name}").NEEDS)]


def read_analyses(folder: Path) -> dict[str, dict]:
    """The records of the analyses that are whole in a figures/ folder, by name, in the order of ANALYSES.

    A record holds `epoch` (of the model), `trained_on` and `dataset` (trained on, and shown: name and checksum),
    `heading`, `text`, `figures` (file, title, width, height) and `tables` (file, title, header, rows). What is missing,
    damaged or somebody else's is passed over.
    """
    from harness.analyses.findings import read_record

    records = {name: read_record(folder, name) for name in ANALYSES}
    return {name: record for name, record in records.items() if record}
