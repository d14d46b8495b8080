"""A training script as a process of its own, and how many cores there are for such processes.

Of this project it needs only constants, because harness/ray_node.py takes the class along to machines without it.
"""

import contextlib
import math
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from harness.errors import EXIT_DIVERGED, STOP_WITH_STDIN


class ScriptProcess:
    """A script under way. It stops, as after Ctrl-C, when its standard input ends.

    So `stop` ends it in order, and it never outlives the process that started it, even if that is killed. It runs in
    `folder`, else where this process does. OSError if the system does not let us start it.
    """

    started = True  # a task of Ray's may have to wait for that

    def __init__(self, words: list[str], threads: int, folder: Path | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the script has ended
        alone = {"start_new_session": True}  # Ctrl-C reaches the starting process only, which then stops the scripts
        if os.name == "nt":
            alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), STOP_WITH_STDIN: "1"},
            **alone,
        )

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def poll(self) -> int | None:
        """The exit code, once the script has ended."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask the script to stop; it keeps the epochs that it has."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for the script's end, and enforce it after `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def failure(self) -> str:
        """Why the script, which has ended, failed: its last sentence on standard error; empty if it did not fail."""
        code = self.returncode
        with self._errors as file:
            file.seek(0)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("warning: ")]
        self.stop()  # closes our end of the pipe
        # A crash may end with this code, too: it is that of C's abort() on Windows.
        if code == 0 or (code == EXIT_DIVERGED and any("diverged" in line for line in lines)):
            return ""
        if code < 0:
            why = ", perhaps because the memory ran out" if -code == signal.SIGKILL else ""
            return f"killed by signal {-code} ({signal.strsignal(-code)}{why})"
        return lines[-1].removeprefix("error: ") if lines else f"ended with exit code {code}"


def cores() -> int:
    """How many CPU cores this process may use; at most as many, rounded up, as its container may keep busy."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        count = os.process_cpu_count() or 1
    else:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota_of_cores())))


def quota_of_cores(control_groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The cores' worth of time that Linux gives this process's control group, or one that it lies in, if limited.

    Read as the kernel's documentation has it: `cpu.max` ("quota period", or "max") of version 2, in each folder on the
    way to the group; two files in a container of version 1, with a quota of -1 for none.
    """
    quotas = [math.inf]
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((control_groups / f"cpu/cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        quotas += [quota / period] if quota > 0 else []
    with contextlib.suppress(OSError, StopIteration, UnicodeDecodeError):
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
        group = control_groups / path.strip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):
                quota, period = map(int, (folder / "cpu.max").read_text().split())
                quotas.append(quota / period)
    return min(quotas)
