"""The image sets: found (or downloaded), verified, and held in memory as one uint8 tensor and one label tensor.

`load_images` is what scripts call. The files under the data directory lie as torchvision lays them out; each is read
once, and its bytes are checked against the published MD5 before anything is unpickled or parsed. A batch is a slice
of the permuted set, normalised (and, if asked, flipped and shifted) by whole-batch tensor operations on the training
device: these sets are small, so there are no worker processes and no per-image Python.
"""

import hashlib
import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.download import fetch_cifar10, fetch_mnist
from harness.errors import UserError
from harness.ranks import ALONE, Ranks
from harness.synthetic import draw_digits, draw_shapes

# Published MD5 of each file, as torchvision checks them too. Tests put the checksums of generated files here.
CIFAR10_MD5 = {
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_META_MD5 = {"cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888"}  # for torchvision's sake
MNIST_MD5 = {
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = tuple("0123456789")

# Mean and standard deviation that pixels in [0, 1] are normalised by: found in docs/original-settings.md.
CIFAR10_NORMALISATION = (0.5, 0.5)
MNIST_NORMALISATION = (0.1307, 0.3081)

MAX_SHIFT = 4  # pixels, for --augment


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) uint8 and labels (n,) int64, both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Split":
        return Split(self.images.to(device), self.labels.to(device))

    def first(self, count: int) -> "Split":
        return self.part(slice(count))

    def part(self, here: slice) -> "Split":
        return Split(self.images[here], self.labels[here])


@dataclass(frozen=True)
class ImageSet:
    """A train and a test split with what is needed to use them.

    `checksum` is an MD5 over the published file checksums (of a synthetic set: over its pixels and labels), so that
    two runs with the same checksum saw the same data. `mean` and `std` refer to pixels in [0, 1].
    """

    name: str
    checksum: str
    classes: tuple[str, ...]
    mean: float
    std: float
    train: Split
    test: Split

    def to(self, device: torch.device) -> "ImageSet":
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def first(self, count: int) -> "ImageSet":
        """The same set cut to the first `count` train and test images, for --dry-run."""
        return replace(self, train=self.train.first(count), test=self.test.first(count))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 pixels to (pixel / 255 - mean) / std in float32, in the given shape and on the given device."""
        return images.float().sub_(255 * self.mean).mul_(1 / (255 * self.std))

    def pixels(self, normalised: Tensor) -> Tensor:
        """Normalised images as uint8 pixels again, rounded, on the given device."""
        return ((normalised * self.std + self.mean) * 255).round().clamp(0, 255).byte()

    @property
    def mid_gray(self) -> float:
        """Half of the brightest pixel, normalised."""
        return (0.5 - self.mean) / self.std


@dataclass(frozen=True)
class EpochOrder:
    """One epoch's random choices, drawn at its start on the CPU: the same on every device and free to copy there.

    `indices` (n,) is the order of the images; with augmentation `flips` (n,) is bool and `shifts` (n, 2) holds the
    row and column offset into the image padded by MAX_SHIFT, both by position in the epoch.
    """

    indices: Tensor
    flips: Tensor | None = None
    shifts: Tensor | None = None

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, *, augment: bool) -> "EpochOrder":
        indices = torch.randperm(count, generator=generator)
        if not augment:
            return cls(indices)
        flips = torch.rand(count, generator=generator) < 0.5
        shifts = torch.randint(0, 2 * MAX_SHIFT + 1, (count, 2), generator=generator)
        return cls(indices, flips, shifts)

    def to(self, device: torch.device) -> "EpochOrder":
        def move(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            if device.type == "cuda":
                return values.pin_memory().to(device, non_blocking=True)  # copied without making the host wait
            return values.to(device)

        return EpochOrder(move(self.indices), move(self.flips), move(self.shifts))


def train_batches(
    images: ImageSet, order: EpochOrder, batch_size: int, ranks: Ranks = ALONE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, labels) over the train split in the given order; the last batch may be smaller.

    Inputs are float32 (batch, channels, height, width), normalised; of several ranks each gets its share.
    """
    split = images.train
    for share in ranks.shares(len(split), batch_size):
        here = share.here
        chosen = order.indices[here]
        pixels = split.images.index_select(0, chosen)  # whole images; indexing would copy pixel by pixel
        if order.flips is not None:
            pixels = augment(pixels, order.flips[here], order.shifts[here])
        yield images.normalise(pixels), split.labels.index_select(0, chosen)


def test_batches(images: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, labels) over the test split in its own order."""
    for start in range(0, len(images.test), batch_size):
        here = slice(start, start + batch_size)
        yield images.normalise(images.test.images[here]), images.test.labels[here]


def augment(pixels: Tensor, flips: Tensor, shifts: Tensor) -> Tensor:
    """Mirror the flagged images and shift each by up to MAX_SHIFT pixels, black coming in at the border.

    `pixels` (batch, channels, height, width) uint8; `flips` (batch,) bool; `shifts` (batch, 2) int64 in
    [0, 2·MAX_SHIFT], MAX_SHIFT meaning no shift. The usual CIFAR-10 augmentation, as He et al. (2016), section 4.2.
    """
    batch, _, height, width = pixels.shape
    pixels = torch.where(flips[:, None, None, None], pixels.flip(3), pixels)
    padded = F.pad(pixels, (MAX_SHIFT,) * 4)  # (batch, channels, height + 2·MAX_SHIFT, width + 2·MAX_SHIFT)
    rows = shifts[:, :1] + torch.arange(height, device=pixels.device)  # (batch, height)
    columns = shifts[:, 1:] + torch.arange(width, device=pixels.device)  # (batch, width)
    image = torch.arange(batch, device=pixels.device)[:, None, None]
    # Indexing by (batch, height, width) puts the channels last; they go back to second place.
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def load_images(name: str, *, data_dir: Path, channels: str = "gray", mirror: str | None = None) -> ImageSet:
    """Load an image set into memory on the CPU, downloading it first if its files are not there.

    `name` is "cifar10", "mnist", "synthetic-shapes" (32×32 colour) or "synthetic-digits" (28×28 gray); `channels` is
    "gray" or "rgb" and matters to the colour sets only. Gray is ITU-R 601-2 luma, rounded as Pillow rounds it.

    Raises UserError if a file is missing and cannot be downloaded, is truncated or corrupt, or cannot be read.
    """
    if name == "synthetic-shapes":
        return _synthetic(name, draw_shapes(), CIFAR10_NORMALISATION, channels)
    if name == "synthetic-digits":
        return _synthetic(name, draw_digits(), MNIST_NORMALISATION, channels)
    if name == "mnist":
        if not _all_present(data_dir, MNIST_MD5):
            fetch_mnist(data_dir, MNIST_MD5, mirror)
        train, test = (_read_mnist(data_dir, prefix) for prefix in ("train", "t10k"))
        return ImageSet(name, _digest(MNIST_MD5), DIGITS, *MNIST_NORMALISATION, train, test)
    if name != "cifar10":
        raise ValueError(f"no image set is called {name!r}")
    if not _all_present(data_dir, CIFAR10_MD5):
        fetch_cifar10(data_dir, CIFAR10_MD5 | CIFAR10_META_MD5, mirror)
    *train_parts, test = (_read_cifar10(data_dir, file, channels) for file in CIFAR10_MD5)
    train = Split(torch.cat([part.images for part in train_parts]), torch.cat([part.labels for part in train_parts]))
    return ImageSet(name, _digest(CIFAR10_MD5), CIFAR10_CLASSES, *CIFAR10_NORMALISATION, train, test)


def published_checksum(name: str) -> str | None:
    """What `ImageSet.checksum` is of a real set, told without its files; None for any other name."""
    tables = {"cifar10": CIFAR10_MD5, "mnist": MNIST_MD5}
    return _digest(tables[name]) if name in tables else None


def to_gray(images: Tensor) -> Tensor:
    """RGB uint8 (n, 3, height, width) to luma uint8 (n, 1, height, width): 0.299 R + 0.587 G + 0.114 B.

    In Pillow's fixed-point arithmetic, so that it equals `transforms.Grayscale` of a PIL image bit for bit.
    """
    red, green, blue = images.unbind(dim=1)
    luma = red.int().mul_(19595).add_(green, alpha=38470).add_(blue, alpha=7471)  # in units of 1 / 2^16
    return luma.add_(0x8000).bitwise_right_shift_(16).to(torch.uint8).unsqueeze(1)


def _all_present(data_dir: Path, files: Iterable[str]) -> bool:
    try:
        return all((data_dir / file).exists() for file in files)
    except OSError as error:
        raise UserError(f"cannot look into {data_dir}: {error.strerror}") from error


def _verified_bytes(data_dir: Path, file: str, md5: str) -> bytes:
    path = data_dir / file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(
            f"{path} is truncated or corrupt (its MD5 is not the published {md5}); delete it and run again to fetch it"
        )
    return content


def _read_cifar10(data_dir: Path, file: str, channels: str) -> Split:
    # Safe to unpickle: these are the published bytes.
    batch = pickle.load(io.BytesIO(_verified_bytes(data_dir, file, CIFAR10_MD5[file])), encoding="bytes")
    images = torch.from_numpy(np.asarray(batch[b"data"], dtype=np.uint8)).view(-1, 3, 32, 32)
    labels = torch.tensor(batch[b"labels"], dtype=torch.int64)
    return Split(to_gray(images) if channels == "gray" else images, labels)


def _read_mnist(data_dir: Path, prefix: str) -> Split:
    def read_idx(kind: str) -> Tensor:
        """The IDX format: two zero bytes, the type (8 = uint8), the number of dimensions, then each as big-endian."""
        file = f"MNIST/raw/{prefix}-{kind}-ubyte"
        content = _verified_bytes(data_dir, file, MNIST_MD5[file])
        dimensions = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4).tolist()
        values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions)
        return torch.from_numpy(values.copy()).view(shape)

    return Split(read_idx("images-idx3").unsqueeze(1), read_idx("labels-idx1").long())


def _synthetic(name: str, splits: tuple, normalisation: tuple[float, float], channels: str) -> ImageSet:
    arrays, classes = splits
    digest = hashlib.md5(usedforsecurity=False)
    for array in arrays:
        digest.update(array.tobytes())
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(array) for array in arrays)
    if channels == "gray" and train_images.shape[1] == 3:
        train_images, test_images = to_gray(train_images), to_gray(test_images)
    train, test = Split(train_images, train_labels), Split(test_images, test_labels)
    return ImageSet(name, digest.hexdigest(), classes, *normalisation, train, test)


def _digest(checksums: dict[str, str]) -> str:
    return hashlib.md5("".join(checksums.values()).encode(), usedforsecurity=False).hexdigest()
