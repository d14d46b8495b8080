"""LeNet5 as the report's CNN has it: two 5x5 convolutions, each with ReLU and max-pooling, then two linear layers.

Build it through `models.build_model`, which checks the sizes first.
"""

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

FC_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU}


class LeNet5(nn.Module):
    """Conv 5x5→32, ReLU, MaxPool 2, Conv 5x5→64, ReLU, MaxPool 2, Linear→1024, tanh or ReLU, Linear→classes.

    The convolutions pad by 2 and keep the image's size; `relu1` and `relu2` are the report's ReLU1 and ReLU2.
    The layout follows LeCun et al., "Gradient-Based Learning Applied to Document Recognition" (1998), section II.B,
    with the layer sizes of the assignment that the report answers.
    """

    SIZES: ClassVar = {  # what build_model allows: a range, smallest and largest, or choices
        "channels": (1, 64),
        "image_size": (4, 1024),
        "classes": (2, 10_000),
        "fc_activation": tuple(FC_ACTIVATIONS),
    }

    def __init__(self, *, channels: int, image_size: int, classes: int, fc_activation: str) -> None:
        """`channels` and `image_size` (pixels a side, at least 4) of the input; `fc_activation` is "tanh" or "relu"."""
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, kernel_size=5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, kernel_size=5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
            )
        )
        side = image_size // 2 // 2
        self.classifier = nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(64 * side * side, 1024),
                activation=FC_ACTIVATIONS[fc_activation](),
                fc2=nn.Linear(1024, classes),
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channels, size, size) to logits (batch, classes)."""
        if not self.training:
            return self.classifier(self.features(images))
        # With each ReLU behind its pooling: the same bits, forward and back, from a quarter of the work. The largest of
        # a window does not change when the negative ones become zero, unless all are negative, and then neither order
        # passes a gradient on. Outside training the order is as written, for those who look at the ReLUs' outputs.
        layers = self.features
        maps = layers.relu1(layers.pool1(layers.conv1(images)))  # (batch, 32, size/2, size/2)
        maps = layers.relu2(layers.pool2(layers.conv2(maps)))  # (batch, 64, size/4, size/4)
        return self.classifier(maps)
