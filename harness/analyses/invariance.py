"""How far features move, and the true class's probability, under translation, scale and rotation (figure 5)."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.patches import Patch, Rectangle

from harness.analyses.base import Subject
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import INK, Drawing, both, for_tiles, image_tile, mosaic, titled_figure
from interpret.invariance import Invariance, invariance, transform

NEEDS = ("images",)
GAP = 6  # pixels between the examples
AVERAGED = 100  # random images that the curves' mean is over
COLORS = [colormaps["tab10"](index) for index in range(10)]  # of the images shown
UNITS = {"translation": "pixels down", "scale": "factor", "rotation": "degrees anticlockwise"}

TEXT = """\
Zeiler & Fergus, section 4 and figure 5. How far the feature vector moves from that of the untransformed image, as a \
share of its length, at the first layer and at the last hidden layer; and the probability of the {asked}. {lines}. \
What comes in from outside the image is mid-gray."""
OF_TEST_IMAGES = """\
Thin lines are the images shown, as far as possible such as are classified rightly; the thick line is the mean of \
{averaged} random test images{without}"""
OF_PICTURES = "A line a picture"


def analyze(subject: Subject) -> Findings:
    reach = max(1, round(subject.inputs.shape[-1] * 60 / 224))  # the paper's 60 pixels of 224
    kinds = {  # the amounts of the curves, and of the examples shown with them
        "translation": (range(-reach, reach + 1), (-reach, 0, reach)),
        "scale": ([step / 10 for step in range(6, 19)], (0.6, 1, 1.8)),
        "rotation": (range(0, 360, 15), (0, 45, 90)),
    }
    shown, gray = subject.shown, subject.images.mid_gray
    averaged = subject.order[: 0 if subject.own else AVERAGED]
    chosen = torch.cat([shown, averaged])
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    results, examples = [], []
    for kind, (amounts, moves) in kinds.items():
        results.append(invariance(subject.model, inputs, labels, kind, list(amounts), fill=gray))
        moved = [transform(inputs[: len(shown)], kind, amount, fill=gray) for amount in moves]
        pixels = [subject.images.pixels(images).cpu().numpy() for images in moved]
        tiles = [image_tile(images[row]) for row in range(len(shown)) for images in pixels]
        examples.append(mosaic(tiles, len(moves), zoom=2, gap=GAP, margin=GAP))
    names = [subject.images.classes[label] for label in labels[: len(shown)].tolist()]
    title = f"Invariance: {subject.source}"
    captions, asked = subject.captions(shown.tolist()), f"p({subject.asked_class})"
    picture = Picture("invariance", draw(results, examples, captions, asked, title), title)
    header = ("transformation", subject.image_column, "class", "amount", "first layer", "last hidden layer", asked)
    ids = [str(subject.image_name(image)) for image in shown.tolist()]
    rows = [row for result in results for row in curve_rows(result, ids, names)]
    table = Table("invariance", f"Distance over length of the feature vector, {subject.source}", header, rows)
    norms = torch.stack([results[0].first_norm, results[0].last_hidden_norm])[:, len(shown) :]  # (2, averaged)
    without = "" if norms.all() else "; a layer's distance leaves out those that it does not respond to"
    lines = OF_PICTURES if subject.own else OF_TEST_IMAGES.format(averaged=len(averaged), without=without)
    text = TEXT.format(asked=subject.asked_class, lines=lines)
    return Findings("Invariance", text, [picture], [table])


def curves(result: Invariance) -> list[np.ndarray]:
    """What is drawn over the amounts, each (amounts, images): two distances over lengths, and the probability.

    A share is nan where the layer does not respond to the untransformed image.
    """
    pairs = ((result.first, result.first_norm), (result.last_hidden, result.last_hidden_norm))
    shares = [(distance / length.where(length > 0, torch.nan)).double().numpy() for distance, length in pairs]
    return [*shares, result.probability.numpy()]


def mean_over_images(values: np.ndarray) -> np.ndarray:
    """The mean of curves (amounts, images) at each amount, over the images whose curve is finite; nan without any."""
    finite = np.isfinite(values).all(axis=0)
    return values[:, finite].mean(axis=1) if finite.any() else np.full(len(values), np.nan)


def curve_rows(result: Invariance, ids: Sequence[str], names: Sequence[str]) -> list[tuple]:
    """A row for each point of each curve: of the images shown (`ids`, of the classes `names`), then of any mean."""
    values, shown = curves(result), len(ids)
    columns = [np.column_stack([each[:, :shown], mean_over_images(each[:, shown:])]) for each in values]
    averaged = values[0].shape[1] - shown
    labels = [*zip(ids, names, strict=True), *[(f"mean of {averaged}", "")] * (averaged > 0)]
    return [
        (result.kind, *label, round(float(amount), 6), *(float(each[step, line]) for each in columns))
        for line, label in enumerate(labels)
        for step, amount in enumerate(result.amounts)
    ]


def draw(
    results: Sequence[Invariance], examples: Sequence[np.ndarray], captions: Sequence[str], asked: str, title: str
) -> Drawing:
    """A row a transformation; examples, distance at two depths, the probability that `asked` names.

    A thin line for each of the first images, which `captions` labels, and a thick one for the mean of any others.
    `examples` is a picture (RGBA) for each transformation.
    """
    shown = len(captions)
    averaged = results[0].first.shape[1] - shown
    figure = titled_figure(title, 8, 2.1 * len(results) + 1.0)
    grid = figure.subplots(len(results), 4, squeeze=False, width_ratios=(1.0, 1.35, 1.35, 1.35))
    for (picture, *plots), result, example in zip(grid, results, examples, strict=True):
        picture.imshow(example, interpolation="none")
        for_tiles(picture)
        height = (len(example) - GAP) / shown
        for row in range(shown):  # a frame in the color of its line
            frame = (GAP / 2, GAP / 2 + row * height), example.shape[1] - GAP, height
            picture.add_patch(Rectangle(*frame, fill=False, edgecolor=COLORS[row], linewidth=1.2))
        for axes, values in zip(plots, curves(result), strict=True):
            if not np.isfinite(values).any():
                axes.text(0.5, 0.5, "not active", transform=axes.transAxes, ha="center")
                axes.set_axis_off()
                continue
            for image in range(shown):
                axes.plot(result.amounts, values[:, image], color=COLORS[image], linewidth=1)
            if averaged:
                axes.plot(result.amounts, mean_over_images(values[:, shown:]), color=INK, linewidth=2.4)
            axes.set_xlabel(f"{result.kind}, {UNITS[result.kind]}")
            axes.set_ylim(bottom=0)
            if result.kind == "rotation":
                axes.set_xticks(range(0, 361, 90))
        plots[2].set_ylim(0, 1.02)
    headings = ("examples", "first layer:\ndistance / length", "last hidden layer:\ndistance / length", asked)
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title(heading)
    labels = [*captions, *[f"mean of {averaged} images"] * (averaged > 0)]
    lines = [Patch(color=color) for color in (*COLORS[:shown], INK)[: len(labels)]]
    figure.legend(lines, labels, loc="outside lower center", ncols=3 if averaged == 0 else 6)
    return both(figure)
