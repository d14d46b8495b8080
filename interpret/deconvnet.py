"""The deconvnet: from one activation of a feature map back to the pixels that caused it (the paper's section 2.1).

The layers are gone through backwards. Max-pooling is undone by its switches, the places of the maxima that the forward
pass of this very image recorded; the ReLU by rectifying again, this time the reconstruction; the convolution by its own
filters, transposed. The forward pass's signs at the ReLU play no part: that is how a deconvnet differs from the
gradient (Simonyan et al. 2013, arXiv 1312.6034, section 4). Where pooling windows overlap and share a maximum,
their reconstructions add up.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpret.chain import BATCH, Layer, evaluating, run, trace


class Strongest(NamedTuple):
    """The strongest activations of each feature map of a layer, one an image at most, strongest first.

    All on the CPU and (feature maps, count). A value of 0 (at a ReLU) says that the map has no more activations.
    """

    images: Tensor  # int64 indices into the images searched
    rows: Tensor  # int64 positions in the map
    columns: Tensor
    values: Tensor  # float32


class Activations(NamedTuple):
    """n activations, each of some map and image, and what each is projected to. All on the CPU."""

    images: Tensor  # int64 (n,), as in Strongest
    rows: Tensor
    columns: Tensor
    values: Tensor  # float32 (n,)
    pixels: Tensor  # float32 (n, channels, height, width), as from `reconstruct`


class Box(NamedTuple):
    """A rectangle of pixels, half-open: image[..., top:bottom, left:right] is what lies in it."""

    top: int
    left: int
    bottom: int
    right: int


def strongest_activations(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, count: int
) -> dict[str, Strongest]:
    """For each named layer and each of its maps, the `count` images that activate it most, and where (figure 2).

    `images` (n, channels, height, width) are streamed; `count` is lowered to n if there are fewer. An image counts with
    its single strongest position, so the `count` images of a map differ; of equally strong images the one with the
    lower index comes first. Any chain layer will do: a Conv2d gives values before its ReLU. ValueError as
    `chain.trace`.
    """
    chain = max((trace(model, images, layer) for layer in layers), key=len)
    peaks: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    with evaluating(model):
        for batch in images.split(BATCH):
            for name, maps in run(chain, batch):
                if name in peaks:
                    peaks[name].append(maps.flatten(2).max(dim=2))  # values and positions, each (batch, maps)
    widths = {layer.name: layer.output_size[2] for layer in chain}
    strongest = {}
    for layer, parts in peaks.items():
        values, positions = (torch.cat(each).t() for each in zip(*parts, strict=True))  # (maps, images)
        # Stable: of equally strong images the earlier one comes first, on every device.
        values, order = values.sort(dim=1, descending=True, stable=True)
        values, order = values[:, :count].float().cpu(), order[:, :count]
        positions = positions.gather(1, order).cpu()
        strongest[layer] = Strongest(order.cpu(), positions // widths[layer], positions % widths[layer], values)
    return strongest


def reconstruct(model: nn.Module, images: Tensor, layer: str, maps: Tensor, *places: Tensor) -> Tensor:
    """Project one activation, or without `places` one whole feature map, of each image to pixel space.

    Activation i is that of map `maps[i]` at row `places[0][i]` and column `places[1][i]` of `layer` for images[i]; all
    other activations of the layer are set to zero (section 2.1, figure 2; of a whole map figure 7 (c)). `maps` and
    `places`: int64 (n,) on any device. Returns (n, channels, height, width) on the images' device: signed, zero where
    nothing contributes, of one activation in proportion to it. `layer` is the name of any chain layer, usually a
    ReLU's or a convolution's; of a negative activation a ReLU gives nothing but zeros. ValueError as `chain.trace`.
    """
    chain, projected = trace(model, images, layer), []
    parts = (images, *(numbers.to(images.device) for numbers in (maps, *places)))
    with evaluating(model):
        for batch, *chosen in zip(*(part.split(BATCH) for part in parts), strict=True):
            activations, switches = _forwards(chain, batch)
            kept = torch.zeros_like(activations)
            here = (torch.arange(len(batch), device=images.device), *chosen)
            kept[here] = activations[here]
            projected.append(_backwards(chain, kept, switches))
    return torch.cat(projected)


def receptive_fields(
    model: nn.Module, images: Tensor, layer: str, places: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Box]:
    """For each position (row, column) of `layer`'s maps, the pixels that it depends on, clipped to the image.

    A box is the smallest that holds them; the same for every image and map. Only the size of `images` matters.
    ValueError as `chain.trace`.
    """
    chain = trace(model, images, layer)
    boxes = {}
    for row, column in places:
        (top, bottom), (left, right) = _extent(chain, row, axis=0), _extent(chain, column, axis=1)
        boxes[row, column] = Box(top, left, bottom, right)
    return boxes


def _forwards(chain: list[Layer], maps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of the chain's last layer for images (batch, channels, height, width), and the switches.

    Switches are, for each pooling layer, int64 in the shape of its output: the place of each maximum in its flattened
    input map.
    """
    switches = {}
    for layer in chain:
        pool = layer.module
        if isinstance(pool, nn.MaxPool2d):
            maps, switches[layer.name] = F.max_pool2d(
                maps, pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, return_indices=True
            )
        else:
            maps = layer.module(maps)
    return maps, switches


def _backwards(chain: list[Layer], maps: Tensor, switches: dict[str, Tensor]) -> Tensor:
    """Section 2.1: unpool, rectify, filter, from the chain's last layer (batch, maps, height, width) to pixels."""
    for layer in reversed(chain):
        module, (channels, height, width) = layer.module, layer.input_size
        if isinstance(module, nn.MaxPool2d):
            # Each value goes where its maximum came from. Added, not set: overlapping windows can share a maximum.
            unpooled = maps.new_zeros(len(maps), channels, height * width)
            unpooled.scatter_add_(2, switches[layer.name].flatten(2), maps.flatten(2))
            maps = unpooled.unflatten(2, (height, width))
        elif isinstance(module, nn.ReLU):
            maps = maps.relu()
        else:
            # Each value lays down its filter, without the bias. A stride may leave rows and columns at the far border
            # unread; they are part of the image all the same.
            sides = zip((height, width), module.kernel_size, module.stride, module.padding, strict=True)
            unread = [(side + 2 * padding - kernel) % stride for side, kernel, stride, padding in sides]
            maps = F.conv_transpose2d(maps, module.weight, None, module.stride, module.padding, unread)
    return maps


def _extent(chain: list[Layer], position: int, axis: int) -> tuple[int, int]:
    """Where along one axis of the image, half-open, a position of the last layer gets its input from."""
    first = last = position
    for layer in reversed(chain):
        module = layer.module
        if isinstance(module, nn.ReLU):  # looks at one position only
            continue
        kernel, stride, padding, dilation = (
            value if isinstance(value, int) else value[axis]
            for value in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        # Clipped at every layer: what lies in the padding was not computed from anything.
        first = max(first * stride - padding, 0)
        last = min(last * stride - padding + (kernel - 1) * dilation, layer.input_size[axis + 1] - 1)
    return first, last + 1
