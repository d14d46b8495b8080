"""A run to train, and its script as a process of this machine: its command line, how it is stopped, and how it ended.

No script outlives the process that started it, even if that is killed. A node of a Ray cluster starts its scripts in
the same way (ray_node.py), so nothing here imports PyTorch before it must.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import EXIT_BAD_INPUT, EXIT_DIVERGED, STOP_WITH_STDIN, UserError
from harness.files import is_locked
from harness.flags import flag_words
from harness.grid.rows import Row
from harness.metrics import EpochMetrics, read_metrics


@dataclass(frozen=True)
class Settings:
    """What all runs have in common; `scripts` is the folder of their scripts."""

    scripts: Path
    runs_dir: Path
    data_dir: Path
    device: str = "auto"
    compile: bool = False
    jobs: int | None = None  # None: one a core


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    code: int
    failure: str = ""  # why it failed, in one sentence; empty if it did not: a run may diverge
    folder_taken: bool = False  # another process trains in its folder: to be tried again later
    node_lost: bool = False  # it went down with its node of a cluster: to be continued on another


@dataclass
class Job:
    """A run to train. `history` holds the epochs that it has so far."""

    row: Row
    seed: int
    flags: dict  # all that change the result
    folder: Path
    name: str | None  # --name, where the folder is not called as the flags would have it
    history: list[EpochMetrics] = field(default_factory=list)
    process: "ScriptProcess | None" = None  # … or a task of Ray's, which has the same methods
    ended: Ended | None = None
    began: float = 0.0  # when the script was started, on the monotonic clock,
    epoch_began: float = 0.0  # … and its epoch under way
    epochs_before: int = 0  # … and how many there were then
    overhead: float = 0.0  # seconds that the script, which has ended, took for other things than its epochs
    losses: list[int] = field(default_factory=list)  # for each node lost, the epochs that there were
    _read: tuple | None = None  # the state of metrics.csv that `history` was read from

    @property
    def epochs(self) -> int:
        return self.flags["epochs"]

    @property
    def resumes(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return (self.folder / "last.pt").exists()

    def new_epochs(self) -> list[EpochMetrics]:
        """The epochs finished since the last call, as metrics.csv has them."""
        file, before = self.folder / "metrics.csv", len(self.history)
        if (state := file_state(file)) != self._read:
            self._read = state
            with contextlib.suppress(UserError):  # the script sees to a file that is damaged
                self.history = read_metrics(file)
        if len(self.history) > before:
            self.epoch_began = time.monotonic()
        return self.history[before:]


class ThisMachine:
    """Starts the scripts of `count` jobs as processes that share the cores, as many side by side as settings say."""

    def __init__(self, settings: Settings, count: int) -> None:
        from harness.device import cores

        self.settings = settings
        self.slots = max(1, min(settings.jobs or cores(), count))
        self.threads = max(1, cores() // self.slots)

    def start(self, job: Job) -> "ScriptProcess":
        return ScriptProcess(command(job, self.settings, self.threads), self.threads, job.folder)


def command(job: Job, settings: Settings, threads: int) -> list[str]:
    """The script's command line."""
    flags = job.flags | {"resume": True, "runs_dir": settings.runs_dir, "data_dir": settings.data_dir}
    if settings.device != "auto":
        flags["device"] = settings.device
    if job.name:
        flags["name"] = job.name
    # A run that has begun keeps what its folder records of --compile and, with a checkpoint, for the same bits, of
    # --threads.
    if not job.resumes:
        flags["threads"] = threads
        if not (job.folder / "config.json").exists():
            flags["compile"] = settings.compile
    return [sys.executable, str(settings.scripts / f"{job.row.script}.py"), *flag_words(flags)]


class ScriptProcess:
    """A script under way, which trains in the run folder `folder`. OSError if the system does not let us start it.

    It stops, as after Ctrl-C, when its standard input ends: when `stop` is called, or when our process dies.
    """

    started = True  # a task of Ray's may have to wait for that

    def __init__(self, words: list[str], threads: int, folder: Path) -> None:
        self._folder = folder
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), STOP_WITH_STDIN: "1"},
            # Ctrl-C reaches this process only, which then stops the scripts. The first is Unix's, the other Windows'.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    def poll(self) -> Ended | None:
        """How the script ended, once it has."""
        code = self._process.poll()
        if code is None:
            return None
        self.stop()  # closes our end of the pipe
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        return Ended(code, failure_of(code, errors), folder_taken=code == EXIT_BAD_INPUT and is_locked(self._folder))

    def stop(self) -> None:
        """Ask the script to stop; it keeps the epochs that it has."""
        self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for the script's end, and enforce it after `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def failure_of(code: int, errors: str) -> str:
    """Why a script failed: the last sentence of its standard error; empty if it did not fail."""
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("warning: ")]
    # A crash may end with the code of a run that diverged, too: it is that of C's abort() on Windows.
    if code == 0 or (code == EXIT_DIVERGED and any("diverged" in line for line in lines)):
        return ""
    if code < 0:
        why = ", perhaps because the memory ran out" if -code == signal.SIGKILL else ""
        return f"killed by signal {-code} ({signal.strsignal(-code)}{why})"
    return lines[-1].removeprefix("error: ") if lines else f"ended with exit code {code}"


def file_state(path: Path) -> tuple | None:
    """What changes when a file is written or replaced; None if there is none."""
    if not path.exists():
        return None
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
