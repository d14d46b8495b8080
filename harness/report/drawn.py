"""What visualize.py left in a run's figures/, and what of it the report can show: one model, on the run's own images.

A person can have drawn other pictures there, by `visualize.py last.pt` or `--data synthetic`. The first line of each
analysis' table tells: it names the images and the epoch of the model as `trained.source_of` does.
"""

import os
import re
from pathlib import Path

from PIL import Image

from harness.checkpoint import load_checkpoint, source_of
from harness.errors import UserError
from harness.files import is_outdated
from harness.grid.runs import Run
from harness.metrics import accuracy_at, best_epoch

ANALYSES = {  # the pictures of each that are shown
    "filters": ("filters_conv1",),
    "activations": ("activations",),
    "deconvnet": ("deconvnet_conv1", "deconvnet_conv2"),
    "evolution": ("evolution_conv1", "evolution_conv2"),
    "invariance": ("invariance",),
    "occlusion": ("occlusion",),
    "correspondence": ("correspondence",),
}


def to_show(run: Run) -> tuple[set[str], int]:
    """The analyses to show of the run, and the epoch of their model; an empty set if it has not been looked into.

    Of several epochs' pictures it is those of the epoch with the best test accuracy. The evolution is of all epochs.
    """
    if not run.history:
        return set(), 0
    drawn = _drawn(run)
    epochs = {epoch for epoch in drawn.values() if epoch and epoch <= len(run.history)} or {
        best_epoch(run.history).epoch
    }
    shown = max(sorted(epochs), key=lambda epoch: accuracy_at(run.history, epoch))
    return {name for name, epoch in drawn.items() if epoch in (shown, None)}, shown


def left_out(run: Run, shown: set[str]) -> list[str]:
    """The analyses of which there is anything in figures/ but that are not shown."""
    return [name for name in ANALYSES if name not in shown and any(map(os.path.isfile, _files(run, name)))]


def outdated_analyses(run: Run) -> set[str]:
    """Those that are lacking for the model in best.pt, or were made before it; none if there is no best.pt.

    UserError if best.pt, from which they would be made, cannot be read.
    """
    checkpoint = run.path / "best.pt"
    if not checkpoint.exists():
        return set()
    drawn, snapshots = _drawn(run), [*(run.path / "snapshots").glob("epoch-*.pt")]
    wanted = [name for name in ANALYSES if name != "evolution" or snapshots]
    made_from = {name: [checkpoint, *_files(run, name), *(snapshots if name == "evolution" else [])] for name in wanted}
    lacking = {name for name in wanted if any(is_outdated(_table(run, name), source) for source in made_from[name])}
    lacking |= set(wanted) - set(drawn)
    try:
        epoch = load_checkpoint(checkpoint).get("epoch")
    except UserError:
        if lacking:
            raise
        return set()
    return lacking | {name for name in wanted if drawn.get(name) not in (epoch, None)}


def is_best(run: Run, epoch: int) -> bool:
    """Whether the epoch, one of the run's, has its best test accuracy."""
    return accuracy_at(run.history, epoch) == best_epoch(run.history).test_accuracy


def _drawn(run: Run) -> dict[str, int | None]:
    """The analyses of the run's own images whose files are all there, the pictures whole.

    Each with the model's epoch, None for the evolution.
    """
    own = source_of(run.config["dataset"]["name"], run.config["flags"].get("channels", "gray"), None)
    drawn: dict[str, int | None] = {}
    for name in ANALYSES:
        files = _files(run, name)
        if not all(map(os.path.isfile, files)):  # Path.is_file would raise for what one may not look at
            continue
        if not all(_is_whole(file) for file in files if file.suffix == ".png"):
            continue
        try:
            title = _table(run, name).read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError):
            continue
        found = re.search(rf"(?<!trained on )\b{re.escape(own)}(?:, epoch (\d{{1,9}}))?\b", title)
        if found and (found[1] or name == "evolution"):
            drawn[name] = None if name == "evolution" else int(found[1])
    return drawn


def _is_whole(picture: Path) -> bool:
    """Whether a PNG can be read to its end."""
    try:
        with Image.open(picture) as opened:
            opened.load()
    except Exception:  # a damaged file can make Pillow fail in many ways
        return False
    return True


def _table(run: Run, analysis: str) -> Path:
    """The Markdown table of an analysis, which is written after its pictures and figures."""
    return run.path / "figures" / f"{analysis}.md"


def _files(run: Run, analysis: str) -> list[Path]:
    """The files of an analysis that are shown, and its table."""
    table = _table(run, analysis)
    return [*(table.with_name(f"{picture}.png") for picture in ANALYSES[analysis]), table.with_suffix(".csv"), table]
