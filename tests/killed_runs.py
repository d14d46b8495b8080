"""Runs on a few images that are killed, in this process or their own, and what it takes to compare them.

A test that kills at a step on the disk trains in its own process: before each step `copies_before_steps` copies what
lies there, which is what a SIGKILL at that instant leaves, and the test resumes from the copies. Where a test needs a
process, `SmallRun` is a fork of one that has imported everything.
"""

import contextlib
import csv
import functools
import importlib
import itertools
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import torch

SMALL = (40, 20)  # train and test images


def metrics_of(folder: Path) -> list[list[str]]:
    """metrics.csv with its header, but without the seconds."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [row[:5] + row[6:] for row in csv.reader(file)]


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
    for part in ("model", "optimizer", "generator", "epoch", "average"):  # the last only if asked for
        assert same_bits(last.get(part), last_whole.get(part)), part
    best, best_whole = (torch.load(folder / "best.pt", weights_only=True) for folder in (run, whole))
    assert best["epoch"] == best_whole["epoch"]
    assert same_bits(best["model"], best_whole["model"]) and same_bits(best.get("average"), best_whole.get("average"))
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


_watchers: list[Callable[[str, tuple], None]] = []


@functools.cache
def _watch_audit_events() -> None:
    """Once a process, as such a hook stays."""
    sys.addaudithook(lambda event, arguments: [watch(event, arguments) for watch in _watchers])


@contextlib.contextmanager
def copies_before_steps(steps: range, runs_dir: Path, copies: Path) -> Iterator[None]:
    """Count the block's changes under `runs_dir`, and copy it to copies/<number> before those of `steps`.

    A kill at a flush leaves what was written last torn: the system may not have taken all of it. Nothing is flushed.
    """
    count = itertools.count(1)

    def step(torn: Path | None = None) -> None:
        if (number := next(count)) in steps:
            _watchers.clear()  # the copying itself opens files, too
            shutil.copytree(runs_dir, copies / f"{number:04}")
            if torn:
                copy = copies / f"{number:04}" / torn.relative_to(runs_dir)
                os.truncate(copy, max(0, copy.stat().st_size - 7))
            _watchers.append(watch)

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

    _watch_audit_events()
    with mock.patch.object(os, "fsync", flush):
        _watchers.append(watch)
        yield
        _watchers.clear()


class SmallRun:
    """SCRIPT FLAGS… on a few images as a process of its own, in the current folder, with its errors in the file `err`.

    It goes no further than to the beginning of epoch `until`, if that is above 0, until there is a file `go`.
    """

    def __init__(self, script: str, *flags: object, until: int = 0, stdout: str | None = None) -> None:
        """`stdout` is a file for the output; without one the output can be read from `self.stdout`, line by line."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["small_ranks"])  # which serves test_distributed.py, too
        reader, writer = context.Pipe(duplex=False)
        words = [script, *map(str, flags)]
        self.process = context.Process(target=_train_small, args=(words, until, str(Path.cwd()), stdout or writer))
        with mock.patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parent)):  # the fork server looks nowhere else
            self.process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()))
        reader.close()

    def wait_for_epoch(self, epoch: int) -> None:
        for line in self.stdout:
            if line.startswith("epoch") and int(line.split()[1].split("/")[0]) >= epoch:
                return
        raise AssertionError(f"it ended before epoch {epoch}: {Path('err').read_text()}")

    def end(self) -> tuple[int, str]:
        """Wait for it: exit code and standard error."""
        self.process.join()
        self.stdout.close()
        return self.process.exitcode, Path("err").read_text()


def _train_small(words: list[str], until: int, folder: str, stdout: str | Connection) -> None:
    import harness.train
    from harness.cli import run_script

    os.chdir(folder)
    os.dup2(os.open(stdout, os.O_WRONLY) if isinstance(stdout, str) else stdout.fileno(), 1)
    os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout = open(1, "w")  # noqa: SIM115 - the fork server's was another file's
    make_runs_small()
    draw, epochs = harness.train.EpochOrder.draw, itertools.count(1)

    def draw_or_wait(*given: object, **named: object) -> object:
        if next(epochs) == until:
            while not Path("go").exists():
                time.sleep(0.01)
        return draw(*given, **named)

    harness.train.EpochOrder.draw = draw_or_wait
    sys.argv = words
    sys.exit(run_script(importlib.import_module(words[0]).main))
