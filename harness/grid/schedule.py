"""What is to be trained and in which order, and the loop that does it: several runs side by side, the longest first.

`plan_jobs` says what, `train_jobs` trains it by an engine: local.ThisMachine or ray_cluster.Cluster. All that passes
between this process and the scripts is flags, exit codes and run folders: progress is read from metrics.csv.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import EXIT_DIVERGED, UserError
from harness.files import is_locked
from harness.flags import run_name
from harness.grid.live_table import LiveTable, duration, table_lines
from harness.grid.local import Ended, Settings, file_state
from harness.grid.rows import Parsers, Row, experiment_of, wanted_flags
from harness.grid.runs import FINISHED, RowRuns
from harness.metrics import EpochMetrics, read_metrics

if TYPE_CHECKING:  # Ray need not be installed
    from harness.grid.local import ScriptProcess, ThisMachine
    from harness.grid.ray_cluster import Cluster, Task

    Engine = ThisMachine | Cluster  # starts scripts, `slots` side by side
    Process = ScriptProcess | Task  # a script under way; not `started` while it waits for a free node

POLL = 0.5  # seconds between two looks at the run folders
_MOST_LOSSES = 3  # of nodes at one and the same epoch, before the run itself is to blame
_TIME_TO_STOP = 30  # seconds for a script to write what it has; its folder survives a kill as well


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
    ended: Ended | None = None
    began: float = 0.0  # when the script was started, on the monotonic clock,
    epoch_began: float = 0.0  # … and its epoch under way
    epochs_before: int = 0  # when the script was started
    overhead: float | None = None  # seconds that the script, which has ended, took for other things than its epochs
    losses: list[int] = field(default_factory=list)  # for each node lost, the epochs that there were
    _read: tuple | None = None  # the state of metrics.csv that `history` was read from

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
        # An earlier process's epochs count only once the script has begun and written metrics.csv itself.
        self._read = file_state(self.folder / "metrics.csv")
        self.epochs_before = len(self._metrics()) if self.resumes else 0
        self.began = self.epoch_began = time.monotonic()
        self.process = engine.start(self)

    def new_epochs(self) -> list[EpochMetrics]:
        """The epochs finished since the last call, as metrics.csv has them."""
        state = file_state(self.folder / "metrics.csv")
        if state == self._read:
            return []
        before, self._read = len(self.history), state
        self.history = self._metrics()
        if len(self.history) > before:
            self.epoch_began = time.monotonic()
        return self.history[before:]

    def end(self, ended: Ended) -> None:
        self.ended = ended
        if not ended.failure:
            self.history = self._metrics()  # with what another process had written before
            trained = sum(metrics.seconds for metrics in self.history[self.epochs_before :])
            self.overhead = max(0.0, time.monotonic() - self.began - trained)

    def _metrics(self) -> list[EpochMetrics]:
        """The epochs in metrics.csv; those known so far if it is missing or damaged, which the script sees to."""
        try:
            return read_metrics(self.folder / "metrics.csv")
        except UserError:
            return self.history


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
            run = result.runs.get(seed)
            if run and run.status in FINISHED:
                continue
            flags = wanted_flags(row, parsers, seed=seed, precision=settings.precision, data=settings.data)
            usual = run_name(argparse.Namespace(**flags, parser=parsers[row.script]))
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
    while free in taken or any((free / file).exists() for file in ("config.json", "last.pt")):
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free


def train_jobs(jobs: Sequence[Job], engine: "Engine") -> dict[tuple[str, int], str]:
    """Train all jobs, as many side by side as the engine has slots, and show how far they are.

    Returns a sentence for each run, by (row name, seed), whose script failed; the others go on meanwhile. A run whose
    folder another process trains in is waited for, one whose node was lost is continued. However this ends, no script
    of it runs on.
    """
    schedule = Schedule(jobs, engine)
    try:
        while schedule.waiting or schedule.running:
            for job in list(schedule.running):
                schedule.look_at(job)
            schedule.start_waiting()
            schedule.table.draw(table_lines(schedule.running, schedule.waiting, schedule.ended, schedule.slots))
            if schedule.waiting or schedule.running:
                time.sleep(POLL)
    finally:
        schedule.stop()
    return {(job.row.name, job.seed): job.ended.failure for job in schedule.ended if job.ended.failure}


class Schedule:
    """Which jobs wait, which run and which have ended; each is in one of the three lists."""

    def __init__(self, jobs: Sequence[Job], engine: "Engine") -> None:
        self.engine, self.table = engine, LiveTable()
        self.slots = engine.slots
        self.waiting, self.running, self.ended = list(jobs), [], []
        self._said_to_wait: set[Path] = set()

    def look_at(self, job: Job) -> None:
        """Show the epochs that a running job has finished since the last look; if its script has ended, see to that."""
        ended = job.process.poll()  # asked first, so that the last epoch is seen below
        if not job.process.started:
            job.began = time.monotonic()
        for metrics in job.new_epochs():
            if not self.table.live:
                self.table.log(f"{job.title}: {_epoch_line(job, metrics)}")
        if ended is None:
            return
        self.running.remove(job)
        if ended.folder_taken:
            self.waiting.append(job)
        elif ended.node_lost and self._may_go_on(job):
            self.table.log(f"{job.title}: {ended.failure} after epoch {len(job.history)}; to be continued on another")
            self.waiting.insert(0, job)
        else:
            self._end(job, ended)

    def start_waiting(self) -> None:
        """Start waiting jobs in the free slots; those whose folder another process trains in go on waiting."""
        self.slots = self.engine.slots  # a cluster may grow and shrink
        for job in list(self.waiting):
            if len(self.running) >= self.slots:
                return
            if is_locked(job.folder):
                if not self.table.live and job.folder not in self._said_to_wait:
                    self._said_to_wait.add(job.folder)
                    self.table.log(f"{job.title}: waiting: another process is training it")
                continue
            self.waiting.remove(job)
            try:
                job.start(self.engine)
                self.running.append(job)
            except (UserError, OSError) as error:  # OSError: no more processes, or no memory for one
                self._end(job, Ended(1, f"cannot start {job.row.script}.py: {error}"))

    def stop(self) -> None:
        """Stop what runs, all scripts at once, and wait until they have ended."""
        for job in self.running:
            job.process.stop()
        deadline = time.monotonic() + _TIME_TO_STOP
        for job in self.running:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        self.table.close()

    def _may_go_on(self, job: Job) -> bool:
        """Note that a job has lost its node; whether it is worth while to go on elsewhere."""
        job.losses.append(len(job.history))
        return job.losses.count(len(job.history)) < _MOST_LOSSES

    def _end(self, job: Job, ended: Ended) -> None:
        job.end(ended)
        self.ended.append(job)
        self.table.log(f"{job.title}: {f'failed: {ended.failure}' if ended.failure else _end_line(job)}")


def _epoch_line(job: Job, metrics: EpochMetrics) -> str:
    return (
        f"epoch {metrics.epoch:{len(str(job.epochs))}}/{job.epochs}   "
        f"test loss {metrics.test_loss:8.4f}  accuracy {metrics.test_accuracy:.4f}   {metrics.seconds:6.1f} s"
    )


def _end_line(job: Job) -> str:
    if job.ended.code == EXIT_DIVERGED:
        return f"diverged in epoch {len(job.history)}"
    if not job.history:
        return "done"
    last, epochs = job.history[-1], f"{len(job.history)} epoch{'s' * (len(job.history) != 1)}"
    seconds = duration(sum(metrics.seconds for metrics in job.history))
    return f"done, {epochs} in {seconds}, test loss {last.test_loss:.4f}, accuracy {last.test_accuracy:.4f}"
