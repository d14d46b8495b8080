"""Which layers, maps and images are looked at, on networks and activations whose right choice is plain to see."""

import torch
from interpret_networks import images, lenet5
from torch import nn

from interpret.choice import random_maps, rectified_layers, varied_images
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


def test_random_maps_are_some_that_respond_and_of_a_dead_layer_any():
    half = _strongest([0.0, 1.0] * 20)
    draws = [random_maps(half, 5, seed=seed) for seed in range(20)]
    for maps in draws:
        assert maps == sorted(set(maps)) and len(maps) == 5
        assert all(number % 2 == 1 for number in maps)
    assert {number for maps in draws for number in maps} == set(range(1, 40, 2))  # each has its chance
    assert random_maps(half, 5, seed=3) == draws[3]
    assert random_maps(half, 99, seed=0) == list(range(1, 40, 2))
    assert random_maps(_strongest([0.0] * 4), 9, seed=0) == [0, 1, 2, 3]


def test_varied_images_take_turns_between_classes_and_end_with_the_wrong_ones():
    class Answers(nn.Module):
        """Its answer is what each image's only pixel says."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(inputs.flatten().long(), 3).float()

    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    answers = torch.tensor([0, 0, 0, 2, 1, 2, 0])  # images 3 and 6 are taken for another class
    chosen = [varied_images(Answers(), answers.view(-1, 1, 1, 1), labels, count).tolist() for count in (3, 7, 9)]
    assert chosen == [[0, 4, 5], [0, 4, 5, 1, 2, 3, 6], [0, 4, 5, 1, 2, 3, 6]]
