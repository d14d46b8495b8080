"""Augmentation: random changes of the training images, and the views of test-time augmentation.

All of it is whole-batch tensor work on the device. `draw` makes an epoch's random choices, `augment` applies those of a
batch; which kinds there are, and their sizes, stands in AUGMENTATIONS of flags.py. data.py calls both. A kind costs an
entry there, its draw and its use here.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

AFFINE = ("rotate", "scale", "shear")


def draw(count: int, generator: torch.Generator, sizes: Mapping[str, float]) -> dict[str, Tensor]:
    """The random choices for `count` images on the CPU, by kind; `alternate` has none (see `alternating`).

    `mirror` (count,) bool; `shift` and `reflect` (count, 2) int64 in [0, 2·size], size meaning no shift; `cutout`
    (count, 2) in [0, 1), the square's center; `rotate`, `scale` and `shear` (count,) in [-size, size].
    """
    choices = {}
    for kind, size in sizes.items():
        if kind == "mirror":
            choices[kind] = torch.rand(count, generator=generator) < 0.5
        elif kind in ("shift", "reflect"):
            choices[kind] = torch.randint(0, 2 * size + 1, (count, 2), generator=generator)
        elif kind == "cutout":
            choices[kind] = torch.rand(count, 2, generator=generator)
        elif kind in AFFINE:
            choices[kind] = size * (2 * torch.rand(count, generator=generator) - 1)
    return choices


def alternating(indices: Tensor, seed: int, epoch: int) -> Tensor:
    """Whether each image of an epoch's order is mirrored: in the first epoch by chance, then in every other one.

    As in airbench (Jordan 2024, section 3.6): of two epochs each image is seen both ways. Depends on the image, the
    seed and the epoch alone.
    """
    first = torch.rand(len(indices), generator=torch.Generator().manual_seed(seed)) < 0.5
    return first[indices] ^ (epoch % 2 == 0)


def augment(pixels: Tensor, choices: Mapping[str, Tensor], sizes: Mapping[str, float], blank: int = 0) -> Tensor:
    """Change each image as its `choices` (of `draw`) say: mirrored, shifted, turned and stretched, a part hidden.

    `pixels` (batch, channels, height, width) uint8; the result has the same shape, and is float32 in [0, 255] if it was
    turned or stretched. Black comes in at the borders, but with `reflect` the image's own pixels, mirrored. What is
    hidden gets the value `blank`.
    """
    height, width = pixels.shape[2:]
    if "mirror" in choices:
        pixels = torch.where(choices["mirror"][:, None, None, None], pixels.flip(3), pixels)
    if "shift" in choices:  # the usual CIFAR-10 augmentation, as He et al. (2016), section 4.2
        pixels = cropped(F.pad(pixels, (sizes["shift"],) * 4), choices["shift"], height, width)
    if "reflect" in choices:
        pixels = cropped(reflected(pixels, sizes["reflect"]), choices["reflect"], height, width)
    if not choices.keys().isdisjoint(AFFINE):
        pixels = affine(pixels.float(), **{kind: choices[kind] for kind in AFFINE if kind in choices})
    if "cutout" in choices:  # DeVries & Taylor (2017): a square whose center may lie anywhere
        rows, columns = (
            ((torch.arange(length, device=pixels.device) + 0.5 - length * center[:, None]).abs() < sizes["cutout"] / 2)
            for length, center in zip((height, width), choices["cutout"].unbind(1), strict=True)
        )  # (batch, height) and (batch, width)
        pixels = pixels.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], blank)
    return pixels


def cropped(padded: Tensor, corners: Tensor, height: int, width: int) -> Tensor:
    """From each padded image the part of this size whose upper left corner, row and column, is in `corners`."""
    # Which row and column of the padded image each row and column of the result is taken from.
    rows = corners[:, :1] + torch.arange(height, device=padded.device)  # (batch, height)
    columns = corners[:, 1:] + torch.arange(width, device=padded.device)  # (batch, width)
    image = torch.arange(len(padded), device=padded.device)[:, None, None]
    # Indexing by (batch, height, width) puts the channels last; they go back to second place.
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def reflected(pixels: Tensor, size: int) -> Tensor:
    """The images with `size` more pixels on each side, mirrored at the outermost ones. (F.pad does it to no uint8.)"""
    for dimension in (2, 3):
        last = pixels.shape[dimension] - 1
        index = torch.arange(-size, last + size + 1, device=pixels.device).abs()
        pixels = pixels.index_select(dimension, last - (last - index).abs())
    return pixels


def affine(
    pixels: Tensor, rotate: Tensor | float = 0.0, scale: Tensor | float = 0.0, shear: Tensor | float = 0.0
) -> Tensor:
    """Turn each float image by `rotate` degrees, clockwise, enlarge it by the share `scale`, and slant it.

    `shear` is how many pixels a row moves against the next one. As torchvision's `affine`, bilinear, black outside.
    """
    none = pixels.new_zeros(len(pixels))
    rotate, scale, shear = torch.deg2rad(none + rotate), 1 + none + scale, none + shear
    cos, sin = rotate.cos(), rotate.sin()
    # Where each pixel of the result comes from: the inverse of scale · rotation · (1 -shear; 0 1).
    inverse = [cos - shear * sin, sin + shear * cos, none, -sin, cos, none]
    inverse = torch.stack(inverse, dim=1).view(-1, 2, 3) / scale[:, None, None]
    grid = F.affine_grid(inverse, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


def views(pixels: Tensor, *, mirrored: bool) -> Iterator[tuple[float, Tensor]]:
    """An image as test-time augmentation sees it, each view with its weight; the weights add up to 1.

    As in airbench: half the weight is the image's own, the other half that of two copies, one shifted by a pixel to the
    right and down, one to the left and up. Where images are to be `mirrored`, half of each is the mirrored view's.
    """
    height, width = pixels.shape[2:]
    padded = reflected(pixels, 1)
    shifted = [(0.25, padded[:, :, at : at + height, at : at + width]) for at in (0, 2)]
    for weight, view in [(0.5, pixels), *shifted]:
        if mirrored:
            yield weight / 2, view.flip(3)
        yield weight / (1 + mirrored), view
