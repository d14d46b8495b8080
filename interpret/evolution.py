"""How features come about in training: the same maps' strongest reconstruction at several epochs (figure 4)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpret.chain import BATCH, trace
from interpret.deconvnet import reconstruct, strongest_activations


@dataclass(frozen=True)
class Stage:
    """One epoch of the evolution, on the CPU; everything is (chosen maps, …), in the order of `maps`.

    `images`, `rows`, `columns` int64 (maps,): where over all images the map is strongest; `values` float32 (maps,);
    `reconstructions` float32 (maps, channels, height, width).
    """

    epoch: int
    images: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    reconstructions: Tensor


def evolution(
    model: nn.Module,
    images: Tensor,
    layer: str,
    maps: Sequence[int],
    weights: Mapping[int, Mapping[str, Tensor]],
    *,
    batch_size: int = BATCH,
) -> list[Stage]:
    """The strongest activation over `images` of each of `maps` at each epoch, projected to pixel space (figure 4).

    `weights` is epoch -> part of a state dict, for example the convolution weights of a run's snapshot; what it does
    not hold (biases, if it has weights only) stays as `model` has it. `images` (n, channels, height, width); `layer`
    any chain layer. Stages come in order of epoch. The model itself is not changed: each stage is a copy.

    Jumps from one stage to the next are mostly changes of the image that is strongest, as the paper says of its own.

    Raises ValueError as `chain.trace`, if a map does not exist, or if weights do not fit the model.
    """
    chosen = torch.tensor(list(maps), dtype=torch.int64)
    count = trace(model, images, layer)[-1].output_size[0]
    for number in maps:
        if not 0 <= number < count:
            raise ValueError(f"there is no map {number} in {layer}, which has maps 0 to {count - 1}")
    stages = []
    for epoch in sorted(weights):
        # Over all images anew: what excites a map most at one epoch need not at the next.
        then = _with_weights(model, weights[epoch], epoch)
        strongest = strongest_activations(then, images, [layer], count=1, batch_size=batch_size)[layer]
        index, rows, columns = (each[chosen, 0] for each in (strongest.images, strongest.rows, strongest.columns))
        pixels = reconstruct(then, images[index.to(images.device)], layer, chosen, rows, columns, batch_size=batch_size)
        stages.append(Stage(epoch, index, rows, columns, strongest.values[chosen, 0], pixels.float().cpu()))
    return stages


def _with_weights(model: nn.Module, weights: Mapping[str, Tensor], epoch: int) -> nn.Module:
    """A copy of the model with the given part of its state replaced."""
    then = copy.deepcopy(model)
    try:
        unknown = then.load_state_dict(dict(weights), strict=False).unexpected_keys
    except RuntimeError as error:  # another shape
        raise ValueError(f"the weights of epoch {epoch} are another network's: {error}") from error
    if unknown or not weights:
        raise ValueError(
            f"the weights of epoch {epoch} are another network's: {', '.join(unknown) or 'there are none'}"
        )
    return then.to(memory_format=torch.channels_last)  # the layout in which pooling is fastest on a CPU
