"""The data path: an image set as one uint8 tensor and one label tensor in memory, and batches cut out of them.

`load_images` is what scripts call. The files lie as torchvision lays them out; the bytes of each are checked against
the published MD5 before anything is unpickled or parsed. A batch is a slice of the permuted set, normalized (and, if
asked, flipped and shifted) by whole-batch tensor operations on the training device: these sets are small, so there are
no worker processes and no per-image Python. Read next: the table of sets in image_sets.py, or train.py.
"""

import gzip
import hashlib
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.download import fetch
from harness.errors import UserError
from harness.files import read_file
from harness.image_sets import IMAGE_SETS, ImageSetEntry, published_checksum
from harness.ranks import ALONE, Ranks
from harness.synthetic import draw_digits, draw_shapes

MAX_SHIFT = 4  # pixels, of --augment


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
    two runs with the same checksum saw the same data. `mean` and `std` refer to pixels in [0, 1]. Augmentation mirrors
    images only if they are to be `mirrored`.
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

    `indices` (n,) is the order of the images; with augmentation `flips` (n,) is bool and `shifts` (n, 2) holds the
    row and column offset into the image padded by MAX_SHIFT, both by position in the epoch. `flips` counts only for
    sets that are to be mirrored.
    """

    indices: Tensor
    flips: Tensor | None = None
    shifts: Tensor | None = None

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, *, augment: bool) -> "EpochOrder":
        # The order comes first, so that it is the same with and without augmentation.
        indices = torch.randperm(count, generator=generator)
        if not augment:
            return cls(indices)
        flips = torch.rand(count, generator=generator) < 0.5
        shifts = torch.randint(0, 2 * MAX_SHIFT + 1, (count, 2), generator=generator)
        return cls(indices, flips, shifts)

    def to(self, device: torch.device) -> "EpochOrder":
        cuda = device.type == "cuda"  # copied from pinned memory, without making the host wait
        drawn = [values for values in (self.indices, self.flips, self.shifts) if values is not None]
        return EpochOrder(*((v.pin_memory() if cuda else v).to(device, non_blocking=cuda) for v in drawn))


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
        if order.flips is not None:
            pixels = augment(pixels, order.flips[share.here] & images.mirrored, order.shifts[share.here])
        yield images.normalize(pixels), split.labels.index_select(0, chosen)


def test_batches(images: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, labels), shaped as in train_batches, over the test split in its own order."""
    for pixels, labels in zip(images.test.images.split(batch_size), images.test.labels.split(batch_size), strict=True):
        yield images.normalize(pixels), labels


def augment(pixels: Tensor, flips: Tensor, shifts: Tensor) -> Tensor:
    """Mirror the flagged images and shift each by up to MAX_SHIFT pixels, black coming in at the border.

    `pixels` (batch, channels, height, width) uint8; `flips` (batch,) bool; `shifts` (batch, 2) int64 in
    [0, 2·MAX_SHIFT], MAX_SHIFT meaning no shift. The usual CIFAR-10 augmentation, as He et al. (2016), section 4.2.
    """
    batch, _, height, width = pixels.shape
    pixels = torch.where(flips[:, None, None, None], pixels.flip(3), pixels)
    padded = F.pad(pixels, (MAX_SHIFT,) * 4)  # (batch, channels, height + 2·MAX_SHIFT, width + 2·MAX_SHIFT)
    # Which row and column of the padded image each row and column of the result is taken from.
    rows = shifts[:, :1] + torch.arange(height, device=pixels.device)  # (batch, height)
    columns = shifts[:, 1:] + torch.arange(width, device=pixels.device)  # (batch, width)
    image = torch.arange(batch, device=pixels.device)[:, None, None]
    # Indexing by (batch, height, width) puts the channels last; they go back to second place.
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def load_images(name: str, *, data_dir: Path, channels: str = "gray", mirror: str | None = None) -> ImageSet:
    """Load an image set into memory on the CPU, downloading it first if its files are not there.

    `name` is one of IMAGE_SETS; `channels` is "gray" or "rgb" and matters to the color sets only. Raises UserError if a
    file is missing and cannot be downloaded, is truncated or corrupt, or cannot be read.
    """
    entry = IMAGE_SETS[name]
    if entry.format == "drawn":
        return _drawn(name, entry, channels)
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
    classes = F.one_hot(train.labels[order])  # (images, classes)
    # In this order, the how manieth of its class each image is: first come the first ones, then the second ones, …
    nth = (classes.cumsum(0) * classes).sum(1)
    held = torch.zeros(len(train), dtype=torch.bool)
    held[order[nth.argsort(stable=True)[:count]]] = True
    return replace(images, train=train.part(~held), validation=train.part(held))


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
