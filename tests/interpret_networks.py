"""Small untrained networks for the tests of interpret/: LeNet5's path, and one that is nothing like it."""

import pytest
import torch
from torch import Tensor, nn

from models import build_model


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a few images are more than one batch; a test file that imports this has it."""
    for name in ("activations", "chain", "deconvnet", "occlusion", "probe"):
        monkeypatch.setattr(f"interpret.{name}.BATCH", 4)


def lenet5(channels: int = 1, image_size: int = 16) -> tuple[nn.Module, Tensor]:
    """The project's own network, and six images for it."""
    description = {"name": "LeNet5", "channels": channels, "image_size": image_size, "classes": 10}
    model = build_model({"model": description | {"fc_activation": "tanh"}}, seed=0)
    return model, images(6, channels, image_size, image_size)


def other(channels: int = 3) -> tuple[nn.Module, Tensor]:
    """Three convolutions with strides and odd kernels, overlapping pools, in-place ReLU, oblong images, dropout."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(channels, 7, (3, 5), stride=(2, 1), padding=(1, 0)),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(7, 5, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 6, 2),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.LazyLinear(11),
        nn.ReLU(),
        nn.Linear(11, 4),
    )
    pictures = images(6, channels, 30, 26)
    model(pictures)
    return model, pictures


def folded() -> tuple[nn.Module, Tensor]:
    """The strong network with few maps, after a few steps, in its folded form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.vgg.MAPS", (4, 6, 6, 8, 8, 8, 8))
        model = build_model({"model": {"name": "VGG", "channels": 3, "image_size": 18, "classes": 4}}, seed=0)
        pictures = images(6, 3, 18, 18)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
        for _ in range(20):
            model.train()(pictures)  # for the running statistics
        return model.eval().folded(), pictures


def images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


NETWORKS = {
    "gray LeNet5": lenet5,
    "color LeNet5": lambda: lenet5(channels=3, image_size=20),
    "another network": other,
    "strong network": folded,
    "another in gray": lambda: other(channels=1),
}
