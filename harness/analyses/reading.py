"""What a recurrent network would answer after each row of an image, and how often that would be right."""

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import TEST, TRAIN, Drawing, both, for_tiles, titled_figure
from interpret.recurrent import final_from, probabilities_by_row

NEEDS = ("images", "steps")
ACROSS = 5  # images side by side

TEXT = """\
{found} At each row, the picture right of an image shows the probability of each class, the darker the larger, if the \
image ended there: the last linear layer is given the hidden state of that row. The network was trained to answer \
after the last row only. Below the orange line the answer no longer changes."""


def analyze(subject: Subject) -> Findings:
    probabilities = probabilities_by_row(subject.model, subject.inputs)  # (rows, n, classes)
    answers, labels, shown = probabilities.argmax(dim=2), subject.labels.cpu(), subject.shown
    settled = final_from(answers)  # (n,)
    accuracy = None if subject.own else (answers == labels).double().mean(dim=1).tolist()
    title = f"Reading row by row, {subject.network}: {subject.source}"
    tiles, classes = subject.images.test.images[shown, 0].numpy(), subject.images.classes
    captions, of_shown = subject.captions(shown.tolist()), probabilities[:, shown]
    pixels = draw(tiles, of_shown, settled[shown].tolist(), captions, classes, accuracy, title)
    tables = []
    if accuracy:
        rows = [(row, value) for row, value in enumerate(accuracy, start=1)]
        tables.append(Table("reading", f"Accuracy after each row, {subject.source}", ("rows", "accuracy"), rows))
        near = 1 + next(row for row, value in enumerate(accuracy) if value >= 0.9 * accuracy[-1])
        found = (
            f"This {subject.network} is right on {accuracy[-1]:.1%} of the test images after all {len(accuracy)} rows, "
            f"and on nine tenths as many after row {near}; half of its answers are final from row "
            f"{int(settled.median())} on."
        )
    else:
        rows = ", ".join(f"{subject.image_name(i)} {settled[i]}" for i in shown.tolist())
        found = f"The row from which on this {subject.network}'s answer is final: {rows}."
    by_row = [
        (subject.image_name(i), classes[labels[i]], row + 1, classes[answers[row, i]], *probabilities[row, i].tolist())
        for i in shown.tolist()
        for row in range(len(answers))
    ]
    header = (subject.image_column, "class", "rows", "answer", *(f"p({name})" for name in classes))
    tables.append(Table("reading_images", f"Probabilities after each row, {subject.source}", header, by_row))
    return Findings("Reading row by row", TEXT.format(found=found), [Picture("reading", pixels, title)], tables)


def draw(
    tiles: Sequence[np.ndarray],
    probabilities: Tensor,
    settled: Sequence[int],
    captions: Sequence[str],
    classes: Sequence[str],
    accuracy: Sequence[float] | None,
    title: str,
) -> Drawing:
    """Each image (height, width) beside its `probabilities` (rows, images, classes), row by row; below the accuracy."""
    lines, (height, width) = -(-len(tiles) // ACROSS), tiles[0].shape
    heights = [(1.3 + 0.15 * (accuracy is None)) * lines + 0.1, *[2.2] * (accuracy is not None)]
    figure = titled_figure(title, 8, sum(heights) + 0.3)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    grid = parts[0].subplots(lines, 2 * ACROSS, squeeze=False, width_ratios=(1, 0.75) * ACROSS)
    for axes in grid.flat:
        axes.set_axis_off()
    few = len(classes) <= 10 and max(map(len, classes)) == 1  # else there is no room for their names
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        picture, heat = grid.flat[2 * number : 2 * number + 2]
        for_tiles(picture)
        for_tiles(heat)
        picture.imshow(tile, cmap="gray", vmin=0, vmax=255, interpolation="none")
        picture.set_title(caption.replace(": ", "\n"), loc="left", pad=3)  # an own picture's name
        picture.set_axis_on()
        heat.set_axis_on()
        values = probabilities[:, number].numpy()
        heat.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="none", aspect="auto")
        heat.axhline(settled[number] - 1.5, color=TEST, linewidth=1.2)
        heat.set_box_aspect(height / width / 0.75)  # as high as the image
        if few:
            heat.set_xticks(range(len(classes)), classes)
        heat.tick_params(pad=1, labelsize=7)
    if accuracy:
        axes = parts[1].subplots()
        axes.plot(range(1, len(accuracy) + 1), accuracy, "o-", color=TRAIN, markersize=3)
        axes.set(xlabel="rows read", ylabel="test accuracy", ylim=(0, 1.02), xlim=(0.5, len(accuracy) + 0.5))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return both(figure)
