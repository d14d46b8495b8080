"""The learned filters themselves (the paper's figures 2, layer 1, and 6), and how to see them as pictures."""

import torch
from torch import Tensor


def filter_pictures(weights: Tensor, *, per_filter: bool = False) -> tuple[Tensor, Tensor]:
    """Weights (maps, channels, height, width) as pictures in [0, 1] of the same shape, 0.5 standing for weight zero.

    Also returns the limit, the largest absolute weight that 0 and 1 stand for: one for all () or, `per_filter`, one for
    each map (maps,). A filter of nothing but zeros is 0.5 everywhere. With three channels a picture is an RGB image;
    with one, gray; with more, each (map, channel) is a gray picture of its own.
    """
    limit = weights.abs().amax(dim=(1, 2, 3)) if per_filter else weights.abs().max()
    scale = limit.where(limit > 0, torch.ones_like(limit)).view(-1, 1, 1, 1)
    return (weights / scale + 1) / 2, limit


def strongest_filters(weights: Tensor, maps: int, inputs: int) -> tuple[Tensor, Tensor]:
    """The maps whose weights (maps, channels, height, width) are largest, and of each the channels it reads most.

    Numbers of at most `maps` maps (m,) and `inputs` channels (m, c), int64, those of the largest norm first.
    """
    squares = weights.square().sum(dim=(2, 3))  # (maps, channels)
    strongest = squares.sum(dim=1).topk(min(maps, len(squares))).indices
    return strongest, squares[strongest].topk(min(inputs, squares.shape[1])).indices
