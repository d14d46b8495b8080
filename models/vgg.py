"""The strong network for color images: seven 3x3 convolutions with batch normalization, in the shape of VGG.

Its widths, its start near the identity and its quick biases are those of cifar10-airbench94 (Jordan 2024, arXiv
2404.00498). Build it through `models.build_model`, which checks the sizes first; to look inside take its `folded` form.
"""

import copy
import math
from collections import OrderedDict
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.convolution import Convolution

MAPS = (32, 64, 64, 256, 256, 256, 256)  # of each convolution
POOLED = (2, 4, 6)  # the convolutions behind which each side is halved
FALL = 3.0  # from one frequency to the next, natural images hold so many times less of a pattern
BIAS_GAIN = 8.0  # the normalizations' biases count so many times: then SGD trains them at 64 times the learning rate
LOGIT_SCALE = 1 / 9  # maxima over the last maps are large
MOMENTUM = 0.4  # share of a step in the running statistics: few epochs change them quickly


class VGG(nn.Module):
    """Blocks of convolution, max-pooling in some, batch normalization and ReLU; then the maximum of each map, Linear.

    After Simonyan & Zisserman (2015). A normalization adds a bias but has no factor, which the next convolution can
    have as well. Without a negative factor it keeps the order of values, as ReLU does: behind a pooling both give what
    they would give before it, from a quarter of the work. (The mean and variance of a batch then are those of the
    pooled maps.) Under torchrun each rank normalizes by its own part of a batch.
    """

    SIZES: ClassVar = {  # what build_model allows; the smallest image has 2 x 2 positions after three poolings
        "channels": (1, 64),
        "image_size": (18, 1024),
        "classes": (2, 10_000),
    }

    def __init__(self, *, channels: int, image_size: int, classes: int) -> None:
        """`channels` and `image_size` (pixels a side, at least 18) of the input."""
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (inputs, maps) in enumerate(zip((channels, *MAPS), MAPS, strict=False), start=1):
            # The first one pads nothing: sides of 30, 15, 7 and 3 take a fifth less work than 32, 16, 8 and 4.
            kind, padding = (InPatterns, 0) if number == 1 else (Convolution, 1)
            layers[f"conv{number}"] = kind(inputs, maps, padding=padding)
            if number in POOLED:
                layers[f"pool{number}"] = nn.MaxPool2d(2)
            layers[f"norm{number}"] = BatchNorm(maps)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers["pool"] = nn.MaxPool2d((image_size - 2) // 2 ** len(POOLED))
        self.features = nn.Sequential(layers)
        self.classifier = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(MAPS[-1], classes)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, size, size) to logits (batch, classes)."""
        return self.classifier(self.features(images)) * LOGIT_SCALE

    def start(self) -> None:
        """Replace some of the convolutions' first weights, which models.initialize has drawn.

        The first maps of each convolution hand on the maps that it reads, so that the image's content reaches every
        depth from the first step on. The first convolution begins with the smoothest patterns and their negatives.
        """
        first, *others = (module.weight for module in self.features if isinstance(module, nn.Conv2d))
        with torch.no_grad():
            patterns = torch.eye(first[0].numel()).view(-1, *first.shape[1:])[: len(first) // 2]
            first[: 2 * len(patterns)] = torch.stack([patterns, -patterns], dim=1).flatten(0, 1)
            for weight in others:
                nn.init.dirac_(weight[: weight.shape[1]])

    def folded(self) -> "VGG":
        """A copy that computes the same in evaluation mode, as a plain chain of Conv2d, ReLU and MaxPool2d.

        Each normalization is folded into its convolution's weights and bias, and pooling stands behind the ReLU again.
        """
        plain = copy.deepcopy(self).eval()
        layers = dict(plain.features.named_children())
        chain: OrderedDict[str, nn.Module] = OrderedDict()
        for number in range(1, len(MAPS) + 1):
            trained, norm = layers[f"conv{number}"], layers[f"norm{number}"]
            with torch.device("meta"):  # its own weights would be drawn in vain
                convolution = nn.Conv2d(*trained.weight.shape[1::-1], 3, padding=trained.padding)
            filters = trained.filters() if number == 1 else trained.weight
            statistics = norm.running_mean, norm.running_var, norm.eps
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                filters, None, *statistics, None, BIAS_GAIN * norm.bias
            )
            after = (f"relu{number}", f"pool{number}")
            chain |= {f"conv{number}": convolution} | {name: layers[name] for name in after if name in layers}
        plain.features = nn.Sequential(chain | {"pool": layers["pool"]})
        return plain


class InPatterns(Convolution):
    """A first convolution that learns how much of each pattern its filters hold.

    `weight` has these numbers, in the order of `cosine_patterns`. A step of SGD on pixels would be one towards what
    most of an image is, its brightness over some pixels: a little of that drowns the fine pattern that a filter had.
    Here all patterns move its output alike, as if the images had been whitened.
    """

    def filters(self) -> Tensor:
        """What the images are convolved with, (maps, channels, 3, 3)."""
        with torch.autocast(self.weight.device.type, enabled=False):
            patterns = cosine_patterns(*self.weight.shape[1:3], self.weight.device)
            return (self.weight.flatten(1) @ patterns.flatten(1)).view_as(self.weight)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.filters())


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization (Ioffe & Szegedy 2015) with a bias and no factor, and a bias that learns more quickly."""

    def __init__(self, maps: int) -> None:
        super().__init__(maps, momentum=MOMENTUM)
        self.weight = None

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        nn.init.zeros_(self.bias)

    def forward(self, maps: Tensor) -> Tensor:
        running = self.running_mean, self.running_var
        return F.batch_norm(maps, *running, None, BIAS_GAIN * self.bias, self.training, self.momentum, self.eps)


def cosine_patterns(channels: int, side: int, device: torch.device | None = None) -> Tensor:
    """The patterns of the discrete cosine transform over channels, rows and columns, the smoothest first.

    (channels · side², channels, side, side), orthogonal to one another. Of three channels they weigh brightness, red
    against blue, and green against both. The principal components of natural images are much like them (Ahmed,
    Natarajan & Rao 1974). Each is as long as it takes for all to answer about equally to such images: they whiten.
    """

    def transform(count: int) -> Tensor:  # (frequency, place)
        places = torch.arange(count, device=device)
        waves = torch.cos(math.pi / count * torch.outer(places, places + 0.5))
        return waves / waves.norm(dim=1, keepdim=True)

    over_channels, over_side = transform(channels), transform(side)
    patterns = torch.einsum("ax,by,cz->abcxyz", over_channels, over_side, over_side).flatten(0, 2)
    frequencies = torch.cartesian_prod(*(torch.arange(count, device=device) for count in (channels, side, side)))
    frequencies, order = frequencies.sum(dim=1).sort(stable=True)
    return FALL ** frequencies.view(-1, 1, 1, 1) * patterns[order]
