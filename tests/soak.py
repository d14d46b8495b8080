"""Trainings killed at random instants, damaged files and failed writes, for SOAK_MINUTES minutes: `make soak`.

Every case is a process forked from this one, which has imported everything: starting PyTorch would take longer than all
that a case does. A run that was killed, or whose disk failed, is resumed and must end with the bits of one that nothing
disturbed. A damaged file must be refused in one sentence, or change nothing. Cases are numbered, and all choices of a
case come from SOAK_SEED and its number; only the instant of a kill depends on the machine's speed, too. So what lay on
the disk when a case failed is kept, and its place is printed. What has been found so is in docs/reliability.md.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork must have no other threads

import contextlib
import importlib
import itertools
import json
import multiprocessing
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch._dynamo  # the optimizers import it
import torch.utils.tensorboard  # noqa: F401

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fake_sets import make_cifar10, make_mnist
from killed_runs import assert_same_run, make_runs_small, same_bits

import cnn_cifar10  # noqa: F401 - these take the time, and every fork has them
import models  # noqa: F401
import report  # noqa: F401
import rnn_mnist  # noqa: F401
import visualize  # noqa: F401
from harness.cli import run_script
from harness.image_sets import IMAGE_SETS

MINUTES = float(os.environ.get("SOAK_MINUTES", 1))
SEED = int(os.environ.get("SOAK_SEED", 0))
ONLY = os.environ.get("SOAK_CASE")  # the number of a case to repeat

SMALL = "--data-dir ../data --device cpu --threads 1".split()
CELL = ["rnn_mnist", *SMALL, *"--hidden-size 8 --batch-size 16 --epochs 3".split()]
CNN = ["cnn_cifar10", *SMALL, *"--augment --batch-size 25 --epochs 3 --snapshot-epochs 1,2".split()]
NETWORKS = {"cnn": CNN} | {cell: [*CELL, "--cell", cell] for cell in ("rnn", "lstm", "gru")}
RUNS = {  # the command of each run
    (name := f"{network}-{precision}"): [*words, "--precision", precision, "--name", name]
    for network, words in NETWORKS.items()
    for precision in ("fp32", "bf16")
}

# Windows has no fork: there each case imports everything itself.
processes = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


# -- a script as a process of its own ----------------------------------------------------------------------------------


class Ended(NamedTuple):
    code: int  # negative: the signal
    out: str
    err: str


def start(words: list[str], folder: Path, *, within: Callable = contextlib.nullcontext, seconds: float = 60) -> Ended:
    """Run a script with its flags in `folder`, in the context that `within` makes; kill it after so many seconds."""
    process = processes.Process(target=_start_here, args=(words, folder, within))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return Ended(process.exitcode, *((folder / name).read_text(errors="replace") for name in ("out", "err")))


def _start_here(words: list[str], folder: Path, within: Callable) -> None:
    os.chdir(folder)
    for descriptor, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115, PTH123 - until the process ends
    with within():
        sys.exit(run_script(lambda: importlib.import_module(words[0]).main(words[1:])))


def make_small() -> None:
    """Few images in every set, for this process and its forks."""
    make_runs_small()
    with tempfile.TemporaryDirectory() as folder:  # the files are the same each time, and so are their checksums
        IMAGE_SETS.update(cifar10=make_cifar10(Path(folder)), mnist=make_mnist(Path(folder)))


make_small()


# -- the cases ---------------------------------------------------------------------------------------------------------


class Soak:
    """In `work`: data/, whole/ with the runs that nothing disturbed, case/ in which a case is tried, before/ with what
    it began with, and stopped/ and finished/, which are copied to be damaged."""

    def __init__(self, work: Path) -> None:
        self.work, self.whole, self.case, self.before = work, work / "whole", work / "case", work / "before"
        self.count: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}  # that each run takes
        make_cifar10(work / "data")
        make_mnist(work / "data")
        self.whole.mkdir()
        for name, words in RUNS.items():
            began = time.perf_counter()
            ended = start(words, self.whole)
            assert ended.code == 0, ended.err
            self.seconds[name] = time.perf_counter() - began

    def kill(self, choose: random.Random) -> None:
        """A training that is killed once or more, each time at a random instant, then left to end."""
        name = choose.choice(list(RUNS))
        saved = 0  # epochs of which the run has said that they have ended
        for _ in range(choose.choice((1, 1, 2, 3))):
            shutil.copytree(self.case, self.before, dirs_exist_ok=True)
            ended = start([*RUNS[name], "--resume"], self.case, seconds=choose.uniform(0, self.seconds[name]))
            if ended.code == 0:
                self.count["runs that ended before their kill"] += 1
                break
            assert ended.code == -signal.SIGKILL, ended
            self.count["kills"] += 1
            self.count[f"kills after epoch {last_epoch(ended.out)}"] += 1
            saved = max(saved, last_epoch(ended.out))
        self.resume(name, saved)

    def resume(self, name: str, saved: int) -> None:
        """Continue a run to its end: it has lost no epoch that was saved, and equals the one that nothing disturbed."""
        replace_folder(self.before, self.case)
        ended = start([*RUNS[name], "--resume"], self.case)
        assert ended.code == 0 and not ended.err, ended
        found = re.search(r"continuing after epoch (\d+)", ended.out)
        lost = saved - (int(found[1]) if found else 3 if "is complete" in ended.out else 0)
        assert lost <= 0, f"{lost} epochs lost: {ended}"
        run, whole = only_run(self.case, name), only_run(self.whole, name)
        assert_same_run(run, whole)
        assert config_of(run) == config_of(whole)
        for snapshot in whole.glob("snapshots/*"):
            ours, other = (torch.load(folder / "snapshots" / snapshot.name) for folder in (run, whole))
            assert same_bits(ours["weights"], other["weights"])
        self.count["resumed runs compared"] += 1

    def try_case(self, number: int) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.rmtree(self.before, ignore_errors=True)
        self.case.mkdir()
        self.kill(random.Random(f"{SEED} {number}"))


def only_run(folder: Path, name: str) -> Path:
    (config,) = folder.glob(f"runs/*/{name}/config.json")
    return config.parent


def config_of(run: Path) -> dict:
    """config.json without the seconds."""
    config = json.loads((run / "config.json").read_text()) | {"wall_seconds": 0}
    del config["flags"]["resume"]
    return config


def last_epoch(out: str) -> int:
    """The last epoch that a training has printed, 0 for none."""
    return max(map(int, re.findall(r"^epoch (\d+)/", out, re.MULTILINE)), default=0)


def replace_folder(folder: Path, source: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)


def main() -> int:
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    soak, began, told = Soak(work), time.monotonic(), 0
    failures = 0
    for number in [int(ONLY)] if ONLY else itertools.count():
        minutes = (time.monotonic() - began) / 60
        if minutes >= MINUTES:
            break
        try:
            soak.try_case(number)
        except Exception as error:
            failures += 1
            traceback.print_exc()
    print(soak.count, failures)
    return failures > 0

if __name__ == "__main__":
    sys.exit(main())
