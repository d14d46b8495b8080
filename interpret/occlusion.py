"""Which part of the image the answer hangs on: a gray square slid over it (the paper's section 4.2 and figure 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpret.chain import BATCH, evaluating, run, trace


@dataclass(frozen=True)
class OcclusionMaps:
    """What the network says with the square at each place; on the CPU, one map an image over the grid of places."""

    size: int  # side of the square in pixels
    rows: Tensor  # int64 (r,): the square's top edge at each place
    columns: Tensor  # int64 (c,): its left edge
    probability: Tensor  # (n, r, c) of the true class, in [0, 1] (figure 7 (d))
    predicted: Tensor  # int64 (n, r, c): the most probable class (figure 7 (e))
    activation: Tensor  # (n, r, c): sum over `strongest_map` at `layer` (figure 7 (b))
    clean_probability: Tensor  # (n,): these three without a square
    clean_predicted: Tensor
    clean_activation: Tensor
    layer: str  # the last convolution's ReLU, or the convolution itself if none follows
    strongest_map: Tensor  # int64 (n,): the map there with the largest single activation in the clean image


def square_positions(side: int, size: int, stride: int) -> Tensor:
    """Where a square of `size` pixels starts when slid over `side` pixels by `stride`: int64, rising from 0.

    It always lies inside the image; if the stride does not end at the border, one more position does.
    """
    return torch.tensor(sorted({*range(0, side - size + 1, stride), side - size}))


def occlusion(
    model: nn.Module, images: Tensor, labels: Tensor, *, size: int, stride: int = 1, value: float = 0.0
) -> OcclusionMaps:
    """Slide a square of `size` pixels by `stride` over images (n, channels, height, width), record answers (figure 7).

    `labels` int64 (n,) are the true classes; `value` fills the square: 0.0, the mid-gray of images normalized from
    [0, 1] by 0.5 and 0.5, unless told otherwise. The map whose total activation is recorded is, for each image, the one
    with the strongest response to the image as it is, in the last convolution after its ReLU (the paper's layer 5).
    ValueError as `chain.trace`.
    """
    chain = trace(model, images)
    # The paper's layer 5 is taken before its pooling, where a map is finest.
    while isinstance(chain[-1].module, nn.MaxPool2d):
        chain.pop()
    last, labels = chain[-1], labels.to(images.device)
    with evaluating(model):
        peaks = [list(run(chain, batch))[-1][1].amax(dim=(2, 3)) for batch in images.split(BATCH)]  # (batch, maps)
    strongest = torch.cat(peaks).argmax(dim=1)  # (n,)
    rows, columns = (square_positions(side, size, stride) for side in images.shape[2:])
    tops, lefts = torch.cartesian_prod(rows, columns).t()  # (r * c,) each, in reading order
    occluded = []
    for image, label, number in zip(images, labels, strongest, strict=True):
        hidden = hide(image.expand(len(tops), *image.shape), tops, lefts, size, value)
        each = label.expand(len(tops)), number.expand(len(tops))
        occluded.append(_answers(model, hidden, *each, last.module))
    grid = len(rows), len(columns)
    maps = (torch.stack(each).unflatten(1, grid) for each in zip(*occluded, strict=True))  # each (n, r, c)
    clean = _answers(model, images, labels, strongest, last.module)
    return OcclusionMaps(size, rows, columns, *maps, *clean, last.name, strongest.cpu())


def hide(images: Tensor, rows: Tensor, columns: Tensor, size: int, value: float) -> Tensor:
    """Copies of images (n, channels, height, width), each with a square whose first pixel is (rows[i], columns[i])."""
    hidden = images.clone()
    for image, row, column in zip(hidden, rows.tolist(), columns.tolist(), strict=True):
        image[:, row : row + size, column : column + size] = value
    return hidden


def _answers(
    model: nn.Module, images: Tensor, labels: Tensor, numbers: Tensor, module: nn.Module
) -> tuple[Tensor, Tensor, Tensor]:
    """True class's probability, most probable class, and the total of map numbers[i] of `module`; (n,) on the CPU."""
    totals: list[Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: totals.append(output.sum(dim=(2, 3))))
    with hook, evaluating(model):
        logits = [model(batch) for batch in images.split(BATCH)]
    probabilities = torch.cat(logits).softmax(dim=1)  # (n, classes)
    probability = probabilities.gather(1, labels[:, None]).squeeze(1)
    activation = torch.cat(totals).gather(1, numbers[:, None]).squeeze(1)
    return probability.cpu(), probabilities.argmax(dim=1).cpu(), activation.cpu()
