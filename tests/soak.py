"""Trainings that are killed, damaged files and failed writes, for SOAK_MINUTES minutes: `make soak`.

A training that was killed, or whose disk failed, is resumed and must end with the bits of one that nothing disturbed. A
damaged file must be refused in one sentence, or change nothing. Every case is a fork of this process, which has
imported everything: starting PyTorch would take longer than all that a case does.

Cases are numbered, and all choices of one come from SOAK_SEED and its number; only the instant of a kill depends on the
machine's speed, too. A case that fails is printed with the command that repeats it, and with a copy of what lay on the
disk. docs/reliability.md says what was found; how files are damaged is in mutations.py, how a disk fails in
faulty_disk.py.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: what forks must have no other threads

import itertools
import json
import multiprocessing
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch._dynamo  # the optimizers import it
import torch.utils.tensorboard

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fake_sets import make_cifar, make_mnist
from killed_runs import assert_same_run, make_runs_small, same_bits
from mutations import ODD_VALUES, check_told, damaged_archive, damaged_bytes, damaged_table, damaged_value, outcome

import cnn_cifar10
import harness.report.charts  # what is imported here, no fork needs to import
import harness.train
import models  # noqa: F401
import report
import rnn_mnist
import visualize
from harness.cli import run_script
from harness.image_sets import IMAGE_SETS

MINUTES = float(os.environ.get("SOAK_MINUTES", 1))
SEED = int(os.environ.get("SOAK_SEED", 0))
ONLY = os.environ.get("SOAK_CASE")  # the number of a case to repeat

MAINS = {script.__name__: script.main for script in (cnn_cifar10, rnn_mnist, report, visualize)}
EPOCHS = 3
SMALL = f"--data-dir ../data --device cpu --threads 1 --epochs {EPOCHS} --batch-size 16".split()
NETWORKS = {"cnn": ["cnn_cifar10", "--augment", "--snapshot-epochs", "1,2"]}
NETWORKS |= {cell: ["rnn_mnist", "--hidden-size", "8", "--cell", cell] for cell in ("rnn", "lstm", "gru")}
RUNS = {  # the command of each run
    (name := f"{network}-{precision}"): [*words, *SMALL, "--precision", precision, "--name", name]
    for network, words in NETWORKS.items()
    for precision in ("fp32", "bf16")
}
GRID = """
[[row]]
name = "a-gru"
script = "rnn_mnist"
printed = {test_accuracy = 0.5}
flags = {cell = "gru", hidden_size = 8, epochs = 3, batch_size = 16}
[[row]]
name = "a-cnn"
script = "cnn_cifar10"
title = "a CNN"
flags = {epochs = 3, batch_size = 16, augment = true}
"""
REPORT = ["report", "--no-train", "--grid", "grid.toml", "--precision", "fp32"]
LOOK = ["visualize", "--data-dir", "../data", "--only", "filters,evolution"]

# Windows has no fork: there each case imports everything itself.
processes = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


class Ended(NamedTuple):
    code: int  # negative: the signal
    seconds: float
    out: str
    err: str


def fork(function: Callable, *arguments: object, folder: Path, seconds: float = 100) -> Ended:
    """Call a function in a process of its own, in a folder; kill the process after so many seconds."""
    for name in ("out", "err"):
        (folder / name).write_bytes(b"")  # its output
    process = processes.Process(target=_call, args=(function, arguments, folder))
    began = time.perf_counter()
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    took = time.perf_counter() - began
    return Ended(process.exitcode, took, *((folder / name).read_text(errors="replace") for name in ("out", "err")))


def _call(function: Callable, arguments: tuple, folder: Path) -> None:
    os.chdir(folder)
    for descriptor, name in enumerate(("out", "err"), start=1):
        os.dup2(os.open(name, os.O_WRONLY), descriptor)
    sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115 - until the process ends
    sys.exit(function(*arguments))


def script(words: list[str]) -> int:
    return run_script(lambda: MAINS[words[0]](words[1:]))


def stop_after_first_epoch(words: list[str]) -> None:
    harness.train.print_epoch = lambda *_: os._exit(1)
    script(words)


def make_sets(folder: Path) -> dict:
    """Write small image sets, the same files each time; returns their entries in the table."""
    return {"cifar10": make_cifar(folder, per_file=10), "mnist": make_mnist(folder)}


make_runs_small()
with tempfile.TemporaryDirectory() as folder:
    IMAGE_SETS.update(make_sets(Path(folder)))


class Soak:
    """Folders in `work`: data/; whole/, with the runs that nothing disturbed; stopped/, with the same after an epoch;
    finished/, with what a report is written from; case/, where a case is tried; before/, with what it began with."""

    def __init__(self, work: Path) -> None:
        self.work, self.whole, self.case, self.before = work, work / "whole", work / "case", work / "before"
        self.count: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}  # that each run takes
        make_sets(work / "data")
        for folder in (self.whole, work / "stopped"):
            folder.mkdir()
        for name, words in RUNS.items():
            fork(stop_after_first_epoch, words, folder=work / "stopped")
            self.seconds[name] = self.succeed(words, self.whole).seconds
        self.succeed([*LOOK, "runs/cnn_cifar10/cnn-fp32/best.pt"], self.whole)
        shutil.copytree(self.whole / "runs", work / "finished/runs", ignore=shutil.ignore_patterns("*.pt", "*-bf16"))
        (work / "finished/grid.toml").write_text(GRID)
        self.succeed(REPORT, work / "finished")

    def succeed(self, words: list[str], folder: Path) -> Ended:
        """Run a script that has nothing to complain of."""
        ended = fork(script, words, folder=folder)
        assert ended.code == 0 and not ended.err, ended
        return ended

    def try_case(self, number: int) -> None:
        for folder in (self.case, self.before):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        failing = number % 320 == 1 and sys.platform == "linux"
        kind = self.kill if number % 16 == 0 else self.fail if failing else self.damage
        kind(random.Random(f"{SEED} {number}"))

    def summary(self) -> str:
        return ", ".join(f"{self.count[what]:,} {what}" for what in ("kills", "damaged files", "failed writes"))

    # -- kills ---------------------------------------------------------------------------------------------------------

    def kill(self, choose: random.Random) -> None:
        """A training that is killed once or more, each time at a random instant, then left to end."""
        name = choose.choice(list(RUNS))
        command, saved = [*RUNS[name], "--resume"], 0  # epochs of which the run has said that they have ended
        for _ in range(choose.choice((1, 1, 2, 3))):
            instant = choose.triangular(0, self.seconds[name], self.seconds[name])  # late ones more often than early
            ended = fork(script, command, folder=self.case, seconds=instant)
            if ended.code == 0:
                self.count["runs that ended before their kill"] += 1
                self.seconds[name] = ended.seconds  # the machine has become quicker
                break
            assert ended.code < 0, ended
            saved = max(saved, *map(int, re.findall(r"^epoch (\d+)/", ended.out, re.MULTILINE)), 0)
            self.count["kills"] += 1
            self.count[f"kills after epoch {saved}"] += 1
        shutil.copytree(self.case, self.before, dirs_exist_ok=True)
        out = self.succeed(command, self.case).out
        found = re.search(r"continuing after epoch (\d+)", out)
        assert (int(found[1]) if found else EPOCHS * ("is complete" in out)) >= saved, f"epoch {saved} was lost: {out}"
        self.compare(name)
        self.count["killed runs that were compared"] += 1

    def compare(self, name: str) -> None:
        """The run in case/ is complete and equals the one that nothing disturbed."""
        run, whole = (path_of(folder, name) for folder in (self.case, self.whole))
        assert_same_run(run, whole)
        configs = [json.loads((each / "config.json").read_text()) | {"wall_seconds": 0} for each in (run, whole)]
        assert configs[0] == configs[1] | {"flags": configs[1]["flags"] | {"resume": True}}
        for each in whole.glob("snapshots/*"):
            ours, other = (torch.load(folder / "snapshots" / each.name, weights_only=True) for folder in (run, whole))
            assert same_bits(ours["weights"], other["weights"])

    # -- damaged files -------------------------------------------------------------------------------------------------

    def damage(self, choose: random.Random) -> None:
        """A file of any kind is damaged, and whatever reads it is run."""
        tries = [self.resume_damaged] * 20 + [self.report_damaged] * 6 + [self.load_damaged] * 3 + [self.look_damaged]
        attempt = choose.choice(tries)
        ended = fork(attempt, choose, folder=self.case)
        assert ended.code in (0, 1, 2, 3) and "Traceback" not in ended.err, f"{ended.code}: {ended.err}"
        assert not (self.case / "pwned").exists(), "foreign code was run"
        (file,) = self.before.iterdir()
        name = re.sub(r"^(events|epoch)\b.*", r"\1…", file.name)
        self.count["damaged files"] += 1
        self.count[f"{attempt.__name__}: {name}, exit code {ended.code}"] += 1

    def resume_damaged(self, choose: random.Random) -> int:
        """Any file of a run of which last.pt is all that is needed; the others are written again."""
        name = choose.choice([name for name in RUNS if choose.random() < 0.05 or not name.startswith("cnn")])
        run = self.copy("stopped", name)
        files = [file for file in sorted(run.iterdir()) if file.is_file() and file.name != ".lock"]
        file = choose.choice([*files, run / "last.pt", run / "last.pt"])
        strange = self.change(file, choose)
        code, _, err = outcome(lambda: MAINS[RUNS[name][0]]([*RUNS[name][1:], "--resume"]))
        if strange and code == 3:
            return code
        check_told(code, err)
        if code == 0 and not strange:
            self.compare(name)
        assert code == 0 or file.name == "last.pt", err
        return code

    def load_damaged(self, choose: random.Random) -> int:
        """A file of an image set. Each is checked before it is read."""
        shutil.copytree(self.work / "data", "data")
        name, images = choose.choice([("cnn-fp32", "cifar10"), ("gru-fp32", "mnist")])
        entry = IMAGE_SETS[images]
        file = Path("data") / entry.folder / choose.choice([*entry.train, *entry.test])
        whole = file.read_bytes()
        self.change(file, choose)
        code, _, err = outcome(lambda: MAINS[RUNS[name][0]]([*RUNS[name][1:], "--data-dir", "data", "--epochs", "1"]))
        check_told(code, err)
        assert code == 2 or file.read_bytes() == whole
        return code

    def report_damaged(self, choose: random.Random) -> int:
        """A grid, or a file of a run without checkpoints: such a run is left out."""
        shutil.copytree(self.work / "finished/runs", "runs")
        Path("grid.toml").write_text(GRID)
        files = [file for file in sorted(Path("runs").rglob("*.*")) if file.is_file() and file.name != ".lock"]
        file = choose.choice([Path("grid.toml"), Path("grid.toml"), *files])
        self.change(file, choose)
        code, _, err = outcome(lambda: report.main(REPORT[1:]))
        told = [line for line in err.splitlines() if not line.startswith(("note: ", "runs complete: ", "  "))]
        if code == 2 and file.name == "grid.toml":
            check_told(code, err)
        else:
            assert code in (0, 1) and not told and Path("runs/report/README.md").exists(), err
        return code

    def look_damaged(self, choose: random.Random) -> int:
        """A checkpoint or a snapshot that visualize.py reads."""
        run = self.copy("whole", "cnn-fp32")
        figures = shutil.move(run / "figures", "figures")
        strange = self.change(choose.choice([run / "best.pt", *sorted(run.glob("snapshots/*"))]), choose)
        code, _, err = outcome(lambda: visualize.main([*LOOK[1:], str(run / "best.pt")]))
        check_told(code, err)
        if code == 0 and not strange:
            for file in Path(figures).glob("*.csv"):
                if file.stem == "confusion":  # the training's
                    continue
                assert (run / "figures" / file.name).read_bytes() == file.read_bytes(), file.name
        return code

    def copy(self, folder: str, name: str) -> Path:
        run = path_of(self.work / folder, name)
        return shutil.copytree(run, self.case / run.relative_to(self.work / folder))

    def change(self, file: Path, choose: random.Random) -> bool:
        """Damage a file, and keep a copy in before/. True if it is whole all the same, with other contents."""
        content, kind = file.read_bytes(), choose.randrange(4)
        strange = file.suffix == ".pt" and kind >= 2
        if strange:
            odd = (Pwned(),) if kind == 3 else ODD_VALUES
            torch.save(damaged_value(torch.load(file, weights_only=True), choose, odd), file)
        elif file.suffix == ".pt" and kind == 1:
            file.write_bytes(damaged_archive(content, choose))
        elif file.suffix == ".json" and kind:
            file.write_text(json.dumps(damaged_value(json.loads(content), choose)))
        elif file.suffix in (".csv", ".toml") and kind:
            file.write_text(damaged_table(content.decode(), choose), errors="surrogateescape")
        else:
            file.write_bytes(damaged_bytes(content, choose))
        if file.name.startswith("events"):
            strange = file.read_bytes().startswith(content)  # a whole record twice is no damage
        shutil.copy(file, self.before)
        return strange

    # -- failed writes -------------------------------------------------------------------------------------------------

    def fail(self, choose: random.Random) -> None:
        """Each call in turn that changes a file of a training fails, with one of the errors that it may meet."""
        ended = fork(fail_each, choose, folder=self.case, seconds=300)
        self.count["failed writes"] += len(ended.out.splitlines())
        assert ended.code == 0, ended.err


def fail_each(choose: random.Random) -> None:
    from faulty_disk import KINDS, PASSING, Training  # which is for Linux

    words = ("--data=mnist", "--data-dir=../data", "--hidden-size=8", "--batch-size=16", "--threads=1")
    training, way = Training(rnn_mnist.main, words, Path.cwd()), choose.choice(Training.WAYS)
    for kind, number in training.faults(way):
        error = choose.choice(KINDS[kind])
        print(way, error, training.check_fault(way, number, error, lasting=error not in PASSING), flush=True)


class Pwned:
    """Pickled as a call that makes a folder of this name."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("pwned",)

    def __deepcopy__(self, _: dict) -> "Pwned":
        return self


def path_of(folder: Path, name: str) -> Path:
    (last,) = folder.glob(f"runs/*/{name}/last.pt")
    return last.parent


def main() -> int:
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    kept = work.with_name(f"{work.name}-failures")
    soak, began, minute, failures = Soak(work), time.monotonic(), 1, 0
    print(f"{len(RUNS)} runs to compare with are made, in {work}; seed {SEED}", flush=True)
    for number in [int(ONLY)] if ONLY else itertools.count():
        minutes = (time.monotonic() - began) / 60
        if minutes >= MINUTES and not ONLY:
            break
        if minutes >= minute:
            print(f"minute {minute}: {soak.summary()}, {failures} failures", flush=True)
            minute = int(minutes) + 1
        try:
            soak.try_case(number)
        except Exception:
            failures += 1
            reason, place = traceback.format_exc(), kept / str(number)
            shutil.copytree(soak.before, place / "before")
            shutil.copytree(soak.case, place / "case")
            (place / "reason").write_text(reason)
            print(f"FAILED: SOAK_SEED={SEED} SOAK_CASE={number} make soak (files and reason: {place})")
            print("    " + "\n    ".join([line[:300] for line in reason.splitlines() if line][-4:]), flush=True)
    for what, count in sorted(soak.count.items()):
        print(f"{count:9,} {what}")
    print(f"{soak.summary()} in {minutes:.0f} minutes, seed {SEED}: {failures} failures")
    shutil.rmtree(work)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
