"""How a script runs and ends: one sentence and exit code 2 for what the user can mend, 130 or 143 for an interruption.

Every script of the project runs its `main` through `run_script`. A bug keeps its traceback.
"""

import _thread
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from harness.errors import (
    EXIT_BAD_INPUT,
    STOP_WITH_STDIN,
    Interrupted,
    OutputLost,
    UserError,
    ignore_interruptions,
    leave,
    memory_errors_told,
)
from harness.ranks import is_rank, prepare_process


class _Output:
    """Standard output whose failures are an OutputLost, which no other file's can be taken for."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputLost(error.strerror) from error

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputLost(error.strerror) from error

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _interrupt(signum: int, frame: object) -> None:
    ignore_interruptions()
    raise Interrupted(signum)


def run_script(main: Callable[[], int]) -> int:
    """Run a script's `main` and return its exit code, 2 after a UserError.

    An interruption ends the process here, with 130 after Ctrl-C and 143 after SIGTERM.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before Python began: nobody listens, which is no reason to stop
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - for the rest of the process
    os.environ["MPLBACKEND"] = "agg"  # no window is opened; a notebook's own, which it hands down, may not be installed
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be text that the terminal can show
    output = sys.stdout
    sys.stdout = _Output(output)
    prepare_process()
    if os.environ.pop(STOP_WITH_STDIN, None):
        stdin = os.dup(0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what this script starts (git) has no business with it
        threading.Thread(target=_stop_at_end_of, args=(stdin,), daemon=True).start()
    try:
        with memory_errors_told():
            code = main()
        sys.stdout.flush()
        if is_rank():
            leave(code)  # threads of PyTorch's that served its group may be alive, and would abort Python's own end
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except OutputLost as error:
        with contextlib.suppress(OSError):
            print(f"error: cannot write to standard output: {error}", file=sys.stderr)
        leave(EXIT_BAD_INPUT)  # Python's own end would try again
    except Interrupted as interruption:
        print(f"\n{interruption.message}", file=sys.stderr)
        leave(128 + interruption.signum)
    finally:
        if isinstance(sys.stdout, _Output):
            sys.stdout = output


def _stop_at_end_of(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 1024):
            pass
    _thread.interrupt_main(signal.SIGTERM)
