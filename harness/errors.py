"""How a script ends: one sentence and exit code 2 for what the user can mend, 130 or 143 for an interruption.

Every script of the project runs its `main` through `run_script`. A bug keeps its traceback.
"""

import _thread
import contextlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn, TextIO

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3

# A script that finds this environment variable set stops, as at a SIGTERM, when its standard input ends: so a process
# that starts scripts can stop them on every system, and they stop too when it dies, however it died.
STOP_WITH_STDIN = "HARNESS_STOP_WITH_STDIN"


class UserError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do."""


_MEMORY_IS_SHORT = re.compile("out of memory|can't allocate memory|not enough memory")  # CUDA and MPS; Unix; Windows


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is one of the errors by which Python, NumPy and PyTorch say that no memory is left."""
    told = isinstance(error, RuntimeError) and _MEMORY_IS_SHORT.search(str(error))
    return isinstance(error, MemoryError) or bool(told)


@contextlib.contextmanager
def memory_errors_told(advice: str = "") -> Iterator[None]:
    """Turn an error for want of memory into a UserError, whose sentence ends with the advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"there is not enough memory for this{advice}") from error


class OutputLost(Exception):
    """Standard output takes no more: its reader is gone or its disk full. The message says why."""


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


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. `signum` is the signal; a shell sees exit code 128 + signum.

    `message` is for the user; whoever knows how the work can be continued replaces it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.message = "interrupted"


def ignore_interruptions() -> None:
    """From now on let SIGINT and SIGTERM pass: one is enough, and a second must not break into the tidying-up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


def _interrupt(signum: int, frame: object) -> None:
    ignore_interruptions()
    raise Interrupted(signum)


def run_script(main: Callable[[], int]) -> int:
    """Run a script's `main` and return its exit code, 2 after a UserError.

    An interruption ends the process here, with 130 after Ctrl-C and 143 after SIGTERM.
    """
    from harness.distributed import is_rank, prepare_process  # which need this file

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


def leave(code: int) -> NoReturn:
    """End the process now: everything is tidied up, and taking PyTorch down in order can take seconds."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, OutputLost):
            stream.flush()
    os._exit(code)
