"""Tiny image sets in the published files' own formats, for tests: same names, same pickles and IDX headers, few images.

`make_cifar(data_dir)` and `make_mnist(data_dir)` write a set and return its entry, with these files' checksums, to be
put into the table: `monkeypatch.setitem(IMAGE_SETS, "mnist", make_mnist(data_dir))`. A class is a bright bar at a
height of its own, so that networks can learn these sets; of CIFAR-100's classes there are ten, 9, 19, … 99.
"""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.image_sets import IMAGE_SETS, Archive, ImageSetEntry


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def make_cifar(data_dir: Path, per_file: int = 20, seed: int = 0, name: str = "cifar10") -> ImageSetEntry:
    """Write the set's folder, with `per_file` images in each batch.

    The file of the classes' names is written too, as in the archive: torchvision's class needs it, our reader does not.
    """
    random = np.random.default_rng(seed)
    entry = IMAGE_SETS[name]
    folder, fine = data_dir / entry.folder, name == "cifar100"
    for file in (*entry.train, *entry.test):
        images, labels = _bars(per_file, (3, 32, 32), random)
        own = {"coarse_labels": labels.tolist(), "fine_labels": (10 * labels + 9).tolist()}
        content = {
            "batch_label": f"testing {file}",
            **(own if fine else {"labels": labels.tolist()}),
            "data": images.reshape(per_file, 3 * 32 * 32),
            "filenames": [f"image_{index}.png" for index in range(per_file)],
        }
        _write(folder / file, _python2_pickle(content))
    names = "fine_label_names" if fine else "label_names"
    meta = {"num_cases_per_batch": per_file, names: list(entry.classes), "num_vis": 3072}
    _write(folder / ("meta" if fine else "batches.meta"), _python2_pickle(meta))
    return entry_of_files(name, data_dir)


def make_mnist(data_dir: Path, train: int = 60, test: int = 20, seed: int = 0, name: str = "mnist") -> ImageSetEntry:
    """Write the four files of MNIST, or of another set in its format, with so many images; kept archives, too."""
    random, entry = np.random.default_rng(seed), IMAGE_SETS[name]
    for prefix, count in (("train", train), ("t10k", test)):
        images, labels = _bars(count, (28, 28), random)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            file, content = f"{prefix}-{kind}-ubyte", header + array.tobytes()
            _write(data_dir / entry.folder / file, content)
            if f"{file}.gz" in entry.train | entry.test:
                _write(data_dir / entry.folder / f"{file}.gz", gzip.compress(content, mtime=0))
    return entry_of_files(name, data_dir)


def entry_of_files(name: str, data_dir: Path) -> ImageSetEntry:
    """The set's entry with the checksums of the files that lie in `data_dir`."""
    entry = IMAGE_SETS[name]
    train, test = (
        {file: md5((data_dir / entry.folder / file).read_bytes()) for file in split}
        for split in (entry.train, entry.test)
    )
    return replace(entry, train=train, test=test)


def archives_of(name: str, data_dir: Path) -> dict[str, bytes]:
    """Name to content of the archives, as published, that hold the set's files in `data_dir`."""
    folder = data_dir / IMAGE_SETS[name].folder
    if IMAGE_SETS[name].format == "idx":
        files = [path for path in sorted(folder.iterdir()) if path.suffix != ".gz"]
        return {f"{path.name}.gz": gzip.compress(path.read_bytes(), mtime=0) for path in files}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return {IMAGE_SETS[name].archives[0].name: buffer.getvalue()}


def publish(monkeypatch: pytest.MonkeyPatch, name: str, data_dir: Path, *archives: Archive) -> None:
    """Make the set that lies in `data_dir`, with these archives, the published one: for us and for torchvision."""
    from torchvision import datasets

    entry = replace(entry_of_files(name, data_dir), archives=archives)
    monkeypatch.setitem(IMAGE_SETS, name, entry)
    known = getattr(datasets, entry.torchvision)
    if entry.format == "idx":
        monkeypatch.setattr(known, "resources", [(archive.name, archive.md5) for archive in archives])
        return
    monkeypatch.setattr(known, "tgz_md5", archives[0].md5)
    monkeypatch.setattr(known, "train_list", list(entry.train.items()))
    monkeypatch.setattr(known, "test_list", list(entry.test.items()))
    meta = (data_dir / entry.folder / known.meta["filename"]).read_bytes()
    monkeypatch.setattr(known, "meta", known.meta | {"md5": md5(meta)})


def _bars(count: int, shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = random.permutation(np.arange(count) % 10)
    images = random.integers(0, 100, (count, *shape), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., 2 * label + 3 : 2 * label + 6, 4:-4] += 150
    return images, labels


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class _Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its str: CIFAR-10 was pickled there, and loaders depend on it."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[str] = dispatch[bytes] = save_str


def _python2_pickle(content: dict) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()
