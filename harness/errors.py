"""What can end a script before its time, and its exit codes; `cli.py` turns the one into the other."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3

# A script that finds this environment variable set stops, as at a SIGTERM, when its standard input ends. So a process
# that starts scripts can stop them on every system, and they stop too when it dies, however it died.
STOP_WITH_STDIN = "HARNESS_STOP_WITH_STDIN"


class UserError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do."""


class FlagError(UserError):
    """A wrong flag: the message is argparse's."""


class FolderLocked(UserError):
    """Another process holds the run folder."""


class OutOfMemory(UserError):
    """There is not enough memory."""


class OutputLost(Exception):
    """Standard output takes no more: its reader is gone or its disk full. The message says why."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. `signum` is the signal; a shell sees exit code 128 + signum.

    `message` is for the user; whoever knows how the work can be continued replaces it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.message = "interrupted"


# What CUDA and MPS say, PyTorch's own allocator on Unix and on Windows, C++, cuBLAS and cuDNN, and oneDNN: libraries
# have no type for it, so their words are all there is to go by.
_MEMORY_IS_SHORT = re.compile(
    "out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|"
    "could not create a (memory|primitive(?! descriptor))"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is one of the errors by which Python, NumPy and PyTorch say that no memory is left."""
    words = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or bool(_MEMORY_IS_SHORT.search(words))


@contextlib.contextmanager
def catch_out_of_memory() -> Iterator[None]:
    """Turn an error for want of memory into an OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("there is not enough memory for this on this machine, beside its other programs") from error


def ignore_interruptions() -> None:
    """From now on let SIGINT and SIGTERM pass: one is enough, and a second must not break into the tidying-up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


def end_process(code: int) -> NoReturn:
    """End the process now: everything is tidied up, and taking PyTorch down in order can take seconds."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, OutputLost):
            stream.flush()
    os._exit(code)
