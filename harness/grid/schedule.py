"""What is to be trained and in which order, and the loop that does it: several runs side by side, the longest first.

`plan_jobs` says what, `train_jobs` trains it by an engine: local.ThisMachine or ray_cluster.Cluster. All that passes
between this process and the scripts is flags, exit codes and run folders: progress is read from metrics.csv.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import EXIT_DIVERGED, UserError
from harness.files import is_locked
from harness.flags import run_name
from harness.grid.live_table import LiveTable, table_lines
from harness.grid.local import Ended, Job, Settings, ThisMachine
from harness.grid.rows import experiment_of, parser_of
from harness.grid.runs import FINISHED, RowRuns
from harness.progress import clock

POLL = 0.5  # seconds between two looks at the run folders
_MOST_LOSSES = 3  # of nodes at one and the same epoch, before the run itself is to blame
_TIME_TO_STOP = 30  # seconds for a script to write what it has; its folder survives a kill as well


def plan_jobs(results: Iterable[RowRuns], settings: Settings) -> list[Job]:
    """What is to be trained: each wanted run that is neither complete nor diverged; the longest first.

    An unfinished run is continued in its folder, whatever that is called. A new one gets the folder that its flags
    name, or the first of `…-2`, `…-3`, … if a run of other settings lies there.
    """
    jobs: dict[Path, Job] = {}
    for result in results:
        for seed in result.seeds:
            row, run = result.row, result.runs.get(seed)
            if run and run.status in FINISHED:
                continue
            flags = result.flags | {"seed": seed}
            usual = run_name(argparse.Namespace(**flags, parser=parser_of(row.script)))
            experiment = settings.runs_dir / experiment_of(row, flags)
            folder, number = run.path if run else experiment / usual, 1
            while not run and (folder in jobs or any((folder / file).exists() for file in ("config.json", "last.pt"))):
                number += 1
                folder = experiment / f"{usual}-{number}"
            job = jobs[folder] = Job(row, seed, flags, folder, None if folder.name == usual else folder.name)
            if run and job.resumes:
                job.history = list(run.history)
    return sorted(jobs.values(), key=_length, reverse=True)


def _length(job: Job) -> tuple[bool, int]:
    """What sorts runs by the time they are likely to take, so that late starters are short ones.

    A convolutional network's epoch takes longer than a recurrent one's; among these, gates and hidden units count.
    """
    gates = {"lstm": 4, "gru": 4}.get(job.flags.get("cell"), 1)  # a GRU has three, and takes as long
    return job.row.script == "cnn_cifar10", (job.epochs - len(job.history)) * gates * job.flags.get("hidden_size", 1)


def train_jobs(jobs: Sequence[Job], engine: ThisMachine) -> dict[tuple[str, int], str]:
    """Train all jobs by this engine, or a ray_cluster.Cluster, in as many slots as it has, and show how far they are.

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

    def __init__(self, jobs: Sequence[Job], engine: ThisMachine) -> None:
        self.engine, self.table, self.slots = engine, LiveTable(), engine.slots
        self.waiting, self.running, self.ended = list(jobs), [], []
        self._said_to_wait: set[Path] = set()

    def look_at(self, job: Job) -> None:
        """Show the epochs that a running job has finished since the last look; if its script has ended, see to that."""
        ended = job.process.poll()  # asked first, so that the last epoch is seen below
        if not job.process.started:
            job.began = job.epoch_began = time.monotonic()
        for metrics in job.new_epochs():
            if not self.table.live:
                epoch = f"epoch {metrics.epoch:{len(str(job.epochs))}}/{job.epochs}"
                values = f"test loss {metrics.test_loss:8.4f}  accuracy {metrics.test_accuracy:.4f}"
                self._log(job, f"{epoch}   {values}   {metrics.seconds:6.1f} s")
        if ended is None:
            return
        self.running.remove(job)
        job.process = None
        if ended.folder_taken:
            self.waiting.append(job)
        elif ended.node_lost and job.losses.count(len(job.history)) < _MOST_LOSSES - 1:
            job.losses.append(len(job.history))
            self._log(job, f"{ended.failure} after epoch {len(job.history)}; to be continued on another")
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
                    self._log(job, "waiting: another process is training it")
                continue
            self.waiting.remove(job)
            job.began = job.epoch_began = time.monotonic()
            job.epochs_before = len(job.history)
            try:
                job.process = self.engine.start(job)
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
        self.table.draw([])

    def _end(self, job: Job, ended: Ended) -> None:
        job.ended = ended
        self.ended.append(job)
        trained = sum(metrics.seconds for metrics in job.history[job.epochs_before :])
        job.overhead = max(0.0, time.monotonic() - job.began - trained)
        how = "done"
        if ended.failure:
            how = f"failed: {ended.failure}"
        elif ended.code == EXIT_DIVERGED:
            how = f"diverged in epoch {len(job.history)}"
        elif job.history:
            last, seconds = job.history[-1], clock(sum(metrics.seconds for metrics in job.history))
            values = f"test loss {last.test_loss:.4f}, accuracy {last.test_accuracy:.4f}"
            how = f"done: {last.epoch} epoch{'s' * (last.epoch > 1)} in {seconds}, {values}"
        self._log(job, how)

    def _log(self, job: Job, text: str) -> None:
        self.table.log(f"{job.row.name}, seed {job.seed}: {text}")
