"""How a script starts and ends, and how it writes the commands that it prints.

Every script of the project runs its `main` through `run_script`: what the user can mend is one sentence on standard
error and exit code 2, an interruption is 130 (Ctrl-C) or 143 (SIGTERM), and a bug keeps its traceback. Which errors
there are is in errors.py.
"""

import _thread
import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from harness import errors
from harness.ranks import is_rank, prepare_process


def run_script(main: Callable[[], int]) -> int:
    """Run a script's `main` and return its exit code, 2 after a UserError. An interruption ends the process here."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    for name in ("stdout", "stderr"):  # one is None if it was closed before Python began: nobody listens, that is all
        setattr(sys, name, getattr(sys, name) or open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until the process ends
    os.environ["MPLBACKEND"] = "agg"  # no window is opened; a notebook's own, which it hands down, may not be installed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text that the terminal can show
    stdout = sys.stdout
    sys.stdout = _Output(stdout)
    prepare_process()
    if os.environ.pop(errors.STOP_WITH_STDIN, None):
        _stop_with_stdin()
    try:
        with errors.catch_out_of_memory():
            code = main()
        sys.stdout.flush()
        if is_rank():
            os._exit(code)  # threads of PyTorch's that served its group may be alive; they abort Python's own end
        return code
    except errors.UserError as error:
        _print_error(f"error: {error}{' (--help lists every flag)' * isinstance(error, errors.FlagError)}")
        return errors.EXIT_BAD_INPUT
    # Both end the process at once: Python's own end would write to standard output again, and take PyTorch's threads
    # down in order, which can take seconds.
    except errors.OutputLost as error:
        _print_error(f"error: cannot write to standard output: {error}")
        os._exit(errors.EXIT_BAD_INPUT)
    except errors.Interrupted as interruption:
        _print_error(f"\n{interruption.message}")
        os._exit(128 + interruption.signum)
    finally:
        sys.stdout = stdout


def _interrupt(signum: int, frame: object) -> None:
    errors.ignore_interruptions()
    raise errors.Interrupted(signum)


def _print_error(sentence: str) -> None:
    with contextlib.suppress(OSError, errors.OutputLost):  # what has taken standard output may have taken this, too
        print(sentence, file=sys.stderr, flush=True)
        sys.stdout.flush()


def _stop_with_stdin() -> None:
    """Let the end of standard input be a SIGTERM; see STOP_WITH_STDIN."""
    stdin = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what this script starts (git) must not read from it

    def wait() -> None:
        while os.read(stdin, 1024):
            pass
        _thread.interrupt_main(signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class _Output:
    """Standard output whose failures are an OutputLost, so that they are taken for no other file's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        value = getattr(self._stream, name)
        if name not in ("write", "flush"):
            return value

        def attempt(*given: str) -> object:
            try:
                return value(*given)
            except OSError as error:
                raise errors.OutputLost(error.strerror) from error

        return attempt


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
