"""Which pixels an answer hangs on: gradient times input beside what covering them really costs.

Works on any classifier of images (n, channels, height, width). `background` is the value of a pixel with nothing on it,
normalized: that of black for digits. Both methods ask what would change if a place were background: the gradient by
a straight line from one pass, covering by trying (the paper's section 4.2).
"""

import torch
from torch import Tensor, nn

from interpret.chain import BATCH, evaluating
from interpret.occlusion import hide, square_positions


def gradient_times_input(model: nn.Module, images: Tensor, labels: Tensor, background: float) -> Tensor:
    """The gradient of the logit of `labels` (n,) times how far each pixel is from the background, as the images.

    Summed over a part of an image it says how much that part adds to the logit, were the network linear (Shrikumar et
    al. 2016, arXiv 1605.01713).
    """
    parts = []
    for batch, label in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        inputs = batch.detach().clone().requires_grad_()
        # cuDNN's recurrent layers have no backward pass in evaluation mode; PyTorch's own have.
        with evaluating(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            logits = model(inputs).gather(1, label[:, None]).sum()
            (gradient,) = torch.autograd.grad(logits, inputs)
        parts.append(gradient * (batch - background))
    return torch.cat(parts).cpu()


def covered_rows(model: nn.Module, images: Tensor, background: float) -> Tensor:
    """The logits with one row of the image covered: (n, height, classes), on the CPU."""
    height = images.shape[2]
    covered = images.repeat_interleave(height, dim=0)  # (n * height, channels, height, width)
    covered[torch.arange(len(covered)), :, torch.arange(height).repeat(len(images))] = background
    with evaluating(model):
        logits = torch.cat([model(batch) for batch in covered.split(BATCH)])
    return logits.unflatten(0, (len(images), height)).cpu()


def covered_squares(model: nn.Module, images: Tensor, size: int, background: float) -> Tensor:
    """The logits with a square of `size` pixels covered at each place: (n, down, across, classes), on the CPU."""
    down, across = (square_positions(side, size, 1) for side in images.shape[2:])
    tops, lefts = torch.cartesian_prod(down, across).t()
    logits = []
    with evaluating(model):
        for image in images:
            covered = hide(image.expand(len(tops), *image.shape), tops, lefts, size, background)
            logits.append(torch.cat([model(batch) for batch in covered.split(BATCH)]))
    return torch.stack(logits).unflatten(1, (len(down), len(across))).cpu()
