"""Train what the report's grid lacks, then write the report from the run folders.

Repeat the command after any interruption: finished runs are never trained again, unfinished ones go on where they were.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import command_line, program, run_script, say_loading
from harness.errors import Interrupted, UserError
from harness.flags import Parser, add_flags, gpu_share, option, path, up_to_1024
from harness.grid.listing import SORTED_BY, print_runs
from harness.image_sets import RNN, sets_for
from harness.ranks import refuse_ranks

if TYPE_CHECKING:  # PyTorch takes seconds to import; the flags are answered before
    from harness.grid.runs import RowRuns

PROJECT = Path(__file__).resolve().parent
EXIT_INCOMPLETE = 1
EXAMPLES = (
    "python report.py --seeds 3  # train what is missing, with three seeds each",
    "python report.py --grid mine.toml --only rnn --jobs 2",
    "python report.py --list --sort test/accuracy  # which of my runs is the best?",
)
EXIT_CODES = """exit code: 0 if every wanted run (each row with each seed) is complete; 1 if the report is written but
a run is missing, failed or diverged; 2 for wrong input; 130, 143 or 129 if interrupted."""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, examples=EXAMPLES, epilog=EXIT_CODES)

    group = parser.add_argument_group("what to run")
    group.add_argument("--grid", type=path, help="TOML file of the rows (default: the project's experiments.toml)")
    group.add_argument("--only", help="train these rows only: cnn, rnn or rows' names, with commas between")
    group.add_argument("--seeds", type=up_to_1024, default=1, help="runs of each row: seeds 0, 1, … below this number")
    group.add_argument("--no-train", action="store_true", help="write the report from what the run folders hold")
    group.add_argument("--data", choices=("real", "synthetic"), default="real", help="CIFAR-10 and MNIST, or drawn")
    add_flags(group, "data_dir")

    group = parser.add_argument_group("machine")
    group.add_argument("--jobs", type=up_to_1024, help="runs side by side (default: one a core, or Ray's room)")
    choices = ("auto", "bf16", "fp32")
    add_flags(group, "precision", choices=choices, default="auto", help="auto: bf16 for cnn rows, fp32 for rnn rows")
    add_flags(group, "device")
    add_flags(group, "compile", help="pass --compile to the runs")

    group = parser.add_argument_group("other machines")
    group.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: each run is a task of Ray's")
    group.add_argument("--address", help="HOST:PORT of a cluster, or auto, this machine's (default: a Ray of its own)")
    group.add_argument("--cpus-per-run", type=up_to_1024, help="CPUs, and threads, of each run on Ray (default: 1)")
    group.add_argument("--gpus-per-run", type=gpu_share, help="of one GPU (default: 0.25 where there are GPUs)")

    group = parser.add_argument_group("instead of all that")
    group.add_argument("--list", action="store_true", help="show a table of all runs in --runs-dir, of any grid")
    group.add_argument("--sort", choices=SORTED_BY, default="run", help="what --list sorts by, the best first")

    group = parser.add_argument_group("folders")
    add_flags(group, "runs_dir")
    group.add_argument("--out", type=path, help="folder that the report is written to (default: report/ in --runs-dir)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = make_parser().parse_args(argv)
    refuse_ranks("report.py")
    if flags.list:
        say_loading()
        print_runs(flags.runs_dir, flags.sort)
        return 0
    flags.out = flags.out or flags.runs_dir / "report"
    if flags.engine == "ray" and not importlib.util.find_spec("ray"):
        raise UserError("--engine ray needs Ray: pip install -r requirements-ray.txt")
    for name in ("address", "cpus_per_run", "gpus_per_run"):
        if flags.engine != "ray" and getattr(flags, name) is not None:
            raise UserError(f"{option(name)} is for --engine ray")
    try:
        return report(flags, command=command_line(["python", sys.argv[0], *argv]))
    except Interrupted as interruption:
        typed = command_line([program("python"), sys.argv[0], *argv])
        interruption.message = f"interrupted; nothing is lost, continue with: {typed}"
        raise


def report(flags: argparse.Namespace, *, command: str) -> int:
    """Train, unless --no-train, and write the report; returns the exit code."""
    say_loading()
    from harness.files import nearest_folder
    from harness.grid.rows import chosen_rows, load_grid
    from harness.grid.runs import find_runs, print_problems, problems_of
    from harness.report import check_folder, write_report
    from harness.report.seeds import write_seed_aggregates
    from harness.tensorboard import print_curves
    from models import build_model

    grid, here = flags.grid or PROJECT / "experiments.toml", Path.cwd()
    grid = grid.relative_to(here) if grid.is_relative_to(here) else grid  # the report names it, on any machine
    rows, comparison = load_grid(grid)
    chosen = chosen_rows(rows, flags.only, grid)
    nearest_folder(flags.runs_dir, "--runs-dir")
    check_folder(flags.out)

    data = None if flags.data == "real" else flags.data
    every = [*rows, comparison] if comparison and not data else rows
    options = {"seeds": range(flags.seeds), "precision": flags.precision, "data": data, "build_model": build_model}
    results, wanted, failures = find_runs(every, flags.runs_dir, **options), chosen, {}
    if not flags.no_train:
        wanted = every if chosen == rows else chosen
        failures = train_missing([each for each in results if each.row in wanted], flags)
        results = find_runs(every, flags.runs_dir, **options)
    of_rows, on_mnist = results[: len(rows)], next(iter(results[len(rows) :]), None)
    if not flags.no_train:
        if on_mnist and on_mnist.row in wanted:
            keep_first_rows_of(on_mnist, of_rows, flags)
        look_inside(of_rows, flags)

    others = {name: getattr(flags, name) for name in ("out", "precision", "data")}
    others |= {"problems": problems_of(of_rows, failures), "grid": grid, "command": command, "on_mnist": on_mnist}
    others["count_parameters"] = lambda config: sum(each.numel() for each in build_model(config).parameters())
    write_report(of_rows, **others)
    with warned("TensorBoard goes without the curves over seeds"):  # of someone else's runs
        write_seed_aggregates(of_rows, flags.runs_dir, synthetic=flags.data == "synthetic")
    print(f"the report is in {flags.out}")
    print_curves(flags.runs_dir)
    problems = problems_of([each for each in results if each.row in wanted], failures)
    print_problems(problems, wanted=len(wanted) * flags.seeds)
    return EXIT_INCOMPLETE if problems else 0


def train_missing(results: "list[RowRuns]", flags: argparse.Namespace) -> dict[tuple[str, int], str]:
    """Train what is missing; returns why a run failed, by row name and seed. UserError if there are no images."""
    from harness.data import load_images
    from harness.device import choose_device, warn_of_slow_bf16
    from harness.files import check_writable, nearest_folder
    from harness.grid.local import Settings, ThisMachine
    from harness.grid.schedule import plan_jobs, train_jobs

    same = ("runs_dir", "data_dir", "device", "compile", "jobs")
    settings = Settings(PROJECT, **{name: getattr(flags, name) for name in same})
    jobs = plan_jobs(results, settings)
    if not jobs:
        return {}
    check_writable(nearest_folder(flags.runs_dir, "--runs-dir"))
    here = flags.engine == "local" and choose_device(flags.device).type
    if here == "cpu" and any(job.flags["precision"] == "bf16" for job in jobs):
        warn_of_slow_bf16()
    if flags.data != "synthetic":  # fetched here once, and not by two runs at a time
        for script, name in sorted({(job.row.script, job.flags["data"]) for job in jobs}):
            load_images(sets_for(script)[name], data_dir=flags.data_dir)
    print(f"runs to train: {len(jobs)}, into {flags.runs_dir}", flush=True)
    if flags.engine == "local":
        return train_jobs(jobs, ThisMachine(settings, len(jobs)))
    from harness.grid.ray_cluster import connect

    with connect(settings, flags.address, flags.cpus_per_run or 1, flags.gpus_per_run) as cluster:
        return train_jobs(jobs, cluster)


def keep_first_rows_of(comparison: "RowRuns", results: "list[RowRuns]", flags: argparse.Namespace) -> None:
    """Once the networks to compare are trained: how much of an image each needs, of its first seed, kept in its folder.

    Compared are the CNN on MNIST and those recurrent rows that have its images, optimizer, lr and epochs. What has no
    checkpoint any more, as the reference runs of this repository, is left as it is.
    """
    from harness.analyses.first_rows import FILE, keep_first_rows
    from harness.data import load_images
    from harness.files import is_outdated
    from models import build_model

    rows = [comparison, *(each for each in results if each.row.script == RNN)]
    firsts = [each.complete[0] for each in rows if each.complete] if comparison.complete else []
    names = ("data", "classes", "optimizer", "lr", "epochs")
    settings = [[run.config["flags"].get(name) for name in names] for run in firsts]
    alike = [run.path for run, setting in zip(firsts, settings, strict=True) if setting == settings[0]]
    folders = [folder for folder in alike if is_outdated(folder / FILE, folder / "best.pt")]
    images = load_images("mnist", data_dir=flags.data_dir) if folders else None
    for folder in folders:
        print(f"testing {folder} on the first rows of each image", flush=True)
        with warned(f"the report goes without the first rows of {folder}"):
            keep_first_rows(folder, images, build_model)


def look_inside(results: "list[RowRuns]", flags: argparse.Namespace) -> None:
    """Draw what the report lacks of the analyses that it shows.

    They are lacking if they are not of the model in best.pt, shown the images that it was trained on.
    """
    from harness.analyses import draw_analyses, possible_analyses, read_analyses
    from harness.checkpoint import load_trained
    from harness.report.inside import to_look_into
    from models import build_model

    for run, names in to_look_into(results):
        if not (run.path / "best.pt").exists():
            continue
        with warned(f"cannot draw the pictures that the report lacks of {run.path}"):
            trained = load_trained(run.path / "best.pt", build_model)
            current = trained.epoch, run.config["dataset"]
            drawn = read_analyses(run.path / "figures").items()
            whole = {name for name, record in drawn if (record["epoch"], record["dataset"]) == current}
            if lacking := [name for name in possible_analyses(trained) if name in names and name not in whole]:
                print(f"looking inside {run.path}", flush=True)
                device = flags.device if flags.engine == "local" else "auto"
                draw_analyses(run.path / "best.pt", build_model, names=lacking, data_dir=flags.data_dir, device=device)


@contextlib.contextmanager
def warned(consequence: str) -> Iterator[None]:
    """Turn a UserError into a warning: the report is worth having without what failed."""
    try:
        yield
    except UserError as error:
        print(f"warning: {consequence}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_script(main))
