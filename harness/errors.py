"""How a script ends: one sentence and exit code 2 for what the user can mend, 130 or 143 for an interruption.

Every script of the project runs its `main` through `run_script`. A bug keeps its traceback.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3


class UserError(Exception):
    """Something the user can mend; the message is one sentence that says what is wrong and what to do."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. `signum` is the signal; a shell sees exit code 128 + signum.

    `message` is for the user; whoever knows how the work can be continued replaces it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
        self.message = "interrupted before training began; nothing was written"


def _interrupt(signum: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # one is enough: the second must not break into the tidying-up
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(signum)


def run_script(main: Callable[[], int]) -> int:
    """Run a script's `main` and return its exit code, 2 after a UserError.

    An interruption ends the process here, with 130 after Ctrl-C and 143 after SIGTERM.
    """
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    try:
        return main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Interrupted as interruption:
        print(f"\n{interruption.message}", file=sys.stderr)
        _leave(128 + interruption.signum)


def _leave(code: int) -> NoReturn:
    """End the process now: everything is tidied up, and taking PyTorch down in order can take seconds."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
