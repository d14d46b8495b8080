"""The image sets: verified before they are read, and every whole-batch operation against a plain one in NumPy."""

import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_sets import make_cifar, make_mnist
from PIL import Image

from harness import data, image_sets
from harness.data import (
    EpochOrder,
    ImageSet,
    Split,
    hold_out,
    load_images,
    to_gray,
    train_batches,
)
from harness.errors import UserError
from harness.image_sets import IMAGE_SETS, Archive, ImageSetEntry, published_checksum

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ImageSetEntry]]:
    folder = tmp_path_factory.mktemp("made")
    cifar = {name: make_cifar(folder, name=name) for name in ("cifar10", "cifar100")}
    return folder, cifar | {name: make_mnist(folder, name=name) for name in ("mnist", "fashion-mnist", "kmnist")}


@pytest.fixture
def data_dir(made: tuple[Path, dict[str, ImageSetEntry]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own with all sets, small, whose checksums stand in the table; no source is reachable."""
    folder, entries = made
    shutil.copytree(folder, tmp_path / "data")
    for name, entry in entries.items():
        unreachable = Archive(f"{name}.gz", 1, "", ("http://127.0.0.1:9/it",))
        monkeypatch.setitem(IMAGE_SETS, name, replace(entry, archives=(unreachable,)))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "data"


def random_images(count: int, channels: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, size, size), dtype=np.uint8)


def image_set(images: np.ndarray, mean: float = 0.25, std: float = 0.5) -> ImageSet:
    """The images with labels that count up, as both splits."""
    split = Split(torch.from_numpy(images), torch.arange(len(images)))
    return ImageSet("made", "", (), mean, std, split, split, mirrored=True)


# Reading.


def test_cifar10_is_read_in_order_with_its_labels(data_dir: Path) -> None:
    images = load_images("cifar10", data_dir=data_dir, channels="rgb")
    batches = []
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]:
        with (data_dir / "cifar-10-batches-py" / name).open("rb") as file:
            batches.append(pickle.load(file, encoding="latin1"))  # as torchvision reads them
    for split, parts in ((images.train, batches[:5]), (images.test, batches[5:])):
        pixels = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(split.images.numpy(), pixels)
        assert split.labels.tolist() == [label for part in parts for label in part["labels"]]
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
    assert images.classes[3] == "cat"


def test_mnist_is_read_in_order_with_its_labels(data_dir: Path) -> None:
    images = load_images("mnist", data_dir=data_dir)
    for split, prefix, count in ((images.train, "train", 60), (images.test, "t10k", 20)):
        raw = data_dir / "MNIST" / "raw"
        pixels = np.fromfile(raw / f"{prefix}-images-idx3-ubyte", dtype=np.uint8, offset=16)
        np.testing.assert_array_equal(split.images.numpy(), pixels.reshape(count, 1, 28, 28))
        labels = np.fromfile(raw / f"{prefix}-labels-idx1-ubyte", dtype=np.uint8, offset=8)
        assert split.labels.tolist() == labels.tolist()


def test_gray_cifar10_is_the_luma_of_the_color_set(data_dir: Path) -> None:
    color = load_images("cifar10", data_dir=data_dir, channels="rgb").test.images
    gray = load_images("cifar10", data_dir=data_dir, channels="gray").test.images
    assert gray.shape == (20, 1, 32, 32)
    for image, expected in zip(gray, color, strict=True):
        expected = Image.fromarray(expected.permute(1, 2, 0).numpy()).convert("L")
        np.testing.assert_array_equal(image[0].numpy(), np.asarray(expected))


def test_the_checksum_tells_sets_apart(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_images("mnist", data_dir=data_dir).checksum
    monkeypatch.setitem(IMAGE_SETS, "mnist", make_mnist(tmp_path / "other", seed=1))
    assert load_images("mnist", data_dir=tmp_path / "other").checksum != before


def test_an_unknown_set_is_a_bug_and_not_cifar10(data_dir: Path) -> None:
    with pytest.raises(KeyError, match="cifar1000"):
        load_images("cifar1000", data_dir=data_dir)


def test_a_set_that_lies_there_is_read_without_torchvision(data_dir: Path) -> None:
    """Importing it takes longer than reading the set."""
    program = (
        "import sys; from pathlib import Path; import fake_sets; from harness.image_sets import IMAGE_SETS\n"
        f"data_dir = Path({str(data_dir)!r}); from harness.data import load_images\n"
        "for name in ('cifar10', 'mnist', 'kmnist'):\n"
        "    IMAGE_SETS[name] = fake_sets.entry_of_files(name, data_dir)\n"
        "    load_images(name, data_dir=data_dir)\n"
        "assert 'torchvision' not in sys.modules"
    )
    path = f"import sys; sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / 'tests')!r}]\n"
    subprocess.run([sys.executable, "-c", path + program], check=True)


def test_what_numpy_says_of_the_pickles_is_not_shown(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pickle.loads

    def loads(*given: object, **named: object) -> object:
        warnings.warn("dtype(): align should be passed as Python or NumPy boolean but got `align=0`.", stacklevel=1)
        return real(*given, **named)

    monkeypatch.setattr(pickle, "loads", loads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        load_images("cifar10", data_dir=data_dir)
        assert warnings.filters == filters  # a notebook's own stay


def test_cifar100_has_its_fine_classes(data_dir: Path) -> None:
    images = load_images("cifar100", data_dir=data_dir, channels="rgb")
    with (data_dir / "cifar-100-python/train").open("rb") as file:
        batch = pickle.load(file, encoding="latin1")
    np.testing.assert_array_equal(images.train.images.numpy(), batch["data"].reshape(20, 3, 32, 32))
    assert images.train.labels.tolist() == batch["fine_labels"] and images.train.labels.dtype == torch.int64
    assert len(images.classes) == 100 and (images.classes[0], images.classes[-1]) == ("apple", "worm")


@pytest.mark.parametrize(("name", "folder"), [("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_a_set_whose_archives_are_published_is_read_from_them_alone(data_dir: Path, name: str, folder: str) -> None:
    raw = data_dir / folder / "raw"
    expected = np.fromfile(raw / "t10k-images-idx3-ubyte", dtype=np.uint8, offset=16).reshape(20, 1, 28, 28)
    for unpacked in raw.glob("*-ubyte"):  # torchvision's class needs them
        unpacked.unlink()
    images = load_images(name, data_dir=data_dir)
    np.testing.assert_array_equal(images.test.images.numpy(), expected)
    assert (images.name, len(images.train), len(images.classes)) == (name, 60, 10)


# Holding out.


def labelled(*counts: int) -> ImageSet:
    """A set with so many training images of each class, in mixed order, whose first pixel is the image's number."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(9))]
    split = Split(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), labels)
    return ImageSet("made", "", (), 0.5, 0.5, split, split.part(slice(3)))


@pytest.mark.parametrize(
    ("counts", "held", "expected"),
    [
        ((20, 20, 20), 12, [4, 4, 4]),
        ((20, 20, 20), 59, [19, 20, 20]),  # in any order: which class gives one more is a random choice
        ((50, 20, 30), 30, [10, 10, 10]),
        ((50, 2, 30), 30, [2, 14, 14]),  # one class has no more
        ((20, 20, 20), 2, [0, 1, 1]),
    ],
)
def test_as_many_of_each_class_are_held_out_and_no_image_is_in_both_parts(
    counts: tuple, held: int, expected: list[int]
) -> None:
    whole = labelled(*counts)
    images = hold_out(whole, held, seed=1)
    assert sorted(images.validation.labels.bincount(minlength=3).tolist()) == expected
    parts = [split.images.flatten().tolist() for split in (images.train, images.validation)]
    assert [len(part) for part in parts] == [sum(counts) - held, held]
    assert parts == [sorted(part) for part in parts] and sorted(parts[0] + parts[1]) == list(range(sum(counts)))
    for split in (images.train, images.validation):
        assert torch.equal(split.labels, whole.train.labels[split.images.flatten().long()])
    assert images.test is whole.test and whole.validation is None


def test_the_seed_alone_decides_what_is_held_out() -> None:
    images, random = labelled(40, 40), torch.random.get_rng_state()
    first, again, other = (hold_out(images, 20, seed).validation.images for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_something_must_be_left_to_train_on() -> None:
    with pytest.raises(UserError, match=r"^--validation 60 leaves none of the 60 training images"):
        hold_out(labelled(20, 40), 60, seed=0)


# The table.


def test_what_data_may_name_and_what_it_stands_for() -> None:
    """Further sets may stand in the table, too."""
    for script, sets in (
        ("cnn_cifar10", {"cifar10": "cifar10", "cifar100": "cifar100", "synthetic": "synthetic-shapes"}),
        ("rnn_mnist", {"mnist": "mnist", "synthetic": "synthetic-digits"}),
    ):
        of_both = {name: name for name in ("mnist", "fashion-mnist", "kmnist")}
        assert (sets | of_both).items() <= image_sets.sets_for(script).items()
        assert next(iter(image_sets.sets_for(script))) == next(iter(sets))  # the default
    assert {"cifar10", "cifar100"}.isdisjoint(image_sets.sets_for("rnn_mnist"))
    titles = {"cifar10": "CIFAR10", "mnist": "MNIST", "synthetic": "synthetic images"}
    assert titles.items() <= image_sets.titles().items()


def test_the_table_is_read_without_torch() -> None:
    program = "import sys, harness.image_sets; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PROJECT)


def test_published_checksums_are_those_that_runs_have_recorded() -> None:
    assert published_checksum("cifar10") == "3e7f702b20246354ed5e48a0be410009"
    assert published_checksum("mnist") == "f85aa589f05f099f408a1805d8a18637"
    assert published_checksum("synthetic-digits") is published_checksum("unknown") is None


# Verifying.

ALL_FILES = [("cifar10", f"cifar-10-batches-py/{name}") for name in ("data_batch_1", "data_batch_5", "test_batch")]
ALL_FILES += [("cifar100", "cifar-100-python/train"), ("kmnist", "KMNIST/raw/t10k-images-idx3-ubyte.gz")]
ALL_FILES += [("mnist", f"MNIST/raw/{name}") for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")]


@pytest.mark.parametrize(("name", "file"), ALL_FILES)
@pytest.mark.parametrize("damage", ["truncated", "one bit", "longer", "empty"])
def test_a_damaged_file_is_named_with_what_to_do(data_dir: Path, name: str, file: str, damage: str) -> None:
    path = data_dir / file
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-1] ^= 1
    path.write_bytes({"truncated": content[:-1], "longer": content + b"0", "empty": b""}.get(damage, content))
    with pytest.raises(UserError) as error:
        load_images(name, data_dir=data_dir)
    assert str(error.value).startswith(f"{path} is truncated or corrupt")
    assert "delete it and run again" in str(error.value)
    assert path.exists()


def test_nothing_is_unpickled_before_its_checksum_agrees(data_dir: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    (data_dir / "cifar-10-batches-py/data_batch_1").write_bytes(pickle.dumps({b"data": Trap()}))
    with pytest.raises(UserError, match="corrupt"):
        load_images("cifar10", data_dir=data_dir)
    assert not (tmp_path / "sprung").exists()


def test_a_folder_in_a_files_place_is_named(data_dir: Path) -> None:
    path = data_dir / "MNIST/raw/t10k-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=f"cannot read {path}: it is no regular file"):
        load_images("mnist", data_dir=data_dir)


@pytest.mark.parametrize(
    ("script", "file", "folder"),
    [
        ("cnn_cifar10", "cifar-10-batches-py/data_batch_3", "cifar-10-batches-py"),
        ("rnn_mnist", "MNIST/raw/train-images-idx3-ubyte", "MNIST/raw"),
    ],
)
def test_a_script_without_its_data_ends_with_one_sentence_and_code_2(
    data_dir: Path, in_project: Path, run_main, script: str, file: str, folder: str
) -> None:
    (data_dir / file).unlink()
    code, _, err = run_main(script, "--data-dir", data_dir, "--dry-run")
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for words in (f"is not in {data_dir / folder}", "127.0.0.1:9 (Connection refused)", "--data synthetic"):
        assert words in err


def test_a_script_with_a_corrupt_file_ends_with_one_sentence_and_code_2(
    data_dir: Path, in_project: Path, run_main
) -> None:
    path = data_dir / "cifar-10-batches-py/test_batch"
    path.write_bytes(path.read_bytes()[:1000])
    code, _, err = run_main("cnn_cifar10", "--data-dir", data_dir, "--dry-run")
    assert code == 2
    assert err.startswith(f"error: {path} is truncated or corrupt")
    assert err.count("\n") == 1


# Gray, normalized, shuffled: whole batches against one image at a time.


def test_gray_equals_pillow_bit_for_bit() -> None:
    images = random_images(50, 3)
    images[0, :, 0] = np.array([[0], [0], [0]])
    images[0, :, 1] = np.array([[255], [255], [255]])
    gray = to_gray(torch.from_numpy(images)).numpy()
    assert gray.shape == (50, 1, 32, 32)
    for image, result in zip(images, gray, strict=True):
        np.testing.assert_array_equal(result[0], np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")))


def test_gray_is_luma_to_rounding() -> None:
    images = random_images(20, 3, seed=1)
    luma = np.tensordot(images.astype(np.float64), [0.299, 0.587, 0.114], axes=(1, 0))
    assert np.abs(to_gray(torch.from_numpy(images))[:, 0].numpy() - luma).max() < 0.51


def test_gray_leaves_its_input_as_it_is() -> None:
    images = torch.from_numpy(random_images(2, 3))
    before = images.clone()
    to_gray(images)
    assert torch.equal(images, before)


def test_normalizing_equals_numpy_in_double_precision() -> None:
    images = image_set(random_images(10, 3), mean=0.1307, std=0.3081)
    expected = (images.train.images.numpy() / 255 - 0.1307) / 0.3081
    result = images.normalize(images.train.images)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-6)


def test_every_pixel_comes_back_from_its_normalized_value() -> None:
    images = image_set(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), mean=0.4734, std=0.2515)
    normalized = images.normalize(images.train.images)
    assert torch.equal(images.pixels(normalized), images.train.images)
    assert images.pixels(torch.tensor([-99.0, 99.0])).tolist() == [0, 255]
    assert normalized.min() < images.mid_gray < normalized.max()
    assert images.mid_gray == pytest.approx(float(normalized[0, 0, 7, 15:].mean() + normalized[0, 0, 8, 0]) / 2)


def test_normalizing_leaves_the_set_as_it_is() -> None:
    images = image_set(random_images(4, 1))
    before = images.train.images.clone()
    images.normalize(images.train.images)
    assert torch.equal(images.train.images, before)


def test_an_epoch_has_every_image_once_in_a_new_order() -> None:
    generator = torch.Generator().manual_seed(7)
    first, second = (EpochOrder.draw(500, generator).indices.numpy() for _ in range(2))
    for order in (first, second):
        np.testing.assert_array_equal(np.sort(order), np.arange(500))
        assert (order == np.arange(500)).mean() < 0.05
    assert (first == second).mean() < 0.05
    again = EpochOrder.draw(500, torch.Generator().manual_seed(7)).indices.numpy()
    np.testing.assert_array_equal(again, first)


def test_train_batches_follow_the_order_to_the_last_image() -> None:
    pixels = random_images(23, 1)
    order = EpochOrder.draw(23, torch.Generator().manual_seed(0))
    batches = list(train_batches(image_set(pixels), order, batch_size=8))
    assert [len(labels) for _, labels in batches] == [8, 8, 7]
    indices = order.indices.numpy()
    np.testing.assert_array_equal(np.concatenate([labels.numpy() for _, labels in batches]), indices)
    inputs = np.concatenate([inputs.numpy() for inputs, _ in batches])
    np.testing.assert_allclose(inputs, (pixels[indices] / 255 - 0.25) / 0.5, rtol=0, atol=1e-6)


def test_test_batches_keep_the_sets_own_order() -> None:
    pixels = random_images(10, 3)
    batches = list(data.test_batches(image_set(pixels), batch_size=4))
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    inputs = np.concatenate([inputs.numpy() for inputs, _ in batches])
    np.testing.assert_allclose(inputs, (pixels / 255 - 0.25) / 0.5, rtol=0, atol=1e-6)


def test_objects_are_mirrored_and_characters_are_not(data_dir: Path, tiny_synthetic: tuple) -> None:
    mirrored = {name: load_images(name, data_dir=data_dir).mirrored for name in IMAGE_SETS}
    characters = {"mnist", "kmnist", "synthetic-digits"}
    assert mirrored == {name: name not in characters for name in IMAGE_SETS}


def test_a_cut_set_keeps_the_first_images_of_each_split() -> None:
    images = image_set(random_images(9, 1))
    cut = images.first(4)
    assert {name: len(split) for name, split in cut.splits.items()} == {"train": 4, "test": 4}
    held = replace(images, validation=images.test.part(slice(5, 9))).first(3)
    assert held.validation.labels.tolist() == [5, 6, 7] and len(held.train) == 3
    assert torch.equal(cut.train.images, images.train.images[:4])
    assert cut.test.labels.tolist() == [0, 1, 2, 3]


# The real sets, against torchvision's own loaders and transforms.


def real_data_dir(folder: str) -> Path:
    if not (PROJECT / "data" / folder).exists():
        pytest.skip(f"data/{folder} is not there")
    return PROJECT / "data"


@pytest.mark.real_data
@pytest.mark.parametrize("channels", ["gray", "rgb"])
def test_real_cifar10_equals_torchvision(channels: str) -> None:
    from torchvision import datasets, transforms

    folder = real_data_dir("cifar-10-batches-py")
    images = load_images("cifar10", data_dir=folder, channels=channels)
    steps = [transforms.ToTensor(), transforms.Normalize(images.mean, images.std)]
    transform = transforms.Compose([transforms.Grayscale(), *steps] if channels == "gray" else steps)
    for split, train in ((images.train, True), (images.test, False)):
        expected = datasets.CIFAR10(folder, train=train, transform=transform)
        assert len(split) == len(expected)
        assert split.labels.tolist() == expected.targets
        compare_some(images, split, expected)
    assert list(images.classes) == expected.classes


@pytest.mark.real_data
def test_real_mnist_equals_torchvision() -> None:
    from torchvision import datasets, transforms

    folder = real_data_dir("MNIST/raw")
    images = load_images("mnist", data_dir=folder)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    for split, train in ((images.train, True), (images.test, False)):
        expected = datasets.MNIST(folder, train=train, transform=transform)
        assert torch.equal(split.labels, expected.targets)
        assert torch.equal(split.images[:, 0], expected.data)
        compare_some(images, split, expected)


def compare_some(images: ImageSet, split: Split, expected: torch.utils.data.Dataset) -> None:
    for index in (0, 1, 9_999, len(split) // 2, len(split) - 1):
        inputs, label = expected[index]
        torch.testing.assert_close(images.normalize(split.images[index]), inputs, rtol=0, atol=2e-6)
        assert split.labels[index].item() == label
