"""How strongly the rectified feature maps respond over a whole set of images, in one streamed pass.

The report tabulates mean and standard deviation of ReLU1 and ReLU2 over the test set; the rest is what one looks for
beside them: how sparse the maps are, and which of them never or always respond.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpret.chain import BATCH, evaluating, run, trace

# The exponent and first two bits of the fraction of a positive float32, as one number: four bins of equal width an
# octave, whose edges are exact. Bins count from 2^-16 on.
_FRACTION_BITS = 2
_SHIFT = 23 - _FRACTION_BITS
_LOWEST = (127 - 16) << _FRACTION_BITS
_BINS = (256 << _FRACTION_BITS) - _LOWEST


@dataclass(frozen=True)
class LayerStatistics:
    """Of one layer's output over all images and positions; tensors are float64 (feature maps,) on the CPU."""

    layer: str  # the module's name
    images: int  # how many were seen
    mean: float  # over every image, map and position
    std: float  # of the population (divided by n)
    zeros: float  # share of outputs that are not above zero, in [0, 1]
    map_mean: Tensor  # these three of each feature map
    map_std: Tensor
    map_zeros: Tensor
    map_images: Tensor  # share of the images in which the map is above zero anywhere, in [0, 1]
    map_max: Tensor
    histogram_edges: Tensor  # (bins + 1,), rising: powers of two from 2^-16 on, each octave cut into four equal parts
    histogram_counts: Tensor  # int64 (bins,) in [edge, next edge); the first bin holds all positive ones below it too
    zero_count: int  # with the counts it sums up to all outputs

    @property
    def dead(self) -> list[int]:
        """Numbers of the feature maps that are zero at every position of every image."""
        return (self.map_images == 0).nonzero().flatten().tolist()

    @property
    def active_in_all(self) -> list[int]:
        """Numbers of the feature maps that are above zero somewhere in every image."""
        return (self.map_images == 1).nonzero().flatten().tolist()


def activation_statistics(model: nn.Module, images: Tensor) -> list[LayerStatistics]:
    """Statistics of the outputs of all ReLU modules of the chain (ReLU1 and ReLU2 of the report), in its order.

    `images` (n, channels, height, width) are streamed, one forward pass a batch. Sums are in float32 within an image
    and in float64 over the images. ValueError as `chain.trace`.
    """
    chain = trace(model, images)
    relus = [layer for layer in chain if isinstance(layer.module, nn.ReLU)]
    sums = {layer.name: _Sums(layer.output_size) for layer in relus}
    with evaluating(model):
        for batch in images.split(BATCH):
            for name, maps in run(chain, batch):
                if name in sums:
                    sums[name].add(maps)
    return [each.statistics(name, len(images)) for name, each in sums.items()]


class _Sums:
    """What is summed up over the batches of one layer's outputs."""

    def __init__(self, output_size: tuple[int, int, int]) -> None:
        maps, height, width = output_size
        self.positions = height * width
        self.center: Tensor | None = None
        self.sum, self.squares = torch.zeros(2, maps, dtype=torch.float64)
        self.above, self.images = torch.zeros(2, maps, dtype=torch.int64)
        self.max = torch.full((maps,), -torch.inf)
        self.bins = torch.zeros(_BINS, dtype=torch.int64)

    def add(self, outputs: Tensor) -> None:
        """Take in one batch (batch, maps, height, width)."""
        outputs = outputs.float()
        if outputs.device.type == "mps":
            outputs = outputs.cpu()  # older versions of PyTorch cannot shift and count there
        if self.center is None:
            # Summing differences from about the mean keeps the variance exact where it is small beside the mean.
            self.center = outputs.mean(dim=(0, 2, 3), keepdim=True)
        differences = outputs - self.center
        self.sum += differences.sum(dim=(2, 3)).cpu().double().sum(dim=0)
        self.squares += differences.square_().sum(dim=(2, 3)).cpu().double().sum(dim=0)
        above = outputs.gt(0).float().sum(dim=(2, 3)).long().cpu()  # (batch, maps): positions; quicker than in int64
        self.above += above.sum(dim=0)
        self.images += (above > 0).sum(dim=0)
        self.max = self.max.maximum(outputs.amax(dim=(0, 2, 3)).cpu())
        # The bits of a positive float32, shifted until octave and quarter are left: the bin, without a logarithm.
        bins = (outputs.view(torch.int32) >> _SHIFT).sub_(_LOWEST).clamp_(min=0)
        self.bins += torch.bincount(bins.movedim(1, 3).flatten(), minlength=_BINS).cpu()
        self.bins[0] -= above.numel() * self.positions - above.sum()  # zeros are no part of the histogram

    def statistics(self, name: str, images: int) -> LayerStatistics:
        count = images * self.positions  # outputs of one map
        offset = self.sum / count
        map_mean = self.center.flatten().cpu().double() + offset
        map_variance = (self.squares / count - offset.square()).clamp(min=0)
        mean = map_mean.mean()
        variance = map_variance.mean() + (map_mean - mean).square().mean()  # within the maps, and between them
        zero_count = count * len(map_mean) - int(self.above.sum())
        used = int(self.bins.nonzero().max()) + 1 if self.bins.any() else 1
        edges = torch.arange(_LOWEST, _LOWEST + used + 1, dtype=torch.int32)
        return LayerStatistics(
            layer=name,
            images=images,
            mean=float(mean),
            std=float(variance.sqrt()),
            zeros=zero_count / (count * len(map_mean)),
            map_mean=map_mean,
            map_std=map_variance.sqrt(),
            map_zeros=1 - self.above.double() / count,
            map_images=self.images.double() / images,
            map_max=self.max.double(),
            histogram_edges=(edges << _SHIFT).view(torch.float32).double(),
            histogram_counts=self.bins[:used],
            zero_count=zero_count,
        )
