"""How good a network is: the metrics of an epoch, and its answers to all test images."""

import itertools
from argparse import Namespace
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.augmentation import views
from harness.checkpoint import State
from harness.data import ImageSet, test_batches
from harness.device import autocast, exact_dtype
from harness.ranks import ALONE, Ranks

# Images a step of evaluation; changes no result, only speed and memory. A convolution's maps take 131 kB an image: on a
# CPU larger batches of them scatter the memory that is kept, to 0.2 GB more at its peak.
TEST_BATCH = 500
TEST_BATCH_OF_CONVOLUTIONS = 100


def measure(state: State, images: ImageSet, flags: Namespace, ranks: Ranks, *, last: bool) -> dict[str, float]:
    """An epoch's metrics of the test split and of the validation split, if there is one, by field of EpochMetrics.

    Those of the model and, if its weights are averaged, of their average; in the `last` epoch, if asked, also the
    accuracy with test-time augmentation.
    """
    splits, networks, measured = {"": images}, {"": state.model}, {}
    if images.validation:
        splits["validation_"] = replace(images, test=images.validation)
    if state.average:
        networks["average_"] = state.average.module
    for (split, part), (weights, network) in itertools.product(splits.items(), networks.items()):
        field = split + weights or "test_"
        loss, accuracy = evaluate(network, part, flags.precision, ranks)
        measured |= {f"{field}loss": loss, f"{field}accuracy": accuracy}
        if last and flags.test_time_augmentation:
            _, accuracy = evaluate(network, part, flags.precision, ranks, augmented=True)
            measured[f"{split}{weights}tta_accuracy"] = accuracy
    return measured


@torch.no_grad()
def evaluate(
    model: nn.Module, images: ImageSet, precision: str, ranks: Ranks = ALONE, *, augmented: bool = False
) -> tuple[float, float]:
    """Mean loss a sample and accuracy over the whole test split, in evaluation mode.

    If `augmented`, an image's logits are the mean of those of its views.
    """
    share = ranks.share(0, len(images.test))  # a rank without any gets one image, which is not counted
    test = images.test.part(share.here)
    seen = views(test.images, mirrored=images.mirrored) if augmented else [(1, test.images)]
    parts = ((weight, replace(images, test=replace(test, images=view))) for weight, view in seen)
    logits = sum(weight * predict(model, part, precision) for weight, part in parts)[: share.count]
    labels = test.labels[: share.count]
    losses = F.cross_entropy(logits, labels, reduction="none")
    totals = torch.stack([losses.sum(dtype=exact_dtype(losses.device)), (logits.argmax(dim=1) == labels).sum()])
    loss_sum, correct = ranks.sum(totals).tolist()
    return loss_sum / len(images.test), correct / len(images.test)


@torch.no_grad()
def predict(model: nn.Module, images: ImageSet, precision: str) -> Tensor:
    """The logits of the whole test split, float32 (n, classes), in evaluation mode."""
    model.eval()
    device = images.test.labels.device
    maps = device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in model.modules())
    logits = []
    for inputs, _ in test_batches(images, TEST_BATCH_OF_CONVOLUTIONS if maps else TEST_BATCH):
        with autocast(device, precision):
            logits.append(model(inputs).float())
    return torch.cat(logits)
