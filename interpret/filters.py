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


def rms(weights: Tensor) -> Tensor:
    """The root mean square of each filter's weights (maps, channels, height, width): (maps,). The paper's section 3."""
    return weights.square().mean(dim=(1, 2, 3)).sqrt()


def aliased_energy(weights: Tensor, step: int) -> Tensor:
    """The share of each filter's energy at frequencies too high for what samples its map: (maps,), in [0, 1].

    A map that is kept at every `step`-th position, by strides and poolings, can show 1 / (2 step) cycles a pixel along
    rows and columns. What a filter passes beyond that comes back as a pattern that is not there: the aliasing that the
    paper's section 4.1 finds with a stride of 4. Weights (maps, channels, height, width); with a step of 1 it is 0.
    """
    weights = weights.double()

    def low_pass(side: int) -> Tensor:  # what is left of a row or column without these frequencies
        places = torch.arange(side, dtype=torch.float64)
        return torch.sinc((places[:, None] - places) / step) / step

    rows, columns = map(low_pass, weights.shape[2:])
    energy, shown = ((weights * part).sum(dim=(1, 2, 3)) for part in (weights, rows @ weights @ columns))
    return ((energy - shown) / energy.clamp(min=1e-300)).clamp(min=0)


def strongest_filters(weights: Tensor, maps: int, inputs: int) -> tuple[Tensor, Tensor]:
    """The maps whose weights (maps, channels, height, width) are largest, and of each the channels it reads most.

    Numbers of at most `maps` maps (m,) and `inputs` channels (m, c), int64, those of the largest norm first.
    """
    squares = weights.square().sum(dim=(2, 3))  # (maps, channels)
    strongest = squares.sum(dim=1).topk(min(maps, len(squares))).indices
    return strongest, squares[strongest].topk(min(inputs, squares.shape[1])).indices
