"""What an analysis is given: the network, the images, the snapshots, and what the user asked for.

`Subject` holds them, and choices that several analyses share. Read correspondence.py, the shortest analysis, next.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from harness.checkpoint import Trained, folded
from harness.data import ImageSet, Split, load_images
from harness.device import choose_device, choose_threads
from harness.errors import UserError, one_line
from harness.files import read_file
from harness.flags import training_command
from harness.flops import flops_per_image
from harness.image_sets import CNN, IMAGE_SETS, RNN, sets_for
from harness.run import read_config
from interpret.chain import convolutions
from interpret.choice import rectified_layers, strongest_maps, varied_images
from interpret.deconvnet import Strongest, strongest_activations

SEARCH = 2e12  # operations, counted as in training, to search images with: enough for 10,000 of most LeNet5s
STRONGEST = 9  # activations shown of a map, as in the paper
OWN = "your own"  # the name of an image set of pictures that --image names


@dataclass
class Subject:
    """What is looked at, and what was asked for. Where no analysis needs the images or snapshots, they are None.

    With `own`, the names of a person's own pictures, these are the test images, and their classes are the network's
    answers.
    """

    trained: Trained
    shown_count: int = 5  # test images to show
    seed: int = 0
    per_filter: bool = False
    maps: Mapping[str, list[int]] | None = None  # of each convolution the numbers of the maps asked for
    images: ImageSet | None = None
    inputs: Tensor | None = None  # the test images as the network takes them, float32 (n, channels, height, width)
    labels: Tensor | None = None  # their classes (n,)
    snapshots: Mapping[int, Mapping[str, Tensor]] | None = None  # of each epoch the convolutions' weights
    others: Sequence[ImageSet] = ()  # images whose classes the network did not learn
    own: Sequence[str] = ()
    build_model: Callable | None = None

    @property
    def model(self) -> nn.Module:
        return self.trained.model

    @property
    def recurrent(self) -> nn.RNNBase | None:
        """The recurrent layer or layers, if it is a recurrent network."""
        return getattr(self.model, "recurrent", None)

    @property
    def network(self) -> str:
        """What figures and messages call it: LSTM, GRU, RNN or the CNN's name."""
        return type(self.recurrent or self.model).__name__

    @cached_property
    def untrained(self) -> nn.Module:
        """The same network before any training, as `--seed 0` draws it."""
        model = self.build_model({"model": self.trained.description}, seed=0)
        return folded(model.to(self.inputs.device).eval()).to(memory_format=torch.channels_last)

    @property
    def background(self) -> float:
        """A black pixel, as the network takes it."""
        return float(self.images.normalize(torch.zeros(1, dtype=torch.uint8)))

    @property
    def source(self) -> str:
        """What stands in every title: on what the network was trained and, if that is another set, what it is shown."""
        return self.trained.source(self.images)

    @cached_property
    def order(self) -> Tensor:
        """The random order of the test images, from the seed, of which every analysis takes the first it can use."""
        return torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(self.seed))

    @cached_property
    def searched(self) -> Tensor:
        """The numbers of the test images that maps are measured on: all, or as many random ones as SEARCH allows."""
        count = int(SEARCH / flops_per_image(self.model, self.inputs[:1]))
        return self.order[: max(STRONGEST, count)].sort().values

    @property
    def searched_images(self) -> str:
        """What texts call them."""
        count = len(self.searched)
        return f"{count:,} {'random ' * (count < len(self.inputs))}test images"

    @cached_property
    def shown(self) -> Tensor:
        """The numbers of the test images that are shown one by one."""
        if self.own:
            return torch.arange(len(self.own))
        order = self.order[:1000]
        return order[varied_images(self.model, self.inputs[order], self.labels[order], self.shown_count)]

    @cached_property
    def shown_convolutions(self) -> set[str]:
        """The convolutions that get pictures: the first, the middle and the last, and those of --maps."""
        names = convolutions(self.model)
        return {names[0], names[len(names) // 2], names[-1], *(self.maps or ())}

    @property
    def not_shown(self) -> str:
        """The sentence that ends the texts of what is drawn of each of them."""
        left = [short(name) for name in convolutions(self.model) if name not in self.shown_convolutions]
        return f" Without {', '.join(left)}: name a map, as in --maps {left[0]}:0, to see one of these." if left else ""

    @cached_property
    def layers(self) -> dict[str, str]:
        """Each convolution that gets pictures and the layer whose maps are looked at."""
        layers = rectified_layers(self.model, self.inputs)
        return {name: layer for name, layer in layers.items() if name in self.shown_convolutions}

    @cached_property
    def strongest(self) -> dict[str, Strongest]:
        """The strongest activations of each map of each looked-at layer over the images searched."""
        layers = list(self.layers.values())
        found = strongest_activations(self.model, self.inputs[self.searched], layers, count=STRONGEST)
        return {name: each._replace(images=self.searched[each.images]) for name, each in found.items()}

    @property
    def asked_class(self) -> str:
        """Of which class the probability is followed: an own picture's true class is not known."""
        return "first answer" if self.own else "true class"

    @property
    def image_column(self) -> str:
        return "picture" if self.own else "test image"

    def image_name(self, image: int) -> int | str:
        return self.own[image] if self.own else image

    def captions(self, shown: Sequence[int]) -> list[str]:
        """What a figure calls the images: the class, of an own picture its name, too."""
        classes = [self.images.classes[label] for label in self.labels[shown].tolist()]
        return [f"{self.own[i]}: {each}" if self.own else each for i, each in zip(shown, classes, strict=True)]

    def chosen_maps(self, convolution: str, count: int) -> list[int]:
        """The maps asked for or, strongest first, the few with the largest activations."""
        return self.maps.get(convolution) or strongest_maps(self.strongest[self.layers[convolution]], count)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` is, or best.pt of the run's folder that it is.

    Where there is none, as in the committed runs, UserError says which command makes one.
    """
    file = path if path.is_file() or path.suffix == ".pt" else path / "best.pt"
    if file.exists():
        return file
    run = file.parent
    runs = sorted(config.parent for config in path.glob("**/config.json") if config.parent != path)
    if runs:
        raise UserError(f"{path} is a folder of runs; name one, such as {runs[0]}")
    recorded = read_config(run)["flags"] if (run / "config.json").exists() else {}
    training = training_command(RNN if "cell" in recorded else CNN, recorded)
    raise UserError(f"there is no {file}; {training} makes one, and prints the run folder to name here")


def lacks(layer: nn.RNNBase) -> dict[str, str]:
    """Of the needs of analyses those that this recurrent layer does not meet, and why."""
    unmet = {}
    if layer.num_layers > 1 or layer.bidirectional:
        unmet["steps"] = "the network has more than one layer or direction"
    if isinstance(layer, nn.RNN):
        unmet["gates"] = "a plain RNN has no gates"
    return unmet


def show_images(
    subject: Subject, data: str | None, *, data_dir: Path, mirror: str | None, device: str, own: Sequence[Path] = ()
) -> None:
    """Give the subject the test images that `data` names (None: those of the training), or its own, on the device.

    What the network makes of own pictures is printed. UserError.
    """
    where = choose_device(device)
    choose_threads()
    subject.images = load_test_images(subject.trained, data, data_dir=data_dir, mirror=mirror)
    if own:
        subject.own = [file.name[-24:] for file in own]  # a longer one would not fit above its picture
        channels, size = subject.trained.channels, subject.images.test.images.shape[-1]
        pixels = torch.stack([read_picture(file, channels, size) for file in own])
        unknown = torch.zeros(len(own), dtype=torch.int64)
        subject.images = replace(subject.images, name=OWN, checksum="", test=Split(pixels, unknown))
    test = subject.images.test.to(where)
    # Laid out as in training, which is how convolutions are fastest.
    subject.model.to(where, memory_format=torch.channels_last)
    subject.inputs = subject.images.normalize(test.images).contiguous(memory_format=torch.channels_last)
    subject.labels = test.labels
    if own:
        with torch.no_grad():
            probabilities = subject.model(subject.inputs).softmax(dim=1)  # (n, classes)
        subject.labels = probabilities.argmax(dim=1)
        subject.images = replace(subject.images, test=Split(subject.images.test.images, subject.labels.cpu()))
        for name, shares in zip(subject.own, probabilities.cpu(), strict=True):
            print(name)
            for share, index in zip(*map(Tensor.tolist, shares.topk(min(5, len(shares)))), strict=True):
                print(f"  {subject.images.classes[index]:16} {share:.3f}")


def read_picture(file: Path, channels: str, size: int) -> Tensor:
    """A person's picture as the training images are: uint8 (1 or 3 channels, size, size), cut to its middle square.

    UserError if it cannot be read.
    """
    content = io.BytesIO(read_file(file))
    try:
        picture = ImageOps.exif_transpose(Image.open(content)).convert("RGB" if channels == "rgb" else "L")
    except Exception as error:  # Pillow fails in many ways on what is no picture
        raise UserError(f"{file} is no picture that can be read") from error
    pixels = np.atleast_3d(np.asarray(ImageOps.fit(picture, (size, size))))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def load_test_images(trained: Trained, data: str | None, *, data_dir: Path, mirror: str | None) -> ImageSet:
    """The image set that `data` names, by default the one the network was trained on; said if it is another one.

    UserError if it does not fit the network.
    """
    sizes = trained.description
    recurrent = "cell" in sizes  # then the drawn set of this name is another, and a row is a step
    name = (sets_for(CNN) | (sets_for(RNN) if recurrent else {}))[data] if data else trained.dataset
    classes = trained.classes if name == trained.dataset else ""
    images = load_images(name, data_dir=data_dir, channels=trained.channels, mirror=mirror, classes=classes)
    wanted = [sizes.get("channels", 1), sizes["input_size" if recurrent else "image_size"], sizes["classes"]]
    found = [*images.test.images.shape[1:3], len(images.classes)]
    if found != wanted:
        raise UserError(
            "{} takes images of {} channels and {} pixels a side in {} classes, and {} has {}, {} and {}; "
            "choose another --data".format(trained.path, *wanted, name, *found)
        )
    if images.name != trained.dataset:
        print(f"note: trained on {one_line(trained.dataset)}; a class of {images.name} counts as the one of its number")
    elif images.checksum != trained.checksum:
        print(f"note: {images.name} here is not the very set that {trained.path} was trained on")
    return images


def other_images(trained: Trained, data_dir: Path, mirror: str | None) -> list[ImageSet]:
    """Images whose classes the network did not learn: the other classes of its image set, trained with --classes.

    Of a network that learned them all: the sets in `data_dir` with images of the same size. UserError as load_images.
    """
    own, learned = IMAGE_SETS[trained.dataset], trained.classes.split(",")
    left = [str(number) for number in range(own.class_count) if str(number) not in learned]
    if trained.classes:
        found = {trained.dataset: ",".join(left)} if len(left) > 1 else {}
    else:
        alike = (each for each in IMAGE_SETS.items() if each[1].archives and each[1].lies_in(data_dir))
        shape = own.channels, own.size
        found = {name: "" for name, set_ in alike if name != trained.dataset and (set_.channels, set_.size) == shape}
    options = {"data_dir": data_dir, "channels": trained.channels, "mirror": mirror}
    return [load_images(name, classes=classes, **options) for name, classes in found.items()]


def maps_by_layer(asked: Iterable[tuple[str, Sequence[int]]], trained: Trained) -> dict[str, list[int]]:
    """What --maps names, by the convolution's full name; without a layer it is the last convolution.

    `asked` are results of `flags.map_numbers`. UserError if there is no such layer or map, or no convolution at all.
    """
    network = trained.model
    sizes = {name: network.get_submodule(name).out_channels for name in convolutions(network)}
    if not sizes and (asked or "cell" not in trained.description):
        raise UserError(f"{trained.path} holds a {type(network).__name__}, which has no convolutions to look into")
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
