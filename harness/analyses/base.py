"""What an analysis is given: the network, the test images, the snapshots, and what the user asked for.

`Subject` holds them, and choices that several analyses share. Read correspondence.py, the shortest analysis, next.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.checkpoint import Trained
from harness.data import ImageSet, load_images
from harness.device import choose_device, choose_threads
from harness.errors import UserError
from harness.image_sets import CNN, sets_for
from interpret.chain import convolutions
from interpret.choice import random_maps, rectified_layers, varied_images
from interpret.deconvnet import Strongest, strongest_activations

STRONGEST = 9  # activations shown of a map, as in the paper


@dataclass
class Subject:
    """What is looked at, and what was asked for. Where no analysis needs the images or snapshots, they are None."""

    trained: Trained
    shown_count: int = 5  # test images to show
    seed: int = 0
    per_filter: bool = False
    maps: Mapping[str, list[int]] | None = None  # of each convolution the numbers of the maps asked for
    images: ImageSet | None = None
    inputs: Tensor | None = None  # the test images as the network takes them, float32 (n, channels, height, width)
    labels: Tensor | None = None  # their classes (n,)
    snapshots: Mapping[int, Mapping[str, Tensor]] | None = None  # of each epoch the convolutions' weights

    @property
    def model(self) -> nn.Module:
        return self.trained.model

    @property
    def source(self) -> str:
        """What stands in every title: on what the network was trained and, if that is another set, what it is shown."""
        return self.trained.source(self.images)

    @cached_property
    def order(self) -> Tensor:
        """The random order of the test images, from the seed, of which every analysis takes the first it can use."""
        return torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(self.seed))

    @cached_property
    def shown(self) -> Tensor:
        """The numbers of the test images that invariance and occlusion show."""
        order = self.order[:1000]
        return order[varied_images(self.model, self.inputs[order], self.labels[order], self.shown_count)]

    @cached_property
    def layers(self) -> dict[str, str]:
        """Each convolution and the layer whose maps are looked at."""
        return rectified_layers(self.model, self.inputs)

    @cached_property
    def strongest(self) -> dict[str, Strongest]:
        """The strongest activations of each map of each looked-at layer over the test images."""
        return strongest_activations(self.model, self.inputs, list(self.layers.values()), count=STRONGEST)

    def chosen_maps(self, convolution: str, count: int) -> list[int]:
        """The maps asked for or, as in the paper, a random few of those that respond to anything."""
        asked = self.maps.get(convolution)
        return asked or random_maps(self.strongest[self.layers[convolution]], count, seed=self.seed)


def show_images(subject: Subject, data: str | None, *, data_dir: Path, mirror: str | None, device: str) -> None:
    """Give the subject the test images that `data` names (None: those of the training), on the device. UserError."""
    where = choose_device(device)
    choose_threads()
    subject.images = load_test_images(subject.trained, data, data_dir=data_dir, mirror=mirror)
    test = subject.images.test.to(where)
    # Laid out as in training, which is how convolutions are fastest.
    subject.model.to(where, memory_format=torch.channels_last)
    subject.inputs = subject.images.normalize(test.images).contiguous(memory_format=torch.channels_last)
    subject.labels = test.labels


def load_test_images(trained: Trained, data: str | None, *, data_dir: Path, mirror: str | None) -> ImageSet:
    """The image set that `data` names, by default the one the network was trained on; said if it is another one.

    UserError if it does not fit the network.
    """
    name = sets_for(CNN)[data] if data else trained.dataset
    images = load_images(name, data_dir=data_dir, channels=trained.channels, mirror=mirror)
    wanted = [trained.description[key] for key in ("channels", "image_size", "classes")]
    found = [*images.test.images.shape[1:3], len(images.classes)]
    if found != wanted:
        raise UserError(
            "{} takes images of {} channels and {} pixels a side in {} classes, and {} has {}, {} and {}; "
            "choose another --data".format(trained.path, *wanted, name, *found)
        )
    if images.name != trained.dataset:
        print(f"note: trained on {trained.dataset!r}; a class of {images.name} counts as the one of its number")
    elif images.checksum != trained.checksum:
        print(f"note: {images.name} here is not the very set that {trained.path} was trained on")
    return images


def maps_by_layer(asked: Iterable[tuple[str, Sequence[int]]], trained: Trained) -> dict[str, list[int]]:
    """What --maps names, by the convolution's full name; without a layer it is the last convolution.

    `asked` are results of `flags.map_numbers`. UserError if there is no such layer or map, or no convolution at all.
    """
    network = trained.model
    sizes = {name: network.get_submodule(name).out_channels for name in convolutions(network)}
    if not sizes:
        layers = ", ".join(f"{name} ({type(module).__name__})" for name, module in network.named_children())
        raise UserError(
            f"{trained.path} holds a {type(network).__name__} with the layers {layers}; "
            "only a network that begins with a chain of Conv2d, ReLU and MaxPool2d can be looked into"
        )
    chosen: dict[str, list[int]] = {}
    for layer, numbers in asked:
        names = [name for name in sizes if layer in (name, short(name))] if layer else list(sizes)
        if not names:
            raise UserError(f"--maps: there is no convolution {layer}; there is {', '.join(map(short, sizes))}")
        name = names[-1]
        for number in numbers:
            if not 0 <= number < sizes[name]:
                raise UserError(f"--maps: {short(name)} has the maps 0 to {sizes[name] - 1}, and no {number}")
        chosen[name] = list(dict.fromkeys([*chosen.get(name, []), *numbers]))  # in the order asked for, each once
    return chosen


def short(layer: str) -> str:
    """`features.conv1` as people call it: `conv1`."""
    return layer.rpartition(".")[2]
