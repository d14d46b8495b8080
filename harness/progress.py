"""What the terminal shows of a training: its head, a bar while an epoch trains, a line an epoch, its end."""

import math
import sys
import time
from statistics import fmean

import torch
from torch import Tensor
from tqdm import tqdm

from harness.checkpoint import State
from harness.cli import command_line
from harness.data import ImageSet
from harness.errors import EXIT_DIVERGED
from harness.metrics import EpochMetrics, aligned, best_epoch, best_values
from harness.run import RunFolder
from harness.tensorboard import print_curves

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


def note_other_machine(run: RunFolder, device: torch.device) -> None:
    now = {"threads": torch.get_num_threads(), "device": str(device), "torch": str(torch.__version__)}
    for name, value in (now | {"ranks": run.ranks.count}).items():
        recorded = run.recorded.get(name, 1 if name == "ranks" else None)  # older runs do not say: one
        if recorded != value:
            print(f"note: {name} {value} instead of the recorded {recorded!r}; bits may differ from a run at one go")


def print_head(run: RunFolder, images: ImageSet, state: State, device: torch.device) -> None:
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    threads, ranks = torch.get_num_threads(), run.ranks.count
    held_out = f", {len(images.validation):,} validation" if images.validation else ""
    print(
        f"{type(state.model).__name__}, {parameters:,} parameters, {device}, {run.flags.precision}, "
        f"{threads} thread{'s' * (threads != 1)}" + f" on each of {ranks} ranks" * (ranks > 1)
    )
    print(f"{images.name} ({len(images.train):,} train{held_out} and {len(images.test):,} test images)")
    flops, epochs = run.config["training_flops"], run.flags.epochs
    print(f"{epochs} epoch{'s' * (epochs != 1)} of training take{'s' * (epochs == 1)} {flops / 1e15:.2g} PFLOP")
    if not run.flags.dry_run:
        continuing = f", continuing after epoch {state.epoch}" if state.epoch else ""
        print(f"run folder: {run.path}{continuing}")
    title = " " * len(epoch_title(1, run.flags.epochs))
    third = "validation" * bool(images.validation) or "average" * bool(state.average)  # there is no room for both
    print(f"\nloss and accuracy; * is the best {'validation' if images.validation else 'test'} accuracy so far")
    print(f"{title}{'train':>18}{'test':>18}{f'{third:>18}  ' if third else '    seconds'}{'left':>10}", flush=True)


def epoch_title(epoch: int, epochs: int) -> str:
    return f"epoch {epoch:{len(str(epochs))}}/{epochs}"


def print_epoch(history: list[EpochMetrics], epochs: int) -> None:
    last = history[-1]
    pairs = [last[1:3], last[3:5]]  # loss and accuracy
    seconds = f"  {aligned(last.seconds, 7, '.1f')}"
    third = last[6:8] if last.validation_loss is not None else last[8:10]  # of the validation split, or averaged
    if None not in third:
        pairs, seconds = [*pairs, third], ""  # there is no room for both in 80 columns
    best = "*" if best_epoch(history) is last else " "
    left = (epochs - last.epoch) * fmean(metrics.seconds for metrics in history[-3:])
    print(
        epoch_title(last.epoch, epochs)
        + "".join(f"  {aligned(loss, 8)}  {accuracy:.4f}" for loss, accuracy in pairs)
        + f" {best}{seconds}  {clock(left):>8}",
        flush=True,
    )


def warn_of_large_loss(history: list[EpochMetrics], classes: int) -> None:
    """Say it at the first epoch whose losses are ten times that of the same probability for every class."""
    guessing = math.log(classes)
    if [each for each in history if min(each.train_loss, each.test_loss) > 10 * guessing] == history[-1:]:
        print(
            f"warning: the loss of epoch {len(history)} is far above {guessing:.2f}, which is guessing; "
            "a smaller --lr may help",
            file=sys.stderr,
        )


def print_end(run: RunFolder, state: State) -> int:
    """Say how a run ended that has nothing left to train; returns the exit code."""
    if not state.history[-1].finite:
        print(f"{run.path} diverged in epoch {state.epoch}; there is nothing to continue", file=sys.stderr)
        return EXIT_DIVERGED
    way_on = f"; --name {command_line([run.path.name])} with a larger --epochs and --resume trains on"
    print(f"{run.path} is complete" + way_on * (run.flags.schedule == "constant"))
    print_summary(run, state.history, run.recorded_seconds)
    return 0


def print_summary(run: RunFolder, history: list[EpochMetrics], wall_seconds: float) -> None:
    best, last = best_values(history), history[-1]
    # `average_tta` of average_tta_accuracy is "Test, average, tta".
    names = [field.removesuffix("_accuracy") for field in last.measured if field.endswith("_accuracy")]
    titles = {n: ("test_" * n.startswith(("average", "tta")) + n).replace("_", ", ").capitalize() for n in names}
    width = max(map(len, titles.values()))
    print(f"\n{'':{width}}  {'best loss':>10}  {'best accuracy':>13}  {'last loss':>10}  {'last accuracy':>13}")
    for name, title in titles.items():
        cells = ((row.measured.get(f"{name}_loss"), row.measured[f"{name}_accuracy"]) for row in (best, last))
        columns = (f"  {'' if loss is None else aligned(loss, 10):>10}  {accuracy:13.4f}" for loss, accuracy in cells)
        print(f"{title:{width}}{''.join(columns)}")
    print("(best over the epochs, each metric by itself)")
    chosen = best_epoch(history)
    how = f"validation accuracy; its test accuracy is {chosen.test_accuracy:.4f}"
    if chosen.validation_accuracy is None:
        how = "test accuracy: optimistic, see --validation"
    print(f"best.pt is epoch {chosen.epoch}, chosen by {how}")
    if run.flags.dry_run:
        print("dry run: nothing was kept")
        return
    what = "best.pt and the rest are" if (run.path / "best.pt").exists() else "all but best.pt is"
    print(f"\n{len(history)} epoch{'s' * (len(history) != 1)} in {wall_seconds:.1f} s; {what} in\n  {run.path}")
    print_curves(run.flags.runs_dir)
