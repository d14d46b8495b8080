"""A training script as a process of its own, and how many cores there are for such processes.

Of this project it needs only constants, because ray_node.py takes the class along to machines without it.
"""

import contextlib
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
