"""What the terminal shows while an epoch trains: a bar, with the running loss and accuracy before it."""

import sys
import time

import torch
from torch import Tensor
from tqdm import tqdm

from harness.metrics import aligned

clock = tqdm.format_interval  # seconds as 07:39 or 1:07:39


class ProgressBar:
    """A progress bar over an epoch's images, on a terminal only, with the running loss and accuracy.

    On a GPU the running sums travel to the host without anyone waiting for them: the bar shows those that arrived.
    """

    def __init__(self, title: str, count: int) -> None:
        form = "{desc}  {percentage:3.0f}%|{bar}| {elapsed}<{remaining}, {rate_fmt}"  # a narrow terminal cuts its end
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=count, desc=title, unit=" images", leave=False, disable=hidden, bar_format=form)
        self.title = title
        self.shown = time.monotonic()
        self.arrived: Tensor | None = None
        self.event: torch.cuda.Event | None = None
        self.seen = self.seen_then = 0

    def update(self, images: int, totals: Tensor) -> None:
        """Count a step's images; `totals` (2,) are the running sums of losses and of correct answers."""
        self.seen += images
        if self.bar.disable or time.monotonic() - self.shown < 0.2:
            return
        self.shown = time.monotonic()
        if totals.device.type != "cuda":
            self._show(totals, self.seen)
        elif self.event is None or self.event.query():  # the copy under way, if any, has arrived
            if self.event is not None:
                self._show(self.arrived, self.seen_then)
            self.arrived = torch.empty(2, dtype=totals.dtype, pin_memory=True)
            self.arrived.copy_(totals, non_blocking=True)
            self.event, self.seen_then = torch.cuda.Event(), self.seen
            self.event.record()

    def _show(self, totals: Tensor, seen: int) -> None:
        loss_sum, correct = totals.tolist()
        metrics = f"{aligned(loss_sum / seen, 8)}  {correct / seen:.4f}"  # where the epoch's line will have them
        self.bar.set_description_str(f"{self.title}  {metrics}", refresh=False)
        self.bar.update(seen - self.bar.n)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
