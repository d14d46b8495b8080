"""Tiny image sets in the published files' own formats, for tests: same names, same pickles and IDX headers, few images.

`make_cifar10(data_dir)` and `make_mnist(data_dir)` write a set and return the MD5 table to put in place of the
published one, for example `monkeypatch.setattr("harness.data.CIFAR10_MD5", make_cifar10(data_dir))`. A class is a
bright bar at a height of its own, so that networks can learn these sets.
"""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

CIFAR10_FILES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def make_cifar10(data_dir: Path, per_file: int = 20, seed: int = 0) -> dict[str, str]:
    """Write `data_dir`/cifar-10-batches-py with `per_file` images in each of the six batches; return {path: MD5}.

    batches.meta is written too, as in the published archive, but is not in the table: we do not need it to load.
    """
    random = np.random.default_rng(seed)
    table = {}
    for name in CIFAR10_FILES:
        images, labels = _bars(per_file, (3, 32, 32), random)
        content = _python2_pickle(
            {
                "batch_label": f"testing {name}",
                "labels": labels.tolist(),
                "data": images.reshape(per_file, 3 * 32 * 32),
                "filenames": [f"image_{index}.png" for index in range(per_file)],
            }
        )
        table[f"cifar-10-batches-py/{name}"] = _write(data_dir / "cifar-10-batches-py" / name, content)
    meta = {"num_cases_per_batch": per_file, "label_names": CLASS_NAMES, "num_vis": 3072}
    _write(data_dir / "cifar-10-batches-py" / "batches.meta", _python2_pickle(meta))
    return table


def make_mnist(data_dir: Path, train: int = 60, test: int = 20, seed: int = 0) -> dict[str, str]:
    """Write the four files of `data_dir`/MNIST/raw with so many images; return {path: MD5}."""
    random = np.random.default_rng(seed)
    table = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images, labels = _bars(count, (28, 28), random)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            file = f"MNIST/raw/{prefix}-{kind}-ubyte"
            table[file] = _write(data_dir / file, header + array.tobytes())
    return table


def cifar10_archive(data_dir: Path) -> bytes:
    """The .tar.gz of `data_dir`/cifar-10-batches-py, a folder and its regular files, as published."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(data_dir / "cifar-10-batches-py", arcname="cifar-10-batches-py")
    return buffer.getvalue()


def mnist_archives(data_dir: Path) -> dict[str, bytes]:
    """Name to content of the four .gz files, as published: gzip of each file in `data_dir`/MNIST/raw."""
    raw = data_dir / "MNIST" / "raw"
    return {f"{path.name}.gz": gzip.compress(path.read_bytes(), mtime=0) for path in sorted(raw.glob("*-ubyte"))}


def _bars(count: int, shape: tuple[int, ...], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = random.permutation(np.arange(count) % 10)
    images = random.integers(0, 100, (count, *shape), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., 2 * label + 3 : 2 * label + 6, 4:-4] += 150
    return images, labels


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5(content)


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
