"""Runs on a few images, killed just before each of their steps on the disk, and what it takes to compare them.

As a script it trains `SCRIPT FLAGS…` once into FOLDER/whole. Before each of its steps on the disk it copies what lies
there (what a SIGKILL at that instant leaves) and then resumes from these copies; the tests compare the folders:

    python killed_runs.py FOLDER FIRST STRIDE TWICE_AT SCRIPT FLAGS…

FIRST and STRIDE choose the steps; with TWICE_AT above 0 the run is killed at that step first, and FIRST and STRIDE
count in its resumption. Every training runs in a fork of this process, which itself never computes anything.
"""

import csv
import importlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SMALL = (40, 20)  # train and test images


def metrics_of(folder: Path) -> list[list[str]]:
    """metrics.csv with its header, but without the seconds."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [row[:-1] for row in csv.reader(file)]


def same_bits(first: object, second: object) -> bool:
    """Whether two checkpoints' contents are equal, tensors bit for bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.numpy().tobytes() == second.numpy().tobytes()
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_bits(first[key], second[key]) for key in first)
    return first == second


def weights_of(file: Path) -> dict:
    return torch.load(file, weights_only=True)["model"]


def logged_values(folder: Path) -> list[tuple[int, str]]:
    """(step, tag) of every value in the run's one events file, read by TensorBoard's own loader."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    (file,) = folder.glob("events.out.tfevents.*")
    return [(event.step, v.tag) for event in LegacyEventFileLoader(str(file)).Load() for v in event.summary.value]


def assert_same_run(run: Path, whole: Path) -> None:
    """The run has the metrics, weights, optimizer, random state and events of the one that nothing disturbed."""
    assert metrics_of(run) == metrics_of(whole)
    assert logged_values(run) == logged_values(whole)
    last, last_whole = (torch.load(folder / "last.pt", weights_only=True) for folder in (run, whole))
    for part in ("model", "optimizer", "generator", "epoch"):
        assert same_bits(last[part], last_whole[part]), part
    best, best_whole = (torch.load(folder / "best.pt", weights_only=True) for folder in (run, whole))
    assert best["epoch"] == best_whole["epoch"]
    assert same_bits(best["model"], best_whole["model"])
    assert not list(run.rglob("*.tmp"))


def make_runs_small(replace: Callable[[object, str, object], None] = setattr) -> None:
    """Draw each synthetic set once, and few images of it; no pictures at a run's end; no question to git.

    `replace` is setattr, or pytest's monkeypatch.setattr.
    """
    import harness.data
    import harness.pictures
    import harness.run
    import harness.synthetic

    replace(harness.synthetic, "TRAIN_COUNT", SMALL[0])
    replace(harness.synthetic, "TEST_COUNT", SMALL[1])
    for name in ("draw_shapes", "draw_digits"):
        if name not in _DRAWN:
            _DRAWN[name] = getattr(harness.synthetic, name)()
        replace(harness.data, name, lambda name=name: _DRAWN[name])
    blank = torch.zeros(4, 4, dtype=torch.uint8).numpy()
    replace(harness.pictures, "confusion_figure", lambda *_: blank)
    replace(harness.pictures, "worst_figure", lambda *_: blank)
    replace(harness.run, "_git_commit", lambda: None)


_DRAWN: dict[str, object] = {}


def copy_before_steps(steps: range, runs_dir: Path, copies: Path) -> None:
    """From now on count this process's changes under `runs_dir`, and copy it to copies/<step> before the given ones.

    A kill at a flush leaves what was written last torn: the system may not have taken all of it.
    """
    count = itertools.count(1)
    copying = []

    def step(torn: Path | None = None) -> None:
        if not copying and (number := next(count)) in steps:
            copying.append(number)  # the copying itself opens files, too
            shutil.copytree(runs_dir, copies / str(number))
            if torn:
                copy = copies / str(number) / torn.relative_to(runs_dir)
                os.truncate(copy, max(0, copy.stat().st_size - 7))
            copying.clear()

    def watch(event: str, arguments: tuple) -> None:
        if event not in ("open", "os.rename", "os.remove", "os.mkdir") or not isinstance(arguments[0], str | Path):
            return
        changes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if changes and runs_dir in Path(arguments[0]).parents:
            step()

    def flush(descriptor: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}")
        if file.is_file():  # a folder's flush changes nothing that a kill could spare
            step(torn=file.readlink())

    sys.addaudithook(watch)
    os.fsync = flush


def train_in_fork(script: str, flags: list[str], folder: Path, steps: range = range(0), copies: Path = Path()) -> int:
    """Train with --runs-dir `folder`, copied to `copies` before these steps; the exit code."""
    child = os.fork()
    if not child:
        code = 99
        try:
            from harness.cli import run_script

            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            folder.mkdir(exist_ok=True)
            copy_before_steps(steps, folder.resolve(), copies)
            argv = [*flags, "--runs-dir", str(folder.resolve())]
            code = run_script(lambda: importlib.import_module(script).main(argv))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, first: int, stride: int, twice_at: int, script: str, flags: list[str]) -> None:
    for name in ("torch._dynamo", "harness.train", "cnn_cifar10", "rnn_mnist"):  # once, not anew in every fork
        importlib.import_module(name)
    import harness.tensorboard

    harness.tensorboard._hparams_summaries({})  # imports too
    make_runs_small()
    folder.mkdir()
    every = range(first, 10_000, stride)
    if twice_at:
        once = folder.with_name("killed once")
        once.mkdir()
        assert train_in_fork(script, flags, folder / "whole", range(twice_at, twice_at + 1), once) == 0
        assert train_in_fork(script, [*flags, "--resume"], once / str(twice_at), every, folder) == 0
    else:
        assert train_in_fork(script, flags, folder / "whole", every, folder) == 0
    for copy in folder.iterdir():
        if copy.name != "whole":
            assert train_in_fork(script, [*flags, "--resume"], copy) == 0, f"step {copy.name}"


if __name__ == "__main__":
    where, *numbers, which = sys.argv[1:6]
    main(Path(where), *map(int, numbers), which, sys.argv[6:])
