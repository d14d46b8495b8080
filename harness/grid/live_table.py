"""What the terminal shows while runs train: a table that is redrawn in place below lines that stay, and the time left.

Where standard output is no terminal there is no table, only the lines.
"""

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from tqdm.utils import disp_len, disp_trim

from harness.grid.local import Job
from harness.metrics import aligned
from harness.progress import clock

_WIDEST_NAME = 22  # columns; the numbers take 57 of a line's 79
_OF_THE_SPEED = ("cell", "hidden_size", "channels", "augment", "batch_size", "data")  # flags an epoch's time depends on


class LiveTable:
    """Lines at the bottom of the terminal, redrawn in place; `log` prints a line above them that stays."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._drawn = 0  # lines of the table that stand on the terminal
        if self.live and os.name == "nt":
            os.system("")  # lets an older Windows console understand the codes below

    def log(self, text: str) -> None:
        """Print a line that stays; the table is back with the next `draw`."""
        print(f"{self._erasure()}{text}", flush=True)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the last ones, cut to the terminal: a wrapped line could not be erased."""
        if not self.live:
            return
        width, height = shutil.get_terminal_size()
        lines = [*lines[:-1][: max(0, height - 3)], *lines[-1:]]  # the last one always stays in sight
        text = "".join(f"{disp_trim(line, width - 1)}\n" for line in lines)
        print(f"{self._erasure()}{text}", end="", flush=True)
        self._drawn = len(lines)

    def _erasure(self) -> str:
        """What moves the cursor to the table's first line and clears everything from there."""
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}A\x1b[J" if drawn else ""


def table_lines(running: Sequence[Job], waiting: Sequence[Job], ended: Sequence[Job], slots: int) -> list[str]:
    """A line for each run under way (or waiting for another process), and a footer."""
    jobs = [*running, *waiting, *ended]
    paces = _paces(jobs)
    names = {name: disp_trim(name, _WIDEST_NAME) for name in {job.row.name for job in jobs}}
    width = max(map(disp_len, names.values()))
    lines = [f"{'':{width}}  seed      epoch  test loss  accuracy  s/epoch      left"]
    for job in [*running, *(waiting if len(running) < slots else [])]:
        name, epochs = names[job.row.name], f"{len(job.history)}/{job.epochs}"
        if not job.process:
            rest = "waiting: another process is training it"
        elif not job.process.started:
            rest = "waiting for a free node"
        else:
            rest = f"{'–':>9}  {'–':>8}  {'–':>7}"
            if job.history:
                last = job.history[-1]
                rest = f"{aligned(last.test_loss, 9)}  {last.test_accuracy:8.4f}  {aligned(last.seconds, 7, '.1f')}"
            left = _seconds_left(job, paces)
            rest += f"  {'?' if left is None else clock(left):>8}"
        lines.append(f"{name}{'':{width - disp_len(name)}}  {job.seed:4}  {epochs:>9}  {rest}")
    failed = sum(bool(job.ended.failure) for job in ended)
    footer = f"{len(ended)} of {len(jobs)} runs done" + (f" ({failed} failed)" if failed else "")
    return [*lines, f"{footer}; {time_left(running, waiting, ended, slots)}" if running or waiting else footer]


def time_left(running: Sequence[Job], waiting: Sequence[Job], ended: Sequence[Job], slots: int) -> str:
    """What all that is left takes, by the measured seconds of each kind of run's epochs and of the scripts' rest."""
    paces = _paces([*running, *waiting, *ended])
    overhead = fmean(job.overhead for job in ended) if ended else 0.0
    left = [(_seconds_left(job, paces), 0.0 if job.process else overhead) for job in (*running, *waiting)]
    known = [training + more for training, more in left if training is not None]
    if not known:
        return "time left not known before an epoch is measured"
    # The runs are dealt out as they come, so no slot is idle for long before the end.
    total = clock(max([*known, sum(known) / slots]))
    unmeasured = len(left) - len(known)
    return f"about {total} left" + (f", without {unmeasured} of a kind not measured yet" if unmeasured else "")


def _seconds_left(job: Job, paces: dict[tuple, float]) -> float | None:
    """The seconds that a run still needs, by its own epochs or else those of runs of its kind; None without any."""
    pace = fmean(metrics.seconds for metrics in job.history) if job.history else paces.get(_kind(job))
    if pace is None:
        return None
    spent = min(time.monotonic() - job.epoch_began, pace) if job.process else 0.0
    return max(0.0, (job.epochs - len(job.history)) * pace - spent)


def _paces(jobs: Iterable[Job]) -> dict[tuple, float]:
    """The mean seconds of an epoch for each kind of run that has any; in one pass, for there may be 10,000 jobs."""
    seconds = defaultdict(list)
    for job in jobs:
        seconds[_kind(job)] += [metrics.seconds for metrics in job.history]
    return {kind: fmean(values) for kind, values in seconds.items() if values}


def _kind(job: Job) -> tuple:
    """Runs of one kind need about the same time for an epoch."""
    return job.row.script, *(job.flags.get(name) for name in _OF_THE_SPEED)
