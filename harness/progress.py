"""What the terminal shows while several runs train: a table that is redrawn in place below lines that stay.

Where standard output is no terminal there is no table, only the lines.
"""

import os
import shutil
import sys
from collections.abc import Sequence

from tqdm.utils import disp_trim


class LiveTable:
    """Lines at the bottom of the terminal, redrawn in place; `log` prints a line above them that stays."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._drawn = 0  # lines of the table that stand on the terminal
        if self.live and os.name == "nt":
            os.system("")  # lets an older Windows console understand the codes below

    def log(self, text: str) -> None:
        """Print a line that stays; the table is back with the next `draw`."""
        print(f"{self._erasure()}{text}", flush=True)

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the last ones, cut to the terminal's size: a wrapped line could not be erased.

        The last line always stays in sight.
        """
        if not self.live:
            return
        width, height = shutil.get_terminal_size()
        room = max(1, height - 2)
        if len(lines) > room:
            lines = [*lines[: room - 1], lines[-1]]
        text = "".join(f"{disp_trim(line, width - 1)}\n" for line in lines)
        print(f"{self._erasure()}{text}", end="", flush=True)
        self._drawn = len(lines)

    def close(self) -> None:
        print(self._erasure(), end="", flush=True)

    def _erasure(self) -> str:
        """What moves the cursor to the table's first line and clears everything from there."""
        drawn, self._drawn = self._drawn, 0
        return f"\x1b[{drawn}A\x1b[J" if drawn else ""


def duration(seconds: float) -> str:
    """`43 s`, `7:39` or `1:07:39`."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if not minutes:
        return f"{whole} s"
    return f"{hours}:{minutes % 60:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
