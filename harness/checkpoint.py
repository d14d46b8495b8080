"""A trained network out of its run folder, with its snapshots and its test images, for whoever looks into it.

Everything here may come from a stranger: each value is checked before it is used, and what is wrong is a UserError.
"""

import os
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from harness.data import ImageSet, load_images
from harness.errors import OutOfMemory, UserError, is_out_of_memory
from harness.metrics import is_metrics

DATA_NAMES = {"cifar10": "cifar10", "mnist": "mnist", "synthetic": "synthetic-shapes"}  # by what --data calls them


@dataclass(frozen=True)
class Trained:
    """A network with its weights, in evaluation mode on the CPU, and what is known of its training.

    `description` is config["model"]; `dataset` the name and `checksum` the MD5 of the set that it was trained on.
    """

    path: Path
    model: nn.Module
    description: dict
    dataset: str
    checksum: str
    epoch: int

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent

    @property
    def channels(self) -> str:
        return "rgb" if self.description.get("channels") == 3 else "gray"

    def source(self, images: ImageSet | None, *, all_epochs: bool = False) -> str:
        """What stands in every title: on what the network was trained, and what it is shown if that is another set."""
        learnt = source_of(self.dataset, self.channels, None if all_epochs else self.epoch)
        if images is None or images.name == self.dataset:
            return learnt
        return f"trained on {learnt}; images of {images.name}"


def source_of(dataset: str, channels: str, epoch: int | None) -> str:
    """What a network learnt, as titles say it: `cifar10 gray, epoch 19`; without the epoch if it is None."""
    return f"{dataset} {channels}" + ("" if epoch is None else f", epoch {epoch}")


def load_trained(path: Path, build_model: Callable[[dict], nn.Module]) -> Trained:
    """The network of a best.pt or last.pt; nothing in the file is run. UserError if it cannot be rebuilt from it."""
    content = load_checkpoint(path)
    weights, epoch, config = content.get("model"), content.get("epoch"), content["config"]
    if not isinstance(weights, dict) or not isinstance(epoch, int):
        raise UserError(f"{path} holds no whole network; name a run's best.pt or last.pt")
    dataset = config.get("dataset")
    if not isinstance(dataset, dict) or dataset.get("name") not in (*DATA_NAMES.values(), "synthetic-digits"):
        raise UserError(f"{path} does not say on which images it was trained")
    try:
        model = build_model(config)
        model.load_state_dict(weights)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be rebuilt: {_first_line(error)}") from error
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise UserError(f"{path} holds weights that are not finite, of a run that diverged; there is nothing to see")
    checksum = str(dataset.get("checksum"))
    return Trained(path, model.eval(), config["model"], dataset["name"], checksum, epoch)


def load_snapshots(trained: Trained) -> dict[int, dict[str, Tensor]]:
    """The run's snapshots, epoch -> the convolutions' weights and biases, in rising order; empty if there are none.

    UserError if one is damaged or of another network.
    """
    snapshots = {}
    folder = trained.folder / "snapshots"
    try:
        paths = sorted(path for path in folder.iterdir() if fnmatch(path.name, "epoch-*.pt"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}") from error
    for path in paths:
        content = load_checkpoint(path)
        weights, epoch = content.get("weights"), content.get("epoch")
        own = trained.model.state_dict()
        if (
            not isinstance(weights, dict)
            or not isinstance(epoch, int)
            or not weights
            or any(
                name not in own or not isinstance(value, Tensor) or value.shape != own[name].shape
                for name, value in weights.items()
            )
        ):
            raise UserError(f"{path} is no snapshot of the network in {trained.path}")
        if all(value.isfinite().all() for value in weights.values()):  # else of an epoch that diverged
            snapshots[epoch] = weights
    return dict(sorted(snapshots.items()))


def load_test_images(trained: Trained, data: str | None, *, data_dir: Path, mirror: str | None) -> ImageSet:
    """The image set that `data` names, by default the one the network was trained on; said if it is another one.

    UserError if it does not fit the network.
    """
    name = DATA_NAMES[data] if data else trained.dataset
    images = load_images(name, data_dir=data_dir, channels=trained.channels, mirror=mirror)
    wanted = trained.description["channels"], trained.description["image_size"], trained.description["classes"]
    found = *images.test.images.shape[1:3], len(images.classes)
    if found != wanted:
        raise UserError(
            "{} takes images of {} channels and {} pixels a side in {} classes, and {} has {}, {} and {}; "
            "choose another --data".format(trained.path, *wanted, name, *found)
        )
    if images.name != trained.dataset:
        print(f"note: trained on {trained.dataset}; a class of {images.name} counts as the one of its number")
    elif images.checksum != trained.checksum:
        print(f"note: {images.name} here is not the very set that {trained.path} was trained on")
    return images


def maps_by_layer(asked: Iterable[tuple[str, list[int]]], convolutions: Mapping[str, int]) -> dict[str, list[int]]:
    """What --maps names, by the convolution's full name; without a layer it is the last convolution.

    `asked` are results of `flags.map_numbers`, `convolutions` the number of maps of each. UserError if there is no such
    layer or map.
    """
    chosen: dict[str, list[int]] = {}
    for layer, numbers in asked:
        names = [name for name in convolutions if layer in (name, short(name))] if layer else [list(convolutions)[-1]]
        if not names:
            raise UserError(f"--maps: there is no convolution {layer}; there is {', '.join(map(short, convolutions))}")
        for number in numbers:
            if not 0 <= number < convolutions[names[0]]:
                raise UserError(
                    f"--maps: {short(names[0])} has the maps 0 to {convolutions[names[0]] - 1}, and no {number}"
                )
        chosen[names[0]] = list(dict.fromkeys([*chosen.get(names[0], []), *numbers]))
    return chosen


def short(layer: str) -> str:
    """`features.conv1` as people call it: `conv1`."""
    return layer.rpartition(".")[2]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])


CHECKPOINT_FORMAT = 1


_MAX_CHECKPOINT_BYTES = 8 << 30


# The names that the pickle inside a checkpoint may use. PyTorch's own list is longer and has, for example, bytearray
# and the old tensor classes, which take any amount of memory when called with a number.
_DTYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
_PICKLE_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {t}Storage" for t in _DTYPES)}


def is_config(value: object) -> bool:
    """Whether it is what `begin` makes: a dict of plain values and of dicts of plain values, among them `flags`.

    Anything deeper could be a tensor, or a list that grows beyond all memory when it is printed.
    """

    def is_flat(value: object) -> bool:
        return isinstance(value, dict) and all(type(key) is str and is_plain(each) for key, each in value.items())

    def is_plain(value: object) -> bool:
        return value is None or type(value) in (str, bool, int, float)

    return (
        isinstance(value, dict)
        and is_flat(value.get("flags"))
        and all(type(key) is str and (is_plain(each) or is_flat(each)) for key, each in value.items())
    )


def load_checkpoint(path: Path) -> dict:
    """A checkpoint of this project, as tensors on the CPU and plain values; nothing in the file is ever run.

    Raises UserError, in one sentence, if the file is missing, truncated, no checkpoint, one of another project, absurd
    in its sizes, or asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            _check_archive(file, path)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_tensors(content, path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # a hostile file can make the reader fail in any way
        if is_out_of_memory(error):
            raise OutOfMemory(f"there is not enough memory to read {path}") from error
        raise UserError(f"{path} is not a checkpoint that can be trusted: it is damaged or holds code") from error
    if not isinstance(content, dict) or content.get("format") != CHECKPOINT_FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project")
    if not is_config(content.get("config")):
        raise UserError(f"{path} has no config of a run in it")
    return content


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Refuse a zip that is truncated, would grow when read, or whose pickle uses a name that ours never do."""
    size = os.fstat(file.fileno()).st_size
    if size > _MAX_CHECKPOINT_BYTES:
        raise UserError(f"{path} has {size:,} bytes, more than any checkpoint of this project")
    if file.read(4) != b"PK\x03\x04":  # PyTorch would read anything else in its older formats, which check less
        raise UserError(f"{path} is no checkpoint, or was written by a very old PyTorch")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError(f"{path} holds compressed entries, which no checkpoint of this project does")
            if sum(entry.file_size for entry in entries) > size:
                raise UserError(f"{path} claims more data than it has bytes")
            pickles = [entry for entry in entries if "data.pkl" in entry.orig_filename.lower()]
            if len(pickles) != 1:
                raise UserError(f"{path} is not a checkpoint of this project")
            content = archive.read(pickles[0])
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is truncated, or no checkpoint at all") from error
    names = {value for operation, value, _ in pickletools.genops(content) if operation.name == "GLOBAL"}
    if not names <= _PICKLE_NAMES:
        strange = min(names - _PICKLE_NAMES).replace(" ", ".")
        raise UserError(f"{path} is not a checkpoint that can be trusted: it asks for {strange!r}")


def _check_tensors(content: object, path: Path) -> None:
    """Refuse a tensor with more elements than the file has for it: copied, a stride of 0 would become terabytes."""
    seen, waiting = set(), [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:  # containers can hold themselves, or one another many times
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, Tensor) and value.nbytes > value.untyped_storage().nbytes():
            raise UserError(f"{path} has a tensor of {value.numel():,} elements, more than it has data for")


def check_training_state(content: dict, path: Path) -> None:
    """Raise UserError unless a checkpoint has the parts of last.pt, each of the right type."""
    parts = {"model": dict, "optimizer": dict, "generator": Tensor, "epoch": int, "history": list}
    for name, kind in parts.items():
        if not isinstance(content.get(name), kind) or content[name] is True:  # True is an int, to Python
            raise UserError(f"{path} has no {name} to continue from; --overwrite starts the run anew")
    rows = content["history"]
    if (
        not rows
        or len(rows) != content["epoch"]
        or not all(is_metrics(row, number) for number, row in enumerate(rows, 1))
    ):
        raise UserError(f"{path} has metrics that do not fit its epoch; --overwrite starts the run anew")
