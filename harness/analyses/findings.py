"""Each analysis of visualize.py as what is written of it: figures, tables, and the words that go with them.

The arguments are results of interpret/ (only their named fields are used) with what they were computed from. `source`
says on what the network was trained and what it was shown; it stands in every title. `ids` are numbers of test images.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from harness.analyses import figures
from harness.analyses.gallery import Findings, Picture, Table
from harness.checkpoint import short
from harness.data import ImageSet


class Found(NamedTuple):
    """n activations: image, row, column and value (n,) of each, and its projection (n, channels, height, width)."""

    images: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    pixels: Tensor


def filters(layers: Iterable[tuple], source: str, *, per_filter: bool) -> Findings:
    """`layers`: (name, weights (maps, channels, height, width), their pictures in [0, 1], limit) a convolution."""
    pictures, rows = [], []
    for number, (layer, weights, drawn, limit) in enumerate(layers, start=1):
        title = f"Filters of convolution {number}: {source}"
        pictures.append(Picture(f"filters_{short(layer)}", figures.filters_figure(drawn, limit, title), title))
        for index, weight in enumerate(np.asarray(weights, dtype=np.float64).reshape(len(weights), -1)):
            numbers = weight.mean(), weight.std(), np.linalg.norm(weight), np.abs(weight).max()
            rows.append((layer, index, *map(float, numbers)))
    header = ("layer", "map", "mean", "std", "norm", "largest")
    scale = "each filter's own" if per_filter else "one scale for all filters of a layer"
    text = (
        f"Mid-gray is weight zero; black and white are the largest absolute weight, {scale}. A filter of a later "
        "convolution has a picture for each map that it reads."
    )
    return Findings("Filters", text, pictures, [Table("filters", f"Weights of each filter, {source}", header, rows)])


def activations(layers: Sequence, rows: Sequence[tuple], source: str) -> Findings:
    """`layers`: LayerStatistics; `rows`: the table of the report, one row a layer, as visualize.py prints it."""
    where = f"{source}, {layers[0].images:,} test images"
    per_map, bins = [], []
    for (name, *_), layer in zip(rows, layers, strict=True):
        columns = (layer.map_mean, layer.map_std, layer.map_zeros, layer.map_images, layer.map_max)
        per_map += [
            (name, number, *each) for number, each in enumerate(zip(*(each.tolist() for each in columns), strict=True))
        ]
        edges, counts = layer.histogram_edges.tolist(), layer.histogram_counts.tolist()
        bins.append((name, None, None, layer.zero_count))
        bins += [(name, *each) for each in zip(edges[:-1], edges[1:], counts, strict=True)]
    printed = (
        "activations",
        "mean",
        "std",
        "report mean",
        "report std",
        "share of zeros",
        "dead maps",
        "always-on maps",
    )
    of_map = ("activations", "map", "mean", "std", "share of zeros", "share of images", "max")
    histogram = f"Histogram of activations, {where}; the row without a range counts the zeros"
    tables = [
        Table("activations", f"Activations, {where}; the report's figures are for its CIFAR-10 network", printed, rows),
        Table("activations_maps", f"Activations of each feature map, {where}", of_map, per_map),
        Table("activations_histogram", histogram, ("activations", "from", "below", "count"), bins),
    ]
    title = f"Activations over the test set: {where}"
    text = (
        "Mean and standard deviation over all images, maps and positions, the standard deviation divided by n. A "
        "dead map is zero at every position of every test image; one that is always on is above zero somewhere in "
        "each image."
    )
    picture = Picture("activations", figures.activations_figure(layers, title), title)
    return Findings("Activation statistics", text, [picture], tables)


def deconvnet(shown: Iterable[tuple], source: str) -> Findings:
    """`shown`: (convolution, entries of `figures.deconvnet_figure`, rows of the table) a convolution."""
    pictures, rows = [], []
    for convolution, entries, of_layer in shown:
        title = f"Strongest activations of {short(convolution)}, projected to pixels: {source}"
        name = f"deconvnet_{short(convolution)}"
        pictures.append(Picture(name, figures.deconvnet_figure(entries, title), title))
        rows += of_layer
    header = ("layer", "map", "rank", "test image", "class", "row", "column", "activation")
    text = (
        "Zeiler & Fergus, section 2.1 and figure 2. For each feature map, its strongest activations over the test "
        "set, at most one an image: left what the deconvnet projects back to the pixels (each on its own scale, "
        "mid-gray is zero), right the part of the image that the activation depends on. The number is the "
        "strongest activation. Maps are those of --maps, or drawn at random from those that respond."
    )
    table = Table("deconvnet", f"Strongest activations over the test set, {source}", header, rows)
    return Findings("Deconvnet", text, pictures, [table])


def evolution(shown: Iterable[tuple], epochs: Sequence[int], source: str) -> Findings:
    """`shown`: (convolution, entries of `figures.evolution_figure`, rows of the table) a convolution."""
    pictures, rows = [], []
    for convolution, entries, of_layer in shown:
        title = f"Evolution of {short(convolution)}: {source}"
        patches = "strongest activation over the test images: projected to pixels (left), its image patch (right)"
        pixels = figures.evolution_figure(epochs, entries, title, patches=patches)
        pictures.append(Picture(f"evolution_{short(convolution)}", pixels, title))
        rows += of_layer
    header = ("layer", "map", "epoch", "test image", "class", "row", "column", "activation")
    text = (
        "Zeiler & Fergus, figure 4: the same maps at epochs of the run's snapshots. Each picture is on its "
        "own scale. What a snapshot does not hold, such as the linear layers, is the checkpoint's. A jump from one "
        "epoch to the next mostly means that another image has become the strongest."
    )
    table = Table("evolution", f"Strongest activation at each snapshot, {source}", header, rows)
    return Findings("Evolution", text, pictures, [table])


def invariance(
    results: Sequence, examples: Sequence[np.ndarray], ids: Sequence[int], names: Sequence[str], source: str
) -> Findings:
    """`results`: Invariance a kind, whose first columns are the images `ids` of the classes `names`."""
    count, rows = len(ids), []
    averaged = len(results[0].first_norm) - count
    for result in results:
        columns = (
            figures.shares(result.first, result.first_norm),
            figures.shares(result.last_hidden, result.last_hidden_norm),
            np.asarray(result.probability),
        )
        amounts = [round(amount, 6) for amount in result.amounts.tolist()]
        for index, (image, name) in enumerate(zip(ids, names, strict=True)):
            curves = zip(amounts, *(values[:, index].tolist() for values in columns), strict=True)
            rows += [(result.kind, str(image), name, *point) for point in curves]
        means = zip(amounts, *(figures.mean_over_images(values[:, count:]).tolist() for values in columns), strict=True)
        rows += [(result.kind, f"mean of {averaged}", "", *point) for point in means]
    silent = any(not norms[count:].all() for each in results for norms in (each.first_norm, each.last_hidden_norm))
    without = "; a layer's distance leaves out those that it does not respond to" if silent else ""
    header = ("transformation", "test image", "class", "amount", "first layer", "last hidden layer", "p(true class)")
    text = (
        "Zeiler & Fergus, section 4 and figure 5. How far the feature vector moves from that of the "
        "untransformed image, as a share of its length, at the first layer and at the last hidden layer; and the "
        "probability of the true class. Thin lines are the images shown, as far as possible such as are classified "
        f"rightly; the thick line is the mean of {averaged} random test images{without}. What comes in from outside "
        "the image is mid-gray."
    )
    title = f"Invariance: {source}"
    picture = Picture("invariance", figures.invariance_figure(results, examples, names, title), title)
    table = Table("invariance", f"Distance over length of the feature vector, {source}", header, rows)
    return Findings("Invariance", text, [picture], [table])


def occlusion(
    maps: object,
    images: np.ndarray,
    reconstructions: np.ndarray,
    ids: Sequence[int],
    labels: Sequence[int],
    classes: Sequence[str],
    source: str,
) -> Findings:
    """`maps`: OcclusionMaps of the images uint8 (n, channels, height, width), with their maps' reconstructions."""
    header = (
        *("test image", "class", "p as it is", "lowest p", "top", "left", "share right"),
        *("map", "its activation", "lowest"),
    )
    rows = []
    for index, (image, label) in enumerate(zip(ids, labels, strict=True)):
        probability, activation = maps.probability[index], maps.activation[index]
        down, across = divmod(int(probability.argmin()), len(maps.columns))
        right = float((maps.predicted[index] == label).double().mean())
        answer = float(maps.clean_probability[index]), float(probability.min())
        strongest = int(maps.strongest_map[index]), float(maps.clean_activation[index]), float(activation.min())
        place = int(maps.rows[down]), int(maps.columns[across])
        rows.append((image, classes[label], *answer, *place, right, *strongest))
    text = (
        f"Zeiler & Fergus, section 4.2 and figure 7: a gray square of {maps.size} × {maps.size} pixels slid over "
        "the image; each point of a map stands for the square centred there. The strongest map of the last "
        "convolution is the one with the largest activation in the whole image; its total activation is relative "
        "to the largest in the row. In the table, top and left say where the square lowers the probability most, "
        "and share right at which share of the places the answer stays right."
    )
    title = f"Occlusion by a square of {maps.size} pixels: {source}"
    tiles = [figures.image_tile(image) for image in images]
    projected = [figures.signed_tile(each) for each in reconstructions]
    picture = Picture("occlusion", figures.occlusion_figure(tiles, projected, maps, labels, classes, title), title)
    return Findings("Occlusion", text, [picture], [Table("occlusion", title, header, rows)])


def correspondence(cells: Sequence, parts: Sequence[str], layers: Sequence[str], source: str) -> Findings:
    """`cells`: Consistency for each of `parts` and `layers`."""
    rows = [(cell.part, cell.layer.replace("_", " "), cell.mean, cell.std) for cell in cells]
    header = ("part hidden", "layer", "mean", "std")
    text = (
        "Zeiler & Fergus, section 4.3 and table 1: hide the same part in different images of a class, and compare "
        "the signs of the change of the feature vector by their Hamming distance (0 alike). These images have no "
        "part annotations: parts are cells of the image, the class's critical cell being the one whose occlusion "
        "costs the class most. If the network related parts, that bar would be lower than that of the same random "
        "cell, and the bar of each image's own critical cell lower than that of random cells. The reverse does not "
        "follow: random cells lie anywhere, also at the border; and at the last hidden layer choosing each image's own "
        "cell by probability makes the changes more alike even in a network that was never trained."
    )
    title = f"Correspondence: {source}"
    picture = Picture("correspondence", figures.correspondence_figure(cells, parts, layers, title), title)
    table = Table("correspondence", f"Consistency Δ, {source}; smaller is more consistent", header, rows)
    return Findings("Correspondence", text, [picture], [table])


def activation_rows(layer: str, maps: Sequence[int], orders: Sequence[int], found: Found, images: ImageSet) -> list:
    """A row of the deconvnet's and the evolution's table for each activation; `orders` are ranks or epochs."""
    labels = images.test.labels[found.images]
    tensors = (found.images, labels, found.rows, found.columns, found.values)
    columns = (maps, orders, *(each.tolist() for each in tensors))
    return [
        (layer, number, order, image, images.classes[label], row, column, value)
        for number, order, image, label, row, column, value in zip(*columns, strict=True)
    ]


def activation_tiles(found: Found, boxes: Sequence, images: ImageSet) -> tuple[list, list]:
    """Each activation's reconstruction and image patch as tiles of one size; blank where a map has no more activations.

    `boxes` are the activations' receptive fields (top, left, bottom, right), to which both are cropped.
    """
    size = max(box.bottom - box.top for box in boxes), max(box.right - box.left for box in boxes)
    projected, patches = [], []
    for pixels, image, value, box in zip(
        found.pixels, found.images.tolist(), found.values.tolist(), boxes, strict=True
    ):
        if not value > 0:
            projected.append(figures.blank_tile(size))
            patches.append(figures.blank_tile(size))
            continue
        crop = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
        at = {"top": box.top == 0, "left": box.left == 0}
        patch = images.test.images[image].numpy()[crop]
        projected.append(figures.padded(figures.signed_tile(pixels.cpu().numpy()[crop]), size, **at))
        patches.append(figures.padded(figures.image_tile(patch), size, **at))
    return projected, patches
