"""What can end a script before its time, and its exit codes; `cli.py` turns the one into the other."""

import contextlib
import re
import signal
from collections.abc import Callable, Iterator

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3

# With this environment variable a script stops, as at a SIGTERM, when its standard input ends. So whoever starts it can
# stop it on every system, and it stops too when that process dies, however it died.
STOP_WITH_STDIN = "HARNESS_STOP_WITH_STDIN"


def one_line(text: str) -> str:
    """What a path, a flag's value or a stranger's file has of line ends and control characters, shown escaped."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class UserError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class FlagError(UserError):
    """A wrong flag: the message is argparse's."""


class FolderLocked(UserError):
    """Another process holds the run folder."""


class OutOfMemory(UserError):
    """There is not enough memory."""


class Interrupted(BaseException):
    """A signal (`signum`) stops the script. Whoever knows how the work can be continued says so in `message`."""

    def __init__(self, signum: int) -> None:
        self.signum, self.message = signum, "interrupted"


# What CUDA, MPS, PyTorch's allocators, C++, cuBLAS, cuDNN and oneDNN say: libraries have no type for it.
_MEMORY_IS_SHORT = re.compile(
    "out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED|"
    "could not create a (memory|primitive(?! descriptor))"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is one of the errors by which Python, NumPy and PyTorch say that no memory is left."""
    if isinstance(error, RuntimeError):
        return bool(_MEMORY_IS_SHORT.search(str(error)))
    return isinstance(error, MemoryError)


@contextlib.contextmanager
def catch_out_of_memory() -> Iterator[None]:
    """Turn an error for want of memory into an OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory("there is not enough memory for this on this machine, beside its other programs") from error


# What stops a script: Ctrl-C, a polite kill, and a terminal that closes, which Windows has no signal for.
INTERRUPTIONS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def handle_interruptions(handler: Callable | signal.Handlers) -> None:
    """From now on have `handler` called at each of INTERRUPTIONS, but for a SIGHUP that nohup has set to be ignored."""
    for each in INTERRUPTIONS:
        if not (each.name == "SIGHUP" and signal.getsignal(each) == signal.SIG_IGN):
            signal.signal(each, handler)


def ignore_interruptions() -> None:
    """From now on let them pass: one is enough, and a second must not break into the tidying-up."""
    handle_interruptions(signal.SIG_IGN)
