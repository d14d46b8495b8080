"""Whether the features serve other images: the paper's section 5.2 and figure 9."""

import math
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from torch import Tensor, nn

from harness.analyses.base import Subject
from harness.analyses.depth import single_thread
from harness.analyses.findings import Findings, Picture, Table
from harness.data import EpochOrder, ImageSet, nth_of_class
from harness.evaluate import evaluate
from harness.flags import ROW_FLAGS, augmentations, flag_words, parse_flags, training_parser
from harness.image_sets import CNN
from harness.optimizers import learning_rates, make_optimizer
from harness.pictures import TEST, THIRD, TRAIN, Drawing, both, titled_figure
from harness.train import mirrored_if_named, train_epoch
from interpret.chain import feature_vectors
from interpret.probe import probe

NEEDS = ("images", "other images")
SIZES = {5: 5, 50: 3, 500: 1, 5000: 1}  # images of each class to learn from, and how many random choices of them
STEPS = 100  # at least so many a training from scratch
PART = 1000  # images whose features are computed at a time
METHODS = {"trained features": TRAIN, "untrained features": THIRD, "from scratch": TEST}

TEXT = """\
{found} Zeiler & Fergus, section 5.2 and figure 9: the layers below the last one keep what they learned from {source}, \
and a new softmax learns the classes of {others} from a few images of each ("trained features"). Beside it the same \
with a network that was never trained, and a whole network trained from scratch on these few images with the run's own \
flags, for as many epochs as the run but at least {steps} steps. Accuracy is that of all test images of these classes; \
of few images it is the mean over several random choices of them, and the bar reaches from the lowest to the highest."""


def analyze(subject: Subject) -> Findings:
    recorded = {n: value for n, value in subject.trained.flags.items() if n in (*ROW_FLAGS, "precision") and value}
    flags = parse_flags(training_parser(CNN, ""), flag_words(recorded))
    source = subject.trained.source(None)
    title = f"Transfer: features of {source}"
    header = ("new classes", "images of each", "method", "choices", "accuracy", "lowest", "highest")
    rows = [row for others in subject.others for row in measure(subject, others, flags)]
    names = [name_of(others) for others in subject.others]
    found = " ".join(compare(name, [row for row in rows if row[0] == name]) for name in names)
    text = TEXT.format(found=found, source=source, others=" and of ".join(names), steps=STEPS)
    return Findings(
        "Transfer", text, [Picture("transfer", draw(rows, title), title)], [Table("transfer", title, header, rows)]
    )


def name_of(images: ImageSet) -> str:
    """What the new classes are called: by themselves if they are few, else by their number and set."""
    few = len(images.classes) <= 5
    return f"{images.name}'s {', '.join(images.classes)}" if few else f"{len(images.classes)} classes of {images.name}"


def measure(subject: Subject, others: ImageSet, flags: Namespace) -> Iterator[tuple]:
    """The table's rows of these new images: a row a size and method, as far as each class has so many images."""
    labels, name = others.train.labels, name_of(others)
    networks = {"trained features": subject.model, "untrained features": subject.untrained}
    features = {
        method: [features_of(model, others, split.images) for split in (others.train, others.test)]
        for method, model in networks.items()
    }
    generator = torch.Generator().manual_seed(subject.seed)
    for count, choices in SIZES.items():
        if count > int(labels.bincount().min()):
            return
        accuracies: dict[str, list[float]] = {method: [] for method in METHODS}
        for _ in range(choices):
            order = torch.randperm(len(labels), generator=generator)
            chosen = order[nth_of_class(labels[order]) <= count]
            for method, (train, test) in features.items():
                with single_thread():
                    softmax = probe(train[chosen], labels[chosen], len(others.classes))
                right = softmax(test).argmax(dim=1) == others.test.labels
                accuracies[method].append(float(right.double().mean()))
            accuracies["from scratch"].append(from_scratch(subject, others, chosen, flags))
        for method, values in accuracies.items():
            yield name, count, method, choices, fmean(values), min(values), max(values)


def features_of(model: nn.Module, images: ImageSet, pixels: Tensor) -> Tensor:
    """What the last layer is given of these images: float32 (n, features) on the CPU."""
    device = next(model.parameters()).device
    parts = (images.normalize(part.to(device)) for part in pixels.split(PART))
    return torch.cat([feature_vectors(model, part).last_hidden.cpu() for part in parts])


def from_scratch(subject: Subject, others: ImageSet, chosen: Tensor, flags: Namespace) -> float:
    """The test accuracy of the same kind of network, trained on the `chosen` training images alone as the run was."""
    trained, device, kinds = subject.trained, subject.inputs.device, augmentations(flags.augment)
    images = mirrored_if_named(replace(others, train=others.train.part(chosen)).to(device), flags)
    steps = math.ceil(len(chosen) / flags.batch_size)
    flags = Namespace(**vars(flags) | {"epochs": max(flags.epochs, math.ceil(STEPS / steps))})
    model = subject.build_model({"model": trained.description | {"classes": len(others.classes)}}, seed=subject.seed)
    model = model.to(device, memory_format=torch.channels_last)
    optimizer, generator = make_optimizer(flags, model, device), torch.Generator().manual_seed(subject.seed)
    for epoch in range(1, flags.epochs + 1):
        order = EpochOrder.draw(len(chosen), generator, kinds, seed=subject.seed, epoch=epoch).to(device)
        rates = learning_rates(flags, epoch, steps)
        train_epoch(model, optimizer, images, order, flags, lambda *_: None, rates=rates)
    return evaluate(model, images, flags.precision)[1]


def compare(name: str, rows: Sequence[tuple]) -> str:
    """In words: what the features are worth with the fewest and the most images, and where scratch is better."""
    accuracy = {(count, method): mean for _, count, method, _, mean, *_ in rows}
    counts = sorted({count for count, _ in accuracy})
    ends = [
        f"with {count:,} images of each class {accuracy[count, 'trained features']:.1%} by the trained features and "
        f"{accuracy[count, 'from scratch']:.1%} from scratch"
        for count in dict.fromkeys((counts[0], counts[-1]))
    ]
    better = [f"{n:,}" for n in counts if accuracy[n, "from scratch"] > accuracy[n, "trained features"]]
    return (
        f"Of {name}: {'; '.join(ends)}. Training from scratch is better with {' and '.join(better) or 'none'} of these."
    )


def draw(rows: Sequence[tuple], title: str) -> Drawing:
    """A plot for each new set: accuracy over the images of each class, a line a method."""
    names = list(dict.fromkeys(row[0] for row in rows))
    figure = titled_figure(title, 8, 3.2)
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)
    for axes, name in zip(grid[0], names, strict=True):
        for method, color in METHODS.items():
            own = [row for row in rows if row[0] == name and row[2] == method]
            _, counts, _, _, means, lows, highs = zip(*own, strict=True)
            reach = np.abs([np.subtract(means, lows), np.subtract(highs, means)])  # rounding may put a mean outside
            style = "o-" if method == "trained features" else "o--" if method == "untrained features" else "s-"
            axes.errorbar(counts, means, reach, fmt=style, color=color, markersize=4, capsize=3, label=method)
        axes.set(xscale="log", xlabel="images of each class", ylim=(0, 1), title=name)
        axes.xaxis.set(major_locator=FixedLocator(counts), minor_locator=NullLocator(), major_formatter="{x:,.0f}")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    grid[0, 0].set_ylabel("test accuracy")
    grid[0, -1].legend(loc="lower right")
    return both(figure)
