"""The data path: an image set as one uint8 tensor and one label tensor in memory, and batches cut out of them.

`load_images` is what scripts call. The files lie as torchvision lays them out; the bytes of each are checked against
the published MD5 before anything is unpickled or parsed. A batch is a slice of the permuted set, normalized (and, if
asked, augmented) by whole-batch tensor operations on the training device: these sets are small, so there are no worker
processes and no per-image Python. Read next: the table of sets in image_sets.py, augmentation.py, or train.py.
"""

import gzip
import hashlib
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.augmentation import alternating, augment, draw
from harness.download import fetch
from harness.errors import UserError
from harness.files import read_file
from harness.image_sets import IMAGE_SETS, ImageSetEntry, published_checksum
from harness.ranks import ALONE, Ranks
from harness.synthetic import draw_digits, draw_shapes


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) uint8 and labels (n,) int64, both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def part(self, here: slice | Tensor) -> "Split":
        return Split(self.images[here], self.labels[here])


@dataclass(frozen=True)
class ImageSet:
    """A train and a test split with what is needed to use them; `hold_out` makes a validation split of the first.

    `checksum` is an MD5 over the published file checksums (of a synthetic set: over its pixels and labels), so that
    two runs with the same checksum saw the same files. `mean` and `std` refer to pixels in [0, 1]. Images are mirrored
    only if they are to be `mirrored`.
    """

    name: str
    checksum: str
    classes: tuple[str, ...]
    mean: float
    std: float
    train: Split
    test: Split
    mirrored: bool = False
    validation: Split | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that it has, by their names."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    def to(self, device: torch.device) -> "ImageSet":
        return replace(self, **{name: split.to(device) for name, split in self.splits.items()})

    def first(self, count: int) -> "ImageSet":
        """The same set cut to the first `count` images of each split, for --dry-run."""
        return replace(self, **{name: split.part(slice(count)) for name, split in self.splits.items()})

    def of_classes(self, classes: str) -> "ImageSet":
        """Of the classes `0,1,2`, as --classes has them, numbered anew. UserError if the set lacks one of them."""
        numbers = [int(number) for number in classes.split(",")]
        if numbers[-1] >= len(self.classes):
            raise UserError(f"--classes {classes}: {self.name} has the classes 0 to {len(self.classes) - 1}")
        number_now = torch.full((len(self.classes),), -1)
        number_now[numbers] = torch.arange(len(numbers))
        splits = {}
        for name, split in self.splits.items():
            labels = number_now[split.labels]
            splits[name] = Split(split.images, labels).part(labels >= 0)
        return replace(self, classes=tuple(self.classes[number] for number in numbers), **splits)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 pixels to (pixel / 255 - mean) / std in float32, in the given shape and on the given device."""
        # In place on the new float tensor: two passes over the batch and no further memory.
        return images.float().sub_(255 * self.mean).mul_(1 / (255 * self.std))

    def pixels(self, normalized: Tensor) -> Tensor:
        """Normalized images as uint8 pixels again, rounded, on the given device."""
        return ((normalized * self.std + self.mean) * 255).round().clamp(0, 255).byte()

    @property
    def mid_gray(self) -> float:
        """Half of the brightest pixel, normalized."""
        return (0.5 - self.mean) / self.std


@dataclass(frozen=True)
class EpochOrder:
    """One epoch's random choices, drawn at its start on the CPU: the same on every device, and cheap to copy there.

    `indices` (n,) is the order of the images; `choices` are those of the augmentation, by kind, each by position in the
    epoch, and `sizes` how much each kind may change. Mirroring counts only for sets that are to be mirrored.
    """

    indices: Tensor
    choices: dict[str, Tensor] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def draw(
        cls,
        count: int,
        generator: torch.Generator,
        sizes: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        epoch: int = 1,
    ) -> "EpochOrder":
        """`sizes` are the kinds of augmentation and their sizes; seed and epoch count for alternate mirroring only."""
        # The order comes first, so that it is the same with and without augmentation.
        indices, sizes = torch.randperm(count, generator=generator), sizes or {}
        choices = draw(count, generator, sizes)
        if "alternate" in sizes:
            choices["mirror"] = alternating(indices, seed, epoch)
        return cls(indices, choices, sizes)

    def to(self, device: torch.device) -> "EpochOrder":
        cuda = device.type == "cuda"  # copied from pinned memory, without making the host wait

        def copy(values: Tensor) -> Tensor:
            return (values.pin_memory() if cuda else values).to(device, non_blocking=cuda)

        choices = {kind: copy(values) for kind, values in self.choices.items()}
        return EpochOrder(copy(self.indices), choices, self.sizes)


def train_batches(
    images: ImageSet, order: EpochOrder, batch_size: int, ranks: Ranks = ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, labels) over the train split in the given order; the last batch may be smaller.

    Inputs are float32 (batch, channels, height, width), normalized; labels int64 (batch,). Of several ranks each gets
    its share of every batch.
    """
    split = images.train
    for share in ranks.shares(len(split), batch_size):
        chosen = order.indices[share.here]
        pixels = split.images.index_select(0, chosen)  # whole images; indexing would copy pixel by pixel
        choices = {kind: values[share.here] for kind, values in order.choices.items()}
        if not images.mirrored:
            choices.pop("mirror", None)
        pixels = augment(pixels, choices, order.sizes, blank=round(255 * images.mean))
        yield images.normalize(pixels), split.labels.index_select(0, chosen)


def test_batches(images: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, labels), shaped as in train_batches, over the test split in its own order."""
    for pixels, labels in zip(images.test.images.split(batch_size), images.test.labels.split(batch_size), strict=True):
        yield images.normalize(pixels), labels


def load_images(
    name: str, *, data_dir: Path, channels: str = "gray", mirror: str | None = None, classes: str = ""
) -> ImageSet:
    """Load an image set into memory on the CPU, downloading it first if its files are not there.

    `name` is one of IMAGE_SETS; `channels` is "gray" or "rgb" and matters to the color sets only; `classes` is as
    --classes has it. Raises UserError if a file is missing and cannot be downloaded, is truncated or corrupt, or cannot
    be read, or if there is no such class.
    """
    entry = IMAGE_SETS[name]
    images = (
        _drawn(name, entry, channels) if entry.format == "drawn" else _read(name, entry, data_dir, channels, mirror)
    )
    return images.of_classes(classes) if classes else images


def _read(name: str, entry: ImageSetEntry, data_dir: Path, channels: str, mirror: str | None) -> ImageSet:
    read = {"cifar": _read_cifar, "idx": _read_idx}[entry.format]
    with warnings.catch_warnings():
        # NumPy 2.4 and later warn of CIFAR's pickles (pytorch/vision#9340), here and in torchvision.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")
        if not entry.lies_in(data_dir):
            fetch(name, data_dir, mirror)
        train, test = (read(entry, data_dir / entry.folder, files, channels) for files in (entry.train, entry.test))
    about = published_checksum(name), entry.classes, entry.mean, entry.std
    return ImageSet(name, *about, train, test, entry.mirrored)


def hold_out(images: ImageSet, count: int, seed: int) -> ImageSet:
    """The set with `count` of its training images as its validation split: a random choice, balanced over the classes.

    Each class gives the same number, one more or less where the count does not divide, while it has images left. Both
    parts keep the set's order. UserError if nothing is left to train on.
    """
    train = images.train
    if count >= len(train):
        raise UserError(f"--validation {count} leaves none of the {len(train):,} training images to train on")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(len(train), dtype=torch.bool)
    held[order[nth_of_class(train.labels[order]).argsort(stable=True)[:count]]] = True  # first the first ones, …
    return replace(images, train=train.part(~held), validation=train.part(held))


def nth_of_class(labels: Tensor) -> Tensor:
    """The how manieth of its class each of the labels (n,) is, from 1 on, in their order."""
    classes = F.one_hot(labels)  # (n, classes)
    return (classes.cumsum(0) * classes).sum(1)


def to_gray(images: Tensor) -> Tensor:
    """RGB uint8 (n, 3, height, width) to luma uint8 (n, 1, height, width): 0.299 R + 0.587 G + 0.114 B.

    In Pillow's fixed-point arithmetic, so that it equals `transforms.Grayscale` of a PIL image bit for bit.
    """
    red, green, blue = images.unbind(dim=1)
    luma = red.int().mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471)  # in units of 1 / 2^16
    # Half a unit of the result is added, so that the shift rounds.
    return luma.add_(0x8000).bitwise_right_shift_(16).to(torch.uint8).unsqueeze(1)


def _read_cifar(entry: ImageSetEntry, folder: Path, files: dict[str, str], channels: str) -> Split:
    """Python pickles, each a dictionary with a row of pixels for every image and a list of labels."""
    images, labels = [], []
    for name, md5 in files.items():
        content = _verified_bytes(folder / name, md5)
        batch = pickle.loads(content, encoding="bytes")  # safe: these are the published bytes
        pixels = torch.from_numpy(np.asarray(batch[b"data"], dtype=np.uint8))
        pixels = pixels.view(-1, entry.channels, entry.size, entry.size)  # (images, channels, height, width)
        images.append(to_gray(pixels) if channels == "gray" else pixels)
        labels.append(torch.tensor(batch[b"labels" if b"labels" in batch else b"fine_labels"]))  # fine: CIFAR-100's
    return Split(torch.cat(images), torch.cat(labels))


def _read_idx(entry: ImageSetEntry, folder: Path, files: dict[str, str], channels: str) -> Split:
    """Two files in the IDX format, images and labels; gray images only.

    A file is two zero bytes, the type (8 = uint8), the number of dimensions, each dimension as big-endian int32, and
    the values; it may be compressed (.gz).
    """
    arrays = []
    for name, md5 in files.items():
        content = _verified_bytes(folder / name, md5)
        content = gzip.decompress(content) if name.endswith(".gz") else content
        dimensions = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4).tolist()
        values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions)
        arrays.append(torch.from_numpy(values.copy()).view(shape))  # a copy, as the bytes cannot be written to
    images, labels = arrays  # (images, height, width) and (images,)
    return Split(images.unsqueeze(1), labels.long())


def _verified_bytes(path: Path, md5: str) -> bytes:
    content = read_file(path)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(
            f"{path} is truncated or corrupt (its MD5 is not the published {md5}); delete it and run again to fetch it"
        )
    return content


def _drawn(name: str, entry: ImageSetEntry, channels: str) -> ImageSet:
    arrays, classes = {"synthetic-shapes": draw_shapes, "synthetic-digits": draw_digits}[name]()
    checksum = hashlib.md5(b"".join(array.tobytes() for array in arrays), usedforsecurity=False).hexdigest()
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays)
    if channels == "gray" and entry.channels == 3:
        train_images, test_images = to_gray(train_images), to_gray(test_images)
    splits = Split(train_images, train_labels), Split(test_images, test_labels)
    return ImageSet(name, checksum, classes, entry.mean, entry.std, *splits, entry.mirrored)
