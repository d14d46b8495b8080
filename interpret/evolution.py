"""How features come about in training: the same maps' strongest reconstruction at several epochs (figure 4)."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from interpret.deconvnet import Activations, reconstruct, strongest_activations


def evolution(
    model: nn.Module, images: Tensor, maps: Mapping[str, Sequence[int]], weights: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, dict[int, Activations]]:
    """The strongest activation over `images` of each of `maps` at each epoch, projected to pixel space (figure 4).

    `maps` is layer -> numbers of its maps, any chain layers. `weights` is epoch -> part of the model's state dict, for
    example the convolution weights of a run's snapshot; what it does not hold (biases, if it has weights only) stays as
    `model` has it. `images` (n, channels, height, width). Returns layer -> epoch -> Activations in the order of the
    layer's maps, in order of epoch. Each epoch's network is a copy of the model.

    Jumps from one epoch to the next are mostly changes of the image that is strongest, as the paper says of its own.
    ValueError as `chain.trace`.
    """
    stages: dict[str, dict[int, Activations]] = {layer: {} for layer in maps}
    for epoch in sorted(weights):
        then = copy.deepcopy(model)
        then.load_state_dict(weights[epoch], strict=False)
        then.to(memory_format=torch.channels_last)  # the layout in which pooling is fastest on a CPU
        # Over all images anew: what excites a map most at one epoch need not at the next.
        for layer, strongest in strongest_activations(then, images, list(maps), count=1).items():
            chosen = torch.tensor(maps[layer])
            index, rows, columns, values = (each[chosen, 0] for each in strongest)
            pixels = reconstruct(then, images[index.to(images.device)], layer, chosen, rows, columns)
            stages[layer][epoch] = Activations(index, rows, columns, values, pixels.cpu())
    return stages
