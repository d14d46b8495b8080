"""Which layers, feature maps and images an analysis looks at, where the paper picks by hand or at random."""

import torch
from torch import Tensor, nn

from interpret.chain import evaluating, trace
from interpret.deconvnet import Strongest


def rectified_layers(model: nn.Module, images: Tensor) -> dict[str, str]:
    """Each convolution of the chain and the layer whose maps stand for it: the ReLU behind it or, without one, itself.

    Only the size of `images` (n, channels, height, width) matters. ValueError as `chain.trace`.
    """
    chain = trace(model, images)
    pairs = zip(chain, [*chain[1:], None], strict=True)
    return {
        layer.name: after.name if after and isinstance(after.module, nn.ReLU) else layer.name
        for layer, after in pairs
        if isinstance(layer.module, nn.Conv2d)
    }


def strongest_maps(strongest: Strongest, count: int) -> list[int]:
    """Numbers of the `count` maps with the largest activations, the largest first; silent ones only if all are."""
    values = strongest.values[:, 0]
    order = values.argsort(descending=True, stable=True)[:count].tolist()
    return [number for number in order if values[number] > 0] or order


def varied_images(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> Tensor:
    """Indices (count,) of `images` (n, channels, height, width), int64 on the CPU, of as many classes as there are.

    The earliest come first: of those that the model classifies as `labels` (n,) say the first of each class, then the
    second of each class, and so on; of the others only if these are too few. With fewer images than `count`, all.
    """
    with evaluating(model):
        right = (model(images).argmax(dim=1) == labels).tolist()
    seen: dict[int, int] = {}
    ranks = []  # of each image: is it wrong, and how many right ones of its class come before it
    for label, is_right in zip(labels.tolist(), right, strict=True):
        seen[label] = seen.get(label, -1) + is_right
        ranks.append((not is_right, seen[label]))
    return torch.tensor(sorted(range(len(images)), key=ranks.__getitem__)[:count])
