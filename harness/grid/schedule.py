"""Trains what a grid lacks: every run as a process of its own script, several side by side, the longest first.

`plan_jobs` says what is to be trained, `train_jobs` trains it: on `ThisMachine`, or on the cluster of ray_engine.py.
All that passes between this process and the scripts is flags, exit codes and run folders: progress is read from
metrics.csv. No script outlives this process, even if that is killed (process.py).
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tqdm.utils import disp_len, disp_trim

from harness.device import cores
from harness.errors import EXIT_DIVERGED, UserError
from harness.files import FolderLock
from harness.flags import run_name
from harness.grid.local import ScriptProcess
from harness.grid.rows import Parsers, Row, experiment_of, flag_words, wanted_flags
from harness.grid.runs import FINISHED, RowRuns
from harness.metrics import EpochMetrics, read_metrics
from harness.progress import LiveTable, duration
from harness.run import LOCKED

POLL = 0.5  # seconds between two looks at the run folders
LOST = "its node was lost"  # so begins the failure of a script that can be continued on another node of a cluster
_MOST_LOSSES = 3  # at one and the same epoch, before the run itself is to blame
_WIDEST_NAME, _NARROWEST_NAME = 30, 8  # columns of the table
_TIME_TO_STOP = 30  # seconds for a script to write what it has; its folder survives a kill as well
_OF_THE_SPEED = ("cell", "hidden_size", "channels", "augment", "batch_size", "data")  # flags an epoch's time depends on


@dataclass(frozen=True)
class Settings:
    """What all runs have in common; `data` is what --data says, None the scripts' default; `scripts` their folder."""

    scripts: Path
    runs_dir: Path
    data_dir: Path
    precision: str
    data: str | None = None
    device: str = "auto"
    compile: bool = False
    jobs: int | None = None  # None: one a core


@dataclass
class Job:
    """A run to train. `history` holds the epochs that it has so far."""

    row: Row
    seed: int
    flags: dict  # all that change the result
    folder: Path
    name: str | None  # --name, where the folder is not called as the flags would have it
    history: list[EpochMetrics] = field(default_factory=list)
    process: "Process | None" = None
    began: float = 0.0  # when the script was started, on the monotonic clock; and its epoch under way
    epoch_began: float = 0.0
    had: int = 0  # epochs when the script was started
    beside: float | None = None  # seconds that the script, which has ended, took beside its epochs
    losses: list[int] = field(default_factory=list)  # for each node lost, the epochs that there were
    _seen: tuple | None = None  # the state of metrics.csv that `history` was read from

    @property
    def epochs(self) -> int:
        return self.flags["epochs"]

    @property
    def title(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return (self.folder / "last.pt").exists()

    def start(self, engine: "Engine") -> None:
        """Start the script. UserError if the system does not let us."""
        self._seen, self.had = self._signature(), len(self._history_now()) if self.resumes else 0
        self.began = self.epoch_began = time.monotonic()
        try:
            self.process = engine.start(self)
        except OSError as error:
            raise UserError(f"cannot start {self.row.script}.py: {error.strerror}") from error

    def new_epochs(self) -> list[EpochMetrics]:
        """The epochs finished since the last call, as metrics.csv has them."""
        signature = self._signature()
        if signature == self._seen:  # so an earlier process's epochs count only once the script has taken them up
            return []
        try:
            history = read_metrics(self.folder / "metrics.csv")
        except UserError:
            return []
        before = len(self.history)
        self.history, self._seen = history, signature
        if len(history) > before:
            self.epoch_began = time.monotonic()
        return history[before:]

    def end(self) -> None:
        """Once the script has ended well: take up all of metrics.csv, also what another process had written before."""
        self.history = self._history_now()
        trained = sum(metrics.seconds for metrics in self.history[self.had :])
        self.beside = max(0.0, time.monotonic() - self.began - trained)

    def lose_node(self) -> bool:
        """Note that the script was lost with its node; whether it is worth while to go on elsewhere."""
        self.losses.append(len(self.history))
        return self.losses.count(len(self.history)) < _MOST_LOSSES

    def _history_now(self) -> list[EpochMetrics]:
        try:
            return read_metrics(self.folder / "metrics.csv")
        except UserError:
            return self.history

    def _signature(self) -> tuple | None:
        try:
            stat = (self.folder / "metrics.csv").stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size


class Process(Protocol):
    """A script under way, here (ScriptProcess) or on a cluster."""

    started: bool  # False while it waits for a free node
    returncode: int | None

    def poll(self) -> int | None: ...

    def stop(self) -> None: ...

    def wait(self, seconds: float) -> None: ...

    def failure(self) -> str: ...


class Engine(Protocol):
    """What starts scripts, `slots` side by side."""

    slots: int

    def start(self, job: Job) -> Process: ...


class ThisMachine:
    """Starts the scripts of `count` jobs as processes that share the cores, as many side by side as settings say."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.settings = settings
        self.slots = max(1, min(settings.jobs or cores(), count))
        self.threads = max(1, cores() // self.slots)

    def start(self, job: Job) -> ScriptProcess:
        return ScriptProcess(command(job, self.settings, self.threads), self.threads)


def plan_jobs(results: Iterable[RowRuns], parsers: Parsers, settings: Settings) -> list[Job]:
    """What is to be trained: each wanted run that is neither complete nor diverged; the longest first.

    An unfinished run is continued in its folder, whatever that is called. A new one gets the folder that its flags
    name, or another name beside it if a run of other settings lies there.
    """
    jobs: list[Job] = []
    taken: set[Path] = set()
    for result in results:
        row = result.row
        experiment = settings.runs_dir / experiment_of(row, parsers, settings.data)
        for seed in result.seeds:
            flags = wanted_flags(row, parsers, seed=seed, precision=settings.precision, data=settings.data)
            usual = run_name(argparse.Namespace(**flags, parser=parsers[row.script]))
            run = result.runs.get(seed)
            if run and run.status in FINISHED:
                continue
            folder = run.path if run else _free_folder(experiment / usual, taken)
            taken.add(folder)
            job = Job(row, seed, flags, folder, None if folder.name == usual else folder.name)
            if run and job.resumes:
                job.history = list(run.history)
            jobs.append(job)
    return sorted(jobs, key=_length, reverse=True)


def _length(job: Job) -> tuple[bool, int]:
    """What sorts runs by the time they are likely to take, so that late starters are short ones.

    A convolutional network's epoch takes longer than a recurrent one's; among these, gates and hidden units count.
    """
    gates = {"lstm": 4, "gru": 4}.get(job.flags.get("cell"), 1)  # a GRU has three, and takes as long
    return job.row.script == "cnn_cifar10", (job.epochs - len(job.history)) * gates * job.flags.get("hidden_size", 1)


def _free_folder(folder: Path, taken: set[Path]) -> Path:
    """The folder, or the first of `…-2`, `…-3`, … that neither holds a run nor is promised to another one."""
    number, free = 1, folder
    try:
        while free in taken or any((free / file).exists() for file in ("config.json", "last.pt")):
            number += 1
            free = folder.with_name(f"{folder.name}-{number}")
    except OSError as error:
        raise UserError(f"cannot look at {free}: {error.strerror}") from error
    return free


def command(job: Job, settings: Settings, threads: int) -> list[str]:
    """The script's command line.

    A run that has begun keeps what its folder records of --compile, and with a checkpoint, for the same bits, of
    --threads.
    """
    words = [sys.executable, str(settings.scripts / f"{job.row.script}.py"), *flag_words(job.row.flags)]
    common = {"seed": job.seed, "precision": job.flags["precision"]}
    common |= {"runs_dir": settings.runs_dir, "data_dir": settings.data_dir, "resume": True}
    if settings.data:
        common["data"] = settings.data
    if settings.device != "auto":
        common["device"] = settings.device
    if job.name:
        common["name"] = job.name
    if not job.resumes:
        common["threads"] = threads
    if not job.resumes and not (job.folder / "config.json").exists():
        common["compile"] = settings.compile
    return [*words, *flag_words(common)]


def train_jobs(jobs: Sequence[Job], engine: Engine) -> dict[tuple[str, int], str]:
    """Train all jobs, as many side by side as the engine has slots, and show how far they are.

    Returns a sentence for each run, by (row name, seed), whose script failed; the others go on meanwhile. A run whose
    folder another process trains in is waited for, one whose node was lost is continued. However this ends, no script
    of it runs on.
    """
    waiting, running, ended = list(jobs), [], []
    failures: dict[tuple[str, int], str] = {}
    told: set[Path] = set()  # folders that are waited for
    table = LiveTable()
    try:
        while waiting or running:
            slots = engine.slots  # a cluster may grow and shrink
            for job in list(running):
                has_ended = job.process.poll() is not None  # asked first, so that its last epoch is seen below
                if not job.process.started:
                    job.began = time.monotonic()
                _log_epochs(table, job)
                if not has_ended:
                    continue
                running.remove(job)
                failure = job.process.failure()
                if failure.startswith(LOCKED):
                    waiting.append(job)
                    continue
                if failure.startswith(LOST) and job.lose_node():
                    table.log(f"{job.title}: {failure} after epoch {len(job.history)}; to be continued on another")
                    waiting.insert(0, job)
                    continue
                ended.append(job)
                if failure:
                    failures[job.row.name, job.seed] = failure
                else:
                    job.end()
                table.log(f"{job.title}: {f'failed: {failure}' if failure else _end_of(job)}")
            while len(running) < slots and (job := next((job for job in waiting if not _in_use(job.folder)), None)):
                waiting.remove(job)
                try:
                    job.start(engine)
                    running.append(job)
                except UserError as error:
                    ended.append(job)
                    failures[job.row.name, job.seed] = str(error)
                    table.log(f"{job.title}: failed: {error}")
            for job in waiting if len(running) < slots and not table.live else ():
                if job.folder not in told:
                    told.add(job.folder)
                    table.log(f"{job.title}: waiting: another process is training it")
            table.draw(_table(running, waiting, ended, slots))
            time.sleep(POLL if running or waiting else 0)
    finally:
        for job in running:
            job.process.stop()
        deadline = time.monotonic() + _TIME_TO_STOP
        for job in running:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        table.close()
    return failures


def _in_use(folder: Path) -> bool:
    """Whether another process trains in the folder."""
    lock = FolderLock(folder / ".lock")
    if not lock.path.exists():
        return False
    try:
        with lock:
            return False
    except UserError as error:
        return not str(error)  # the refusal; a folder that cannot be written in is for the script to complain about


def _log_epochs(table: LiveTable, job: Job) -> None:
    """Take up what metrics.csv has of new; without a terminal, where no table is seen, one line an epoch."""
    for metrics in job.new_epochs():
        if not table.live:
            table.log(
                f"{job.title}: epoch {metrics.epoch:{len(str(job.epochs))}}/{job.epochs}   "
                f"test loss {metrics.test_loss:8.4f}  accuracy {metrics.test_accuracy:.4f}   {metrics.seconds:6.1f} s"
            )


def _end_of(job: Job) -> str:
    if job.process.returncode == EXIT_DIVERGED:
        return f"diverged in epoch {len(job.history)}"
    if not job.history:
        return "done"
    last = job.history[-1]
    seconds = duration(sum(metrics.seconds for metrics in job.history))
    return (
        f"done, {len(job.history)} epoch{'s' * (len(job.history) != 1)} in {seconds}, test loss {last.test_loss:.4f}, "
        f"accuracy {last.test_accuracy:.4f}"
    )


def _table(running: Sequence[Job], waiting: Sequence[Job], ended: Sequence[Job], slots: int) -> list[str]:
    """A line for each run under way (or waiting for another process), and a footer."""
    jobs = [*running, *waiting, *ended]
    paces = _paces(jobs)
    blocked = waiting if len(running) < slots else []
    digits = max([3, *(len(str(job.epochs)) for job in jobs)])
    room = shutil.get_terminal_size().columns - 1 - (48 + 2 * digits)  # beside the numbers
    widest = min(_WIDEST_NAME, max(_NARROWEST_NAME, room))
    names = {name: disp_trim(name, widest) for name in {job.row.name for job in jobs}}
    width = max(map(disp_len, names.values()), default=0)
    lines = [f"{'':{width}}  seed  {'epoch':>{2 * digits + 1}}  test loss  accuracy  s/epoch     left"]
    for job in [*running, *blocked]:
        name = names[job.row.name]
        line = f"{name}{'':{width - disp_len(name)}}  {job.seed:4}  {len(job.history):{digits}}/{job.epochs:<{digits}}"
        if job in blocked:
            lines.append(f"{line}  waiting: another process is training it")
            continue
        if job.process and not job.process.started:
            lines.append(f"{line}  waiting for a free node")
            continue
        if job.history:
            last = job.history[-1]
            line += f"  {last.test_loss:9.4f}  {last.test_accuracy:8.4f}  {last.seconds:7.1f}"
        else:
            line += f"  {'–':>9}  {'–':>8}  {'–':>7}"
        left = _seconds_left(job, paces, under_way=True)
        lines.append(f"{line}  {'?' if left is None else duration(left):>7}")
    failed = sum(job.process is None or job.process.returncode not in (0, EXIT_DIVERGED) for job in ended)
    done = f"{len(ended)} of {len(jobs)} runs done" + (f" ({failed} failed)" if failed else "")
    return [*lines, "; ".join([done, *([_time_left(running, waiting, ended, slots)] if running or waiting else [])])]


def _time_left(running: Sequence[Job], waiting: Sequence[Job], ended: Sequence[Job], slots: int) -> str:
    """What all that is left takes, from the measured seconds of an epoch of each kind of run, and of those beside."""
    paces = _paces([*running, *waiting, *ended])
    measured = [job.beside for job in ended if job.beside is not None]
    beside = sum(measured) / len(measured) if measured else 0.0
    left = [(_seconds_left(job, paces, under_way=True), 0.0) for job in running]
    left += [(_seconds_left(job, paces, under_way=False), beside) for job in waiting]
    known = [training + more for training, more in left if training is not None]
    if not known:
        return "time left not known before an epoch is measured"
    # The runs are dealt out as they come, so no slot is idle for long before the end.
    total = duration(max(*known, sum(known) / slots) if len(known) > 1 else known[0])
    unmeasured = len(left) - len(known)
    runs = f"{unmeasured} run{'s' * (unmeasured != 1)}"
    return f"about {total} left" + (f", and {runs} of a kind not measured yet" if unmeasured else "")


def _seconds_left(job: Job, paces: dict[tuple, float], *, under_way: bool) -> float | None:
    """The seconds that a run still needs, by its own epochs or else those of runs of its kind; None without any."""
    pace = _pace(job.history) if job.history else paces.get(_kind(job))
    if pace is None:
        return None
    spent = min(time.monotonic() - job.epoch_began, pace) if under_way else 0.0
    return max(0.0, (job.epochs - len(job.history)) * pace - spent)


def _paces(jobs: Iterable[Job]) -> dict[tuple, float]:
    """The mean seconds of an epoch for each kind of run that has any; in one pass, for there may be 10,000 jobs."""
    epochs: dict[tuple, list[EpochMetrics]] = {}
    for job in jobs:
        if job.history:
            epochs.setdefault(_kind(job), []).extend(job.history)
    return {kind: _pace(history) for kind, history in epochs.items()}


def _pace(epochs: Sequence[EpochMetrics]) -> float:
    return sum(metrics.seconds for metrics in epochs) / len(epochs)


def _kind(job: Job) -> tuple:
    """Runs of one kind need about the same time for an epoch."""
    return job.row.script, *(job.flags.get(name) for name in _OF_THE_SPEED)
