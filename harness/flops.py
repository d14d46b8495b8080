"""How much a training computes, counted: the measure by which recipes are compared whatever the machine.

Counted are the products of convolutions, linear and recurrent layers, a multiply-add as two operations, and the way
back as twice the way forth, since it takes the gradients of the inputs and of the weights. All else is a small share.
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def flops_per_image(model: nn.Module, image: Tensor) -> int:
    """Floating-point operations to train on one image, (1, channels, height, width) as the model takes it.

    A recurrent layer is counted as one that reads an image's rows. The model is left in evaluation mode.
    """
    places: dict[nn.Module, int] = {}  # at how many positions a layer's weights are used

    def count(layer: nn.Module, _: tuple, output: Tensor) -> None:
        places[layer] = places.get(layer, 0) + output.numel() // len(layer.weight)

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    model.eval()(image)
    for hook in hooks:
        hook.remove()
    places |= {module: image.shape[2] for module in model.modules() if isinstance(module, nn.RNNBase)}
    matrices = ((p.numel(), times) for m, times in places.items() for p in m.parameters() if p.ndim > 1)
    return 3 * 2 * sum(numbers * times for numbers, times in matrices)
