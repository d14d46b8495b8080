"""Which pixels a recurrent network's answer hangs on: gradient times input beside what covering them costs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import FAINT, TEST, TRAIN, Drawing, both, for_tiles, titled_figure
from interpret.saliency import covered_rows, covered_squares, gradient_times_input

NEEDS = ("images",)
COUNTED = 200  # random test images that the two methods are compared on

TEXT = """\
{found}All of it is in units of the {asked}'s logit; red speaks for that class, and blue against it. Gradient times \
input says, pixel by pixel, what the ink there adds if the network is taken to be linear (Shrikumar et al. 2016, \
arXiv 1605.01713). Beside it stands what is really lost when ink is covered with black: by squares of {size} × {size} \
pixels, each point standing for the square centered there, and by whole rows, which are single steps of the network \
(Zeiler & Fergus, section 4.2). The line over the bars is gradient times input, summed over the row: where it follows \
the bars, the network is nearly linear in that row."""


def analyze(subject: Subject) -> Findings:
    model, black, shown = subject.model, subject.background, subject.shown
    inputs, labels = subject.inputs[shown], subject.labels[shown]
    size = inputs.shape[3] // 4
    by_pixel = gradient_times_input(model, inputs, labels, black)[:, 0]  # (shown, rows, pixels)
    by_row, by_square = covered_rows(model, inputs, black), covered_squares(model, inputs, size, black)
    with torch.no_grad():
        logits = model(inputs).cpu()
    title = f"Saliency, {subject.network}: {subject.source}"
    tiles = subject.images.test.images[shown, 0].numpy()
    captions, clean = subject.captions(shown.tolist()), of_class(logits, labels)
    lost = clean[:, None, None] - of_class(by_square, labels), clean[:, None] - of_class(by_row, labels)
    picture = Picture("saliency", draw(tiles, by_pixel, *lost, captions, size, title), title)
    p, p_row, p_square = (of_class(each.softmax(dim=-1), labels) for each in (logits, by_row, by_square))
    rows = []
    for number, image in enumerate(shown.tolist()):
        top, left = divmod(int(p_square[number].argmin()), p_square.shape[2])
        name, label = subject.image_name(image), subject.images.classes[labels[number]]
        of_row = int(p_row[number].argmin()) + 1, float(p_row[number].min())
        rows.append((name, label, float(p[number]), *of_row, top, left, float(p_square[number].min())))
    worst = ("worst row", "p without it", "top", "left", "p without square")
    header = (subject.image_column, "class", "p as it is", *worst)
    table = Table("saliency", f"What covering costs most, {subject.source}", header, rows)
    text = TEXT.format(found="" if subject.own else compare(subject), asked=subject.asked_class, size=size)
    return Findings("Saliency", text, [picture], [table])


def compare(subject: Subject) -> str:
    """In words, how well gradient times input foretells what covering a row does to the logit."""
    chosen = subject.order[:COUNTED]
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    with torch.no_grad():
        clean = of_class(subject.model(inputs).cpu(), labels)
    foretold = gradient_times_input(subject.model, inputs, labels, subject.background).sum(dim=(1, 3))  # (n, rows)
    covered = covered_rows(subject.model, inputs, subject.background)  # (n, rows, classes)
    lost = clean[:, None] - of_class(covered, labels)
    inked = inputs[:, 0].cpu().amax(dim=2) > subject.background  # a row without ink loses nothing by either
    correlation = torch.corrcoef(torch.stack([foretold[inked], lost[inked]]))[0, 1]
    below_half = of_class(covered.softmax(dim=2), labels).amin(dim=1) < 0.5
    return (
        f"In {len(chosen)} test images, what gradient times input foretells of covering a row correlates by "
        f"{correlation:.2f} with what this {subject.network}'s logit then loses; in {below_half.double().mean():.0%} "
        f"of them some single covered row brings the true class's probability below one half. "
    )


def of_class(values: Tensor, labels: Tensor) -> Tensor:
    """Of values (n, …, classes) those of the classes `labels` (n,): (n, …)."""
    return torch.stack([each[..., label] for each, label in zip(values, labels.tolist(), strict=True)])


def draw(
    tiles: Sequence[np.ndarray],
    by_pixel: Tensor,
    by_square: Tensor,
    by_row: Tensor,
    captions: Sequence[str],
    size: int,
    title: str,
) -> Drawing:
    """A row an image: the image, gradient times input, and the logit lost under each square and each row."""
    count, (height, width) = len(tiles), tiles[0].shape
    figure = titled_figure(title, 8, 1.75 * count + 0.9)
    grid = figure.subplots(count, 4, squeeze=False)
    down, across = by_square.shape[1:]
    centers = (size / 2, across - 1 + size / 2, down - 1 + size / 2, size / 2)
    rows = np.arange(height) + 0.5
    for number, (picture, *maps, bars) in enumerate(grid):
        picture.imshow(tiles[number], cmap="gray", vmin=0, vmax=255, interpolation="none")
        for_tiles(picture)
        picture.set_ylabel(captions[number])
        for axes, values, extent in zip(maps, (by_pixel, by_square), ((0, width, height, 0), centers), strict=True):
            limit = float(values[number].abs().max()) or 1.0
            signed = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "interpolation": "none"}
            axes.imshow(values[number].numpy(), extent=extent, **signed)
            axes.contour(rows, rows, tiles[number], levels=[127], colors=FAINT, linewidths=0.6)
            for_tiles(axes)
            axes.set(xlim=(0, width), ylim=(height, 0), facecolor="#f7f7f7")  # zero's color
        bars.barh(rows, by_row[number].numpy(), height=1, color=TRAIN, alpha=0.45, label="row covered")
        bars.plot(by_pixel[number].sum(dim=1).numpy(), rows, color=TEST, linewidth=1.2, label="gradient × input")
        bars.axvline(0, color=FAINT, linewidth=0.6)
        bars.set(ylim=(height, 0), yticks=[])
        bars.set_box_aspect(height / width)
        bars.spines["left"].set_visible(False)
    headings = ("image", "gradient × input", "lost: square covered", "lost: row covered")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading)
    lines = grid[0, 3].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower right", ncols=2)
    return both(figure)
