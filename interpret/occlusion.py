"""Which part of the image the answer hangs on: a gray square slid over it (the paper's section 4.2 and figure 7)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpret.chain import BATCH, evaluating, run, trace


@dataclass(frozen=True)
class OcclusionMaps:
    """What the network says with the square at each place; on the CPU, one map an image over the grid of places.

    size                 side of the square in pixels
    rows, columns        int64 (r,) and (c,): the square's top and left edge at each place
    probability          (n, r, c) of the true class, in [0, 1] (figure 7 (d))
    predicted            (n, r, c) int64: the most probable class (figure 7 (e))
    activation           (n, r, c): sum over `strongest_map` at `layer` (figure 7 (b))
    clean_probability, clean_predicted, clean_activation   (n,): the same without a square
    layer                name of the last convolution's ReLU, or of the convolution itself if none follows
    strongest_map        int64 (n,): the map of that layer with the largest single activation in the clean image
    """

    size: int
    rows: Tensor
    columns: Tensor
    probability: Tensor
    predicted: Tensor
    activation: Tensor
    clean_probability: Tensor
    clean_predicted: Tensor
    clean_activation: Tensor
    layer: str
    strongest_map: Tensor


def square_positions(side: int, size: int, stride: int) -> Tensor:
    """Where a square of `size` pixels starts when slid over `side` pixels by `stride`: int64, rising from 0.

    It always lies inside the image; if the stride does not end at the border, one more position does. ValueError if the
    square is larger than the image, or a size or stride below 1.
    """
    if not 1 <= size <= side:
        raise ValueError(f"a square of {size} pixels cannot be slid over an image of {side}")
    if stride < 1:
        raise ValueError(f"a square cannot be slid by {stride} pixels")
    positions = list(range(0, side - size + 1, stride))
    if positions[-1] != side - size:
        positions.append(side - size)
    return torch.tensor(positions)


def occlusion(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    size: int = 8,
    stride: int = 2,
    value: float = 0.0,
    batch_size: int = BATCH,
) -> OcclusionMaps:
    """Slide a square of `size` pixels over images (n, channels, height, width) and record the answers (figure 7).

    `labels` int64 (n,) are the true classes; `value` fills the square: 0.0, the mid-gray of images normalized from
    [0, 1] by 0.5 and 0.5, unless told otherwise. The map whose total activation is recorded is, for each image, the one
    with the strongest response to the image as it is, in the last convolution after its ReLU (the paper's layer 5).
    `batch_size` counts occluded images. ValueError as `chain.trace` and `square_positions`.
    """
    chain = trace(model, images)
    # The paper's layer 5 is taken before its pooling, where a map is finest.
    while isinstance(chain[-1].module, nn.MaxPool2d):
        chain.pop()
    rows, columns = (square_positions(side, size, stride) for side in images.shape[2:])
    squares = _squares(images, rows, columns, size)  # (r * c, 1, height, width)
    labels = labels.to(images.device)
    with evaluating(model):
        clean_maps = torch.cat([run(chain, batch) for batch in images.split(batch_size)])
        strongest = clean_maps.amax(dim=(2, 3)).argmax(dim=1)  # (n,)
    clean = _answers(model, images, labels, chain[-1].module, strongest, batch_size)
    occluded = [
        _answers(
            model,
            torch.where(squares, torch.full_like(image, value), image),
            label.expand(len(squares)),
            chain[-1].module,
            number.expand(len(squares)),
            batch_size,
        )
        for image, label, number in zip(images, labels, strongest, strict=True)
    ]
    maps = (
        torch.stack(kind).unflatten(1, (len(rows), len(columns)))  # (n, r, c)
        for kind in zip(*occluded, strict=True)
    )
    return OcclusionMaps(size, rows, columns, *maps, *clean, chain[-1].name, strongest.cpu())


def _squares(images: Tensor, rows: Tensor, columns: Tensor, size: int) -> Tensor:
    """Bool (places, 1, height, width): where the square lies at each place, places in reading order."""

    def covered(starts: Tensor, side: int) -> Tensor:
        offset = torch.arange(side) - starts[:, None]
        return (offset >= 0) & (offset < size)  # (starts, side)

    height, width = images.shape[2:]
    both = covered(rows, height)[:, None, :, None] & covered(columns, width)[None, :, None, :]
    return both.flatten(0, 1)[:, None].to(images.device)


def _answers(
    model: nn.Module, images: Tensor, labels: Tensor, module: nn.Module, numbers: Tensor, batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """True class's probability, most probable class, and the total of map numbers[i] of `module`; (n,) on the CPU."""
    totals: list[Tensor] = []
    logits: list[Tensor] = []
    hook = module.register_forward_hook(lambda module, inputs, output: totals.append(output.sum(dim=(2, 3))))
    with hook, evaluating(model):
        for batch in images.split(batch_size):
            logits.append(model(batch))
    probabilities = torch.cat(logits).softmax(dim=1)  # (n, classes)
    probability = probabilities.gather(1, labels[:, None]).squeeze(1)
    activation = torch.cat(totals).gather(1, numbers[:, None]).squeeze(1)
    return probability.cpu(), probabilities.argmax(dim=1).cpu(), activation.cpu()
