"""Which layers, maps and images are looked at, on networks and activations whose right choice is plain to see."""

import torch
from interpret_networks import images, lenet5
from torch import nn

from interpret.choice import rectified_layers, strongest_maps, varied_images
from interpret.deconvnet import Strongest


def test_a_convolution_is_looked_at_behind_its_relu_or_bare_without_one():
    model, pictures = lenet5()
    assert rectified_layers(model, pictures) == {
        "features.conv1": "features.relu1",
        "features.conv2": "features.relu2",
    }
    bare = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU())
    assert rectified_layers(bare, images(1, 1, 12, 12)) == {"0": "0", "2": "3"}


def _strongest(values: list[float]) -> Strongest:
    column = torch.tensor(values)[:, None]
    nowhere = torch.zeros_like(column, dtype=torch.int64)
    return Strongest(nowhere, nowhere, nowhere, column)


def test_strongest_maps_come_first_and_silent_ones_only_if_all_are() -> None:
    strongest = _strongest([0.0, 1.0, 3.0, 0.0, 2.0, 1.0])
    assert strongest_maps(strongest, 2) == [2, 4]
    assert strongest_maps(strongest, 9) == [2, 4, 1, 5]  # of equals the earlier one
    assert strongest_maps(_strongest([0.0] * 4), 3) == [0, 1, 2]


def test_varied_images_take_turns_between_classes_and_end_with_the_wrong_ones():
    class Answers(nn.Module):
        """Its answer is what each image's only pixel says."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(inputs.flatten().long(), 3).float()

    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    answers = torch.tensor([0, 0, 0, 2, 1, 2, 0])  # images 3 and 6 are taken for another class
    chosen = [varied_images(Answers(), answers.view(-1, 1, 1, 1), labels, count).tolist() for count in (3, 7, 9)]
    assert chosen == [[0, 4, 5], [0, 4, 5, 1, 2, 3, 6], [0, 4, 5, 1, 2, 3, 6]]
