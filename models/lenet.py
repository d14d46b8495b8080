"""LeNet5 as the report's CNN has it: two 5x5 convolutions, each with ReLU and max-pooling, then two linear layers.

Build it through `models.build_model`, which checks the sizes first.
"""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

FC_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


class LeNet5(nn.Module):
    """Conv 5x5→32, ReLU, MaxPool 2, Conv 5x5→64, ReLU, MaxPool 2, Linear→1024, tanh or ReLU, Linear→classes.

    The convolutions pad so as to keep the image's size; `relu1` and `relu2` are the report's ReLU1 and ReLU2.
    The layout follows LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998), section II.B,
    with the layer sizes of the assignment that the report answers.
    """

    SIZES: ClassVar = {  # what build_model allows: a range, smallest and largest, or choices
        "channels": (1, 64),
        "image_size": (4, 1024),
        "classes": (2, 10_000),
        "fc_activation": tuple(FC_ACTIVATIONS),
        "kernel_size": tuple(range(1, 16, 2)),
        "stride": (1, 8),
        "conv1_maps": (0, 4096),
        "conv2_maps": (0, 4096),
        "fc_units": (0, 65_536),
    }
    # Of the report's network, whose configs do not record them.
    DEFAULTS: ClassVar = {"kernel_size": 5, "stride": 1, "conv1_maps": 32, "conv2_maps": 64, "fc_units": 1024}

    def __init__(
        self,
        *,
        channels: int,
        image_size: int,
        classes: int,
        fc_activation: str,
        kernel_size: int,
        stride: int,
        conv1_maps: int,
        conv2_maps: int,
        fc_units: int,
    ) -> None:
        """`channels` and `image_size` (pixels a side, at least 4) of the input; `fc_activation` is "tanh" or "relu".

        `kernel_size`, which is odd, and `stride` are the first convolution's. With 0 maps there is no such convolution,
        nor its ReLU and pooling; with 0 `fc_units` no hidden linear layer. ValueError if the stride leaves no pixel.
        """
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, side = channels, image_size
        for number, maps, kernel, step in ((1, conv1_maps, kernel_size, stride), (2, conv2_maps, 5, 1)):
            if maps:
                layers[f"conv{number}"] = nn.Conv2d(inputs, maps, kernel, step, padding=kernel // 2)
                layers[f"relu{number}"] = nn.ReLU()
                layers[f"pool{number}"] = nn.MaxPool2d(2)
                inputs, side = maps, ((side - 1) // step + 1) // 2
        if not side:
            raise ValueError(f"LeNet5 with stride {stride} leaves nothing of {image_size} pixels a side")
        self.features = nn.Sequential(layers)
        self.classifier = nn.Sequential(OrderedDict(flatten=nn.Flatten()))
        values = inputs * side * side
        if fc_units:
            self.classifier.add_module("fc1", nn.Linear(values, fc_units))
            self.classifier.add_module("activation", FC_ACTIVATIONS[fc_activation]())
            values = fc_units
        self.classifier.add_module("fc2", nn.Linear(values, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, size, size) to logits (batch, classes)."""
        if not self.training:
            return self.classifier(self.features(images))
        # With each ReLU behind its pooling: the same bits, forward and back, from a quarter of the work. The largest of
        # a window does not change when the negative ones become zero, unless all are negative, and then neither order
        # passes a gradient on. Outside training the order is as written, for those who look at the ReLUs' outputs.
        maps, layers = images, iter(self.features)
        for convolution, relu, pool in zip(layers, layers, layers, strict=True):
            maps = relu(pool(convolution(maps)))  # (batch, 32, size/2, size/2), then (batch, 64, size/4, size/4)
        return self.classifier(maps)
