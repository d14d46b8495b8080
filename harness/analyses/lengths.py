"""How a recurrent network does on images of other lengths than it was trained on: stretched, padded and cut."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import FAINT, TEST, THIRD, TRAIN, Drawing, both, titled_figure
from interpret.chain import evaluating

NEEDS = ("images",)
COUNTED = 2000  # random test images
LENGTHS = range(20, 41, 2)
KINDS = ("scaled", "black rows at the top", "black rows at the bottom")
COLORS = (TRAIN, TEST, THIRD)

TEXT = """\
{found} The network takes one step a row, and so images of any number of rows, whose width is the one it was trained \
on; a CNN with a linear layer takes no other size than its own. Scaled images are interpolated from row to row. Black \
rows are added at one end; where an image becomes shorter, rows are cut away there. Over {counted:,} test images; the \
vertical line is the length of the training images."""


def analyze(subject: Subject) -> Findings:
    chosen = subject.order[:COUNTED]
    images, labels = subject.inputs[chosen], subject.labels[chosen]
    trained = images.shape[2]
    lengths = sorted({*LENGTHS, trained})
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
    text = TEXT.format(found=found, counted=len(chosen))
    return Findings("Other lengths", text, [Picture("lengths", draw(accuracy, trained, title), title)], [table])


def resized(images: Tensor, rows: int, kind: str, background: float) -> Tensor:
    """Images (n, 1, height, width) with so many rows, (n, 1, rows, width): scaled, or padded or cut at one end."""
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
