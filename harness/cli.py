"""How a script starts and ends, and how it writes the commands that it prints.

Every script of the project runs its `main` through `run_script`: what the user can mend is one sentence on standard
error and exit code 2, an interruption is 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP), and a bug keeps its traceback.
Which errors there are is in errors.py.
"""

import _thread
import atexit
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from harness import errors
from harness.ranks import is_main, is_rank, prepare_process


def run_script(main: Callable[[], int]) -> int:
    """Run a script's `main` and return its exit code: 2 after a UserError, 130, 143 or 129 after an interruption.

    The process may be a notebook's, which goes on afterwards: signal handlers and standard streams are left as they
    were found. Only a rank of torchrun's may end here.
    """
    prepare_process()
    with _interruptible(), _lasting("stdout"), _lasting("stderr"):
        if os.environ.pop(errors.STOP_WITH_STDIN, None):
            _stop_with_stdin()
        try:
            with errors.catch_out_of_memory():
                code = main()
        except errors.UserError as error:
            every_flag = " (--help lists every flag)" * isinstance(error, errors.FlagError)
            print(f"error: {error}{every_flag}", file=sys.stderr, flush=True)
            return errors.EXIT_BAD_INPUT
        except errors.Interrupted as interruption:
            print(f"\n{errors.one_line(interruption.message)}", file=sys.stderr)  # the terminal shows ^C
            atexit.register(errors.ignore_interruptions)  # a second one must not break into Python's own end
            code = 128 + interruption.signum
        if is_rank():
            sys.stdout.flush()
            os._exit(code)  # threads of PyTorch's that served its group may be alive; they abort Python's own end
        return code


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have what stops a script raise an Interrupted in this block, or just end a rank that writes nothing."""

    def interrupt(signum: int, frame: object) -> None:
        errors.ignore_interruptions()
        raise errors.Interrupted(signum)

    before = {each: signal.getsignal(each) for each in errors.INTERRUPTIONS}
    # The system's own way ends a process even while PyTorch waits for another rank.
    errors.handle_interruptions(interrupt if is_main() else signal.SIG_DFL)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)  # None: it was none of Python's


@contextlib.contextmanager
def _lasting(name: str) -> Iterator[None]:
    """Put an _Output before the standard stream sys.`name`. It is None if it was closed before Python began."""
    stream = getattr(sys, name)
    output = _Output(stream or open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until the process ends
    setattr(sys, name, output)
    try:
        yield
    finally:
        output.flush()
        if not output.lost:  # else it stays: Python's own end would fail to write to the stream
            setattr(sys, name, stream)


class _Output:
    """A standard stream that drops what cannot be written, as its terminal is closed, its reader gone or its disk full.

    What the training keeps is in files, so nobody's listening is no reason to stop. `lost` says whether it was so last.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.lost = stream, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"  # a path need not be text that the terminal can show
        self._attempt(self._stream.write, text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable, *given: str) -> None:
        self.lost = True
        with contextlib.suppress(OSError):
            action(*given)
            self.lost = False


def _stop_with_stdin() -> None:
    """Let the end of standard input be a SIGTERM; see STOP_WITH_STDIN."""
    stdin = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what this script starts (git) must not read from it

    def wait() -> None:
        while os.read(stdin, 1024):
            pass
        _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


# -- the commands that a script prints ---------------------------------------------------------------------------------


def command_line(words: Sequence[str], *, windows: bool = os.name == "nt") -> str:
    """The words as they are typed, quoted for this system's shell: on Windows cmd.exe knows double quotes only."""
    return subprocess.list2cmdline(words) if windows else shlex.join(words)


def typed_path(path: Path | str) -> str:
    """A path as a word of a command line, where one that begins with a dash would be taken for a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def program(name: str) -> str:
    """How a program of this Python's environment is typed: its path, if another environment is active or none is."""
    python, found, here = Path(sys.executable), shutil.which(name), Path.cwd()
    ours = python if name == "python" else python.parent / (f"{name}.exe" if os.name == "nt" else name)
    if not ours.exists() or (found and Path(found).parent.samefile(ours.parent) and Path(found).samefile(ours)):
        return name
    return str(ours.relative_to(here) if here in ours.parents[1:] else ours)  # a bare name would be looked for in PATH
