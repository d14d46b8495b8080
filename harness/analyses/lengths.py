"""How a network does on images of other lengths than it was trained on, if it takes them: stretched, padded and cut."""

import contextlib
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from matplotlib.ticker import PercentFormatter
from torch import Tensor, nn

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import FAINT, TEST, THIRD, TRAIN, Drawing, both, titled_figure
from interpret.chain import evaluating

NEEDS = ("images",)
COUNTED, COUNTED_BY_A_CNN = 2000, 500  # random test images; a convolution takes much longer
LENGTHS = range(20, 41, 2)
KINDS = ("scaled", "black rows at the top", "black rows at the bottom")
COLORS = (TRAIN, TEST, THIRD)

TEXT = """\
{found} {takes} Scaled images are interpolated from row to row. Black rows are added at one end; where an image \
becomes shorter, rows are cut away there. Over {counted:,} test images; the vertical line is the length of the \
training images."""
ONE_STEP_A_ROW = "The network takes one step a row, and so images of any number of rows."


def analyze(subject: Subject) -> Findings:
    chosen = subject.order[: COUNTED if subject.recurrent else COUNTED_BY_A_CNN]
    images, labels = subject.inputs[chosen], subject.labels[chosen]
    trained = images.shape[2]
    lengths = taken_lengths(subject.model, images[:1])
    accuracy = {
        kind: {rows: _accuracy(subject, resized(images, rows, kind, subject.background), labels) for rows in lengths}
        for kind in KINDS
    }
    title = f"Images of other lengths, {subject.network}: {subject.source}"
    table_rows = [(rows, *(values[rows] for values in accuracy.values())) for rows in lengths]
    table = Table("lengths", f"Accuracy on images of other lengths, {subject.source}", ("rows", *KINDS), table_rows)
    scaled, top, bottom = accuracy.values()
    least, most = lengths[0], lengths[-1]
    found = (
        f"Trained on {trained} rows, where it is right on {scaled[trained]:.1%}, this {subject.network} is right on "
        f"{scaled[least]:.1%} and {scaled[most]:.1%} of images scaled to {least} and {most} rows, and on "
        f"{top[most]:.1%} and {bottom[most]:.1%} of those with {most - trained} black rows at the top and bottom."
    )
    takes = f"Of images of {LENGTHS[0]} to {LENGTHS[-1]} rows this CNN takes those of {least} to {most}."
    text = TEXT.format(found=found, takes=ONE_STEP_A_ROW if subject.recurrent else takes, counted=len(chosen))
    return Findings("Other lengths", text, [Picture("lengths", draw(accuracy, trained, title), title)], [table])


def taken_lengths(model: nn.Module, image: Tensor) -> list[int]:
    """Of LENGTHS, and the length of `image` (1, channels, rows, width), those that the network takes."""

    def is_taken(rows: int) -> bool:
        with contextlib.suppress(RuntimeError), evaluating(model):  # what PyTorch says of sizes that do not fit
            return model(image.new_zeros(*image.shape[:2], rows, image.shape[3])) is not None
        return False

    return [rows for rows in sorted({*LENGTHS, image.shape[2]}) if is_taken(rows)]


def resized(images: Tensor, rows: int, kind: str, background: float) -> Tensor:
    """Images (n, channels, height, width) with so many rows: scaled, or padded or cut at one end."""
    if kind == KINDS[0]:
        return F.interpolate(images, (rows, images.shape[3]), mode="bilinear", antialias=True)
    more = rows - images.shape[2]  # F.pad cuts where it is negative
    return F.pad(images, (0, 0, more, 0) if kind == KINDS[1] else (0, 0, 0, more), value=background)


def _accuracy(subject: Subject, images: Tensor, labels: Tensor) -> float:
    with evaluating(subject.model):
        answers = torch.cat([subject.model(batch).argmax(dim=1) for batch in images.split(500)])
    return int((answers == labels).sum()) / len(labels)


def draw(accuracy: Mapping[str, Mapping[int, float]], trained: int, title: str) -> Drawing:
    figure = titled_figure(title, 8, 3.4)
    axes = figure.subplots()
    axes.axvline(trained, color=FAINT, linewidth=1)
    for (kind, values), color, marker in zip(accuracy.items(), COLORS, "osv", strict=True):
        axes.plot([*values], [*values.values()], marker=marker, color=color, markersize=4, label=kind)
    axes.set(xlabel="rows of the image", ylabel="test accuracy", ylim=(0, 1.02))
    axes.set_xticks(LENGTHS[::2])
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend()
    return both(figure)
