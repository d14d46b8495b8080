"""The deconvnet: from one activation of a feature map back to the pixels that caused it (the paper's section 2.1).

The layers are gone through backwards. Max-pooling is undone by its switches, the places of the maxima that the forward
pass of this very image recorded; the ReLU by rectifying again, this time the reconstruction; the convolution by its own
filters, transposed. The forward pass's signs at the ReLU play no part: that is how a deconvnet differs from the
gradient (Simonyan et al. 2013, arXiv 1312.6034, section 4). Where pooling windows overlap and share a maximum,
their reconstructions add up.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpret.chain import BATCH, Layer, evaluating, trace


@dataclass(frozen=True)
class Strongest:
    """The strongest activations of each feature map of a layer, one an image at most, strongest first.

    All on the CPU and (feature maps, count): `images` int64 indices into the images searched, `rows` and `columns`
    int64 positions in the map, `values` float32. A value of 0 (at a ReLU) says that the map has no more activations.
    """

    layer: str
    images: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor


class Box(NamedTuple):
    """A rectangle of pixels, half-open: image[..., top:bottom, left:right] is what lies in it."""

    top: int
    left: int
    bottom: int
    right: int


def strongest_activations(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, count: int = 9, batch_size: int = BATCH
) -> dict[str, Strongest]:
    """For each named layer and each of its maps, the `count` images that activate it most, and where (figure 2).

    `images` (n, channels, height, width) are streamed; `count` is lowered to n if there are fewer. An image counts with
    its single strongest position, so the `count` images of a map differ; of equally strong images the one with the
    lower index comes first. Any chain layer will do: a Conv2d gives values before its ReLU. ValueError as
    `chain.trace`.
    """
    chain = max((trace(model, images, layer) for layer in layers), key=len, default=[])
    peaks: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
    with evaluating(model):
        for batch in images.split(batch_size):
            maps = batch
            for layer in chain:
                maps = layer.module(maps)
                if layer.name in peaks:
                    peaks[layer.name].append(maps.flatten(2).max(dim=2))  # each (batch, maps)
    widths = {layer.name: layer.output_size[2] for layer in chain}
    return {layer: _strongest(layer, found, widths[layer], min(count, len(images))) for layer, found in peaks.items()}


def reconstruct(
    model: nn.Module,
    images: Tensor,
    layer: str,
    maps: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    batch_size: int = BATCH,
) -> Tensor:
    """Project one activation of each image down to pixel space (section 2.1, figure 2).

    Activation i is that of map `maps[i]` at (`rows[i]`, `columns[i]`) of `layer` for images[i]; all other activations
    of the layer are set to zero. `maps`, `rows`, `columns`: int64 (n,) on any device. Returns (n, channels, height,
    width) on the images' device: signed, zero where nothing contributes, in proportion to the activation. `layer` is
    the name of any chain layer, usually a ReLU's or a convolution's; of a negative activation a ReLU gives nothing but
    zeros.

    Raises ValueError as `chain.trace`, or if a map or position does not exist.
    """
    chain = trace(model, images, layer)
    size = chain[-1].output_size
    for what, numbers, limit in zip(("map", "row", "column"), (maps, rows, columns), size, strict=True):
        _check_numbers(what, numbers, limit, layer, len(images))
    maps, rows, columns = (numbers.to(images.device) for numbers in (maps, rows, columns))

    def keep_one(activations: Tensor, here: slice) -> Tensor:
        kept = torch.zeros_like(activations)
        place = (torch.arange(len(activations), device=images.device), maps[here], rows[here], columns[here])
        kept[place] = activations[place]
        return kept

    return _project(model, images, chain, keep_one, batch_size)


def reconstruct_maps(model: nn.Module, images: Tensor, layer: str, maps: Tensor, *, batch_size: int = BATCH) -> Tensor:
    """Project a whole feature map (all its positions, the other maps zero) of each image to pixel space (figure 7 (c)).

    `maps` int64 (n,): the map of `layer` for each image. Returns (n, channels, height, width) as `reconstruct` does.
    """
    chain = trace(model, images, layer)
    _check_numbers("map", maps, chain[-1].output_size[0], layer, len(images))
    maps = maps.to(images.device)

    def keep_map(activations: Tensor, here: slice) -> Tensor:
        kept = torch.zeros_like(activations)
        place = (torch.arange(len(activations), device=images.device), maps[here])
        kept[place] = activations[place]
        return kept

    return _project(model, images, chain, keep_map, batch_size)


def receptive_fields(
    model: nn.Module, images: Tensor, layer: str, places: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], Box]:
    """For each position (row, column) of `layer`'s maps, the pixels that it depends on, clipped to the image.

    A box is the smallest that holds them; the same for every image and map. Only the size of `images` matters.
    ValueError as `chain.trace`, or if there is no such position.
    """
    chain = trace(model, images, layer)
    _, height, width = chain[-1].output_size
    boxes = {}
    for row, column in places:
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(f"there is no position ({row}, {column}) in {layer}, whose maps are {height} × {width}")
        top, bottom = _extent(chain, row, axis=0)
        left, right = _extent(chain, column, axis=1)
        boxes[row, column] = Box(top, left, bottom, right)
    return boxes


def _strongest(layer: str, found: list[tuple[Tensor, Tensor]], width: int, count: int) -> Strongest:
    values, positions = (torch.cat(parts).t() for parts in zip(*found, strict=True))  # (maps, images)
    # Stable: of equally strong images the earlier one comes first, on every device.
    values, images = values.sort(dim=1, descending=True, stable=True)
    values, images = values[:, :count].float().cpu(), images[:, :count]
    positions = positions.gather(1, images).cpu()
    return Strongest(layer, images.cpu(), positions // width, positions % width, values)


def _project(model: nn.Module, images: Tensor, chain: list[Layer], keep, batch_size: int) -> Tensor:
    """Run the chain forwards, let `keep(activations, slice of the images)` choose, and run it backwards to pixels."""
    projected = torch.empty_like(images)
    with evaluating(model):
        for start in range(0, len(images), batch_size):
            here = slice(start, start + batch_size)
            activations, switches = _forwards(chain, images[here])
            projected[here] = _backwards(chain, keep(activations, here), switches)
    return projected


def _forwards(chain: list[Layer], images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output of the chain's last layer, and the switches of every pooling layer on the way.

    Switches are int64 in the shape of the pooling layer's output: the place of each maximum in its flattened input map.
    """
    maps, switches = images, {}
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
        if isinstance(layer.module, nn.MaxPool2d):
            maps = _unpool(maps, switches[layer.name], layer.input_size)
        elif isinstance(layer.module, nn.ReLU):
            maps = maps.relu()
        else:
            maps = _filter_transposed(maps, layer)
    return maps


def _unpool(maps: Tensor, switches: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Put each value back where its maximum came from; zero elsewhere. Returns (batch, *size)."""
    # Added, not set: overlapping windows can share a maximum.
    unpooled = maps.new_zeros(len(maps), size[0], size[1] * size[2])
    return unpooled.scatter_add_(2, switches.flatten(2), maps.flatten(2)).unflatten(2, size[1:])


def _filter_transposed(maps: Tensor, layer: Layer) -> Tensor:
    """The layer's filters, transposed: each value of (batch, maps, …) lays down its filter, without the bias."""
    convolution = layer.module
    # A stride may leave rows and columns at the far border unread; they are part of the image all the same.
    unread = [
        layer.input_size[axis + 1]
        - ((layer.output_size[axis + 1] - 1) * convolution.stride[axis] + convolution.kernel_size[axis])
        + 2 * convolution.padding[axis]
        for axis in (0, 1)
    ]
    return F.conv_transpose2d(
        maps, convolution.weight, stride=convolution.stride, padding=convolution.padding, output_padding=unread
    )


def _extent(chain: list[Layer], position: int, axis: int) -> tuple[int, int]:
    """Where along one axis of the image, half-open, a position of the last layer gets its input from."""
    first = last = position
    for layer in reversed(chain):
        if isinstance(layer.module, nn.ReLU):  # looks at one position only
            continue
        kernel, stride, padding, dilation = (
            value if isinstance(value, int) else value[axis]
            for value in (
                layer.module.kernel_size,
                layer.module.stride,
                layer.module.padding,
                layer.module.dilation,
            )
        )
        # Clipped at every layer: what lies in the padding was not computed from anything.
        first = max(first * stride - padding, 0)
        last = min(last * stride - padding + (kernel - 1) * dilation, layer.input_size[axis + 1] - 1)
    return first, last + 1


def _check_numbers(what: str, numbers: Tensor, limit: int, layer: str, images: int) -> None:
    if numbers.shape != (images,):
        raise ValueError(f"there are {images} images, and {what} numbers of shape {tuple(numbers.shape)}")
    if images and not 0 <= int(numbers.min()) <= int(numbers.max()) < limit:
        raise ValueError(f"{layer} has {what}s 0 to {limit - 1}, not {numbers.tolist()}")
