"""What a linear classifier reads off the features after each layer (the paper's section 5.3 and table 7)."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from matplotlib.ticker import PercentFormatter
from scipy.stats import binomtest
from torch import Tensor

from harness.analyses.base import Subject, short
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import TEST, TRAIN, Drawing, both, titled_figure
from interpret.probe import LARGEST, LARGEST_SIDE, PENALTY, layer_features, probe

NEEDS = ("images",)
LEARNED_FROM, TESTED_ON = 3000, 2000  # at most so many random images of each split
COLORS = {"trained": TRAIN, "untrained": TEST}

TEXT = """\
{found} The paper's table 7: a linear classifier learns from the features after each layer, once of the trained \
network and once of the same one before any training (the first values of seed 0). What it gets right is what the \
layer has made easy to read. Each is a softmax regression on {learned:,} training images, with a weight penalty of \
{penalty:g} (features scaled to a mean squared norm of 1), tested on {tested:,} test images; maps are averaged down to \
{side} x {side}, and further where a layer would have more than {largest:,} features. The bars are 95 % \
intervals (Wilson's), for the choice of the test images alone."""


def analyze(subject: Subject) -> Findings:
    probed, tested, learned = measure(subject)
    title = f"Depth: {subject.source}"
    header = ("features after", "network", "how many", "accuracy", "low", "high")
    rows = [
        (layer, network, size, right / tested, *binomtest(right, tested).proportion_ci(method="wilson"))
        for network, of_layers in probed.items()
        for layer, (size, right) in of_layers.items()
    ]
    first, *_, last = probed["trained"]
    share = {
        network: {layer: f"{right / tested:.1%}" for layer, (_, right) in of.items()} for network, of in probed.items()
    }
    found = (
        f"A linear classifier is right on {share['trained'][first]} of the test images from the pixels alone, and on "
        f"{share['trained'][last]} from what {last} makes of them; untrained, {last} gives {share['untrained'][last]}."
    )
    counts = {"learned": learned, "tested": tested, "side": LARGEST_SIDE, "largest": LARGEST, "penalty": PENALTY}
    text = TEXT.format(found=found, **counts)
    return Findings("Depth", text, [Picture("depth", draw(rows, title), title)], [Table("depth", title, header, rows)])


def measure(subject: Subject) -> tuple[dict[str, dict[str, tuple[int, int]]], int, int]:
    """Of each network, by layer, how many features there are and how many test images their probe gets right.

    Also how many images it was tested on, and how many it learned from.
    """
    images, classes = subject.images, len(subject.images.classes)
    drawn = torch.Generator().manual_seed(subject.seed)
    parts = [
        split.part(torch.randperm(len(split), generator=drawn)[:count])
        for split, count in ((images.train, LEARNED_FROM), (images.test, TESTED_ON))
    ]
    labels, tested = (part.labels for part in parts)

    def right(features: Tensor, test_features: Tensor) -> int:
        return int((probe(features, labels, classes)(test_features).argmax(dim=1) == tested).sum())

    probed: dict[str, dict[str, tuple[int, int]]] = {}
    for network, model in (("trained", subject.model), ("untrained", subject.untrained)):
        train, test = (layer_features(model, images.normalize(part.images.to(subject.inputs.device))) for part in parts)
        # On the CPU before the threads start, for not every device can be read from several.
        pairs = [(short(layer), features.cpu(), test[layer].cpu()) for layer, features in train.items()]
        layers, *both_parts = zip(*pairs, strict=True)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool, single_thread():
            counts = list(pool.map(right, *both_parts))
        probed[network] = {
            layer: (features.shape[1], count)
            for layer, features, count in zip(layers, both_parts[0], counts, strict=True)
        }
    return probed, len(tested), len(labels)


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Let each thread that computes do so alone: a probe is thousands of steps, too short to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def draw(rows: Sequence[tuple], title: str) -> Drawing:
    """Of each network a line over the layers, with the intervals; `rows` are the table's."""
    figure = titled_figure(title, 8, 3.2)
    axes = figure.subplots()
    for network, color in COLORS.items():
        own = [row for row in rows if row[1] == network]
        layers, _, _, accuracies, lows, highs = map(np.array, zip(*own, strict=True))
        reach = np.stack([accuracies - lows, highs - accuracies])
        style = "o-" if network == "trained" else "o--"
        axes.errorbar(layers, accuracies, reach, fmt=style, color=color, markersize=4, capsize=3, label=network)
    axes.set(xlabel="features after", ylabel="accuracy of a linear classifier", ylim=(0, None))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend()
    return both(figure)
