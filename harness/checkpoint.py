"""Checkpoints: saved, loaded, checked, put back into a network. The only file that touches .pt.

A checkpoint is a dict of tensors and plain values, and may come from a stranger: it is read with `weights_only=True`,
and each size and shape in it is checked before it is used. `State` is what last.pt holds; `run.py` says which files a
run has, `train.py` and `publish.py` when they are written.
"""

import io
import pickletools
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from harness.data import ImageSet
from harness.errors import OutOfMemory, UserError, is_out_of_memory
from harness.files import make_folder, read_file, write_atomically
from harness.flags import is_class_list
from harness.image_sets import IMAGE_SETS
from harness.metrics import EpochMetrics, is_metrics

FORMAT = 1

# The names that the pickle inside a checkpoint may use. PyTorch's own list is longer and has, for example, bytearray
# and the old tensor classes, which take any amount of memory when called with a number.
TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")
ALLOWED_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", *(f"torch {t}Storage" for t in TYPES)}


@dataclass
class State:
    """All that changes while a run trains, and so all that last.pt must hold."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of the images' order and augmentation, on the CPU
    average: AveragedModel | None = None  # of --average-weights
    history: list[EpochMetrics] = field(default_factory=list)
    wall_times: list[float] = field(default_factory=list)  # when each epoch ended, in seconds since 1970

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return len(self.history)


def save_last(folder: Path, config: dict, state: State) -> None:
    """Write last.pt, from which the run can be continued to the bit."""
    content = {
        "model": state.model.state_dict(),
        "epoch": state.epoch,
        "optimizer": state.optimizer.state_dict(),
        "generator": state.generator.get_state(),
        "history": [list(row) for row in state.history],
        "wall_times": state.wall_times,
    }
    _save(folder / "last.pt", config, content | _average_of(state))


def save_best(folder: Path, config: dict, state: State) -> None:
    """Write best.pt: the model as it is, with the metrics of its epoch."""
    content = {"model": state.model.state_dict(), "epoch": state.epoch, "metrics": state.history[-1].measured}
    _save(folder / "best.pt", config, content | _average_of(state))


def _average_of(state: State) -> dict:
    """What a checkpoint has beside the model if its weights are averaged: the same network with the averaged ones."""
    return {"average": state.average.module.state_dict()} if state.average else {}


def save_snapshot(path: Path, config: dict, state: State) -> None:
    """Write the weights and biases of the convolutions, into which normalizations are folded."""
    model = folded(state.model)
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    weights = {n: value for n, value in model.state_dict().items() if n.rpartition(".")[0] in convolutions}
    make_folder(path.parent)
    _save(path, config, {"weights": weights, "epoch": state.epoch})


def folded(model: nn.Module) -> nn.Module:
    """The model as a plain chain of layers to look into: the same one, unless it has a `folded` form of its own."""
    return model.folded() if hasattr(model, "folded") else model


def _save(path: Path, config: dict, content: dict) -> None:
    buffer = io.BytesIO()  # through memory: torch.save to a path hides what the disk said
    torch.save({"format": FORMAT, "config": config, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def restore(state: State, saved: dict, template: dict, path: Path) -> None:
    """Put what last.pt holds into a new state. UserError if it belongs to another network or optimizer.

    `template` is what the optimizer's state must look like (optimizers.state_template).
    """
    states = saved["optimizer"].get("state")
    try:
        own = {"model": state.model.state_dict()} | _average_of(state)
        if not (_alike({name: saved.get(name) for name in own}, own) and _alike(states, template)):
            raise ValueError("other names, shapes or types")
        state.generator.set_state(saved["generator"])
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} belongs to another network or optimizer than its flags say") from error
    state.model.load_state_dict(saved["model"])
    if state.average:
        state.average.module.load_state_dict(saved["average"])
        state.average.n_averaged += 1  # an exponential average only asks whether this is its first step
    # Fused optimizers write by position, past the end of a tensor with a stranger's strides: copy them to fresh ones.
    fresh = {
        number: {name: torch.empty_like(like, device="cpu").copy_(states[number][name]) for name, like in each.items()}
        for number, each in template.items()
    }
    # The settings (lr, betas, …) stay those of the flags, in the form that this device wants.
    settings = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": fresh, "param_groups": settings})
    state.history = [EpochMetrics(*row) for row in saved["history"]]
    times = saved.get("wall_times")  # which older versions did not record
    known = isinstance(times, list) and [type(each) for each in times] == [float] * state.epoch
    state.wall_times = times if known else [time.time()] * state.epoch


def _alike(given: object, expected: dict | Tensor) -> bool:
    """Whether `given` has the names, shapes and types of `expected`; found out without allocating anything."""
    if isinstance(expected, dict):
        same_names = isinstance(given, dict) and given.keys() == expected.keys()
        return same_names and all(_alike(given[name], like) for name, like in expected.items())
    return isinstance(given, Tensor) and given.shape == expected.shape and given.dtype == expected.dtype


def load_checkpoint(path: Path) -> dict:
    """A checkpoint of this project, as tensors on the CPU and plain values; nothing in the file is ever run.

    Raises UserError if the file is missing, truncated, no checkpoint, one of another project, or asks for code to be
    run. A tensor in it can still have one number for any number of elements: look at its shape before its values.
    """
    file = io.BytesIO(read_file(path))  # from memory: whatever fails from here on, it is not the disk
    try:
        fault = _fault_of_archive(file)
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):  # of what a foreign file has in it
            content = None if fault else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file can make the reader fail in any way
        if is_out_of_memory(error):
            raise OutOfMemory(f"there is not enough memory to read {path}") from error
        raise UserError(f"{path} cannot be trusted: it is truncated, damaged or holds code") from error
    if fault:
        raise UserError(f"{path} {fault}")
    if not isinstance(content, dict) or not _is_plain(content.get("format"), 0) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project")
    if not is_config(content.get("config")):
        raise UserError(f"{path} has no config of a run in it")
    return content


def _fault_of_archive(file: io.BytesIO) -> str | None:
    """What is wrong with a zip that is damaged, no checkpoint, would grow when read, or asks for a foreign name."""
    if file.read(4) != b"PK\x03\x04":  # PyTorch would read anything else in its older formats, which check less
        return "is no checkpoint, or was written by a very old PyTorch"
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        grows = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        overlaps = sum(entry.file_size for entry in entries) > len(file.getbuffer())
        pickles = [entry for entry in entries if "data.pkl" in entry.orig_filename.lower()]
        if grows or overlaps or len(pickles) != 1:  # of two pickles PyTorch might read the one not checked here
            return "is not an archive as PyTorch writes it"
        if archive.testzip():  # PyTorch itself does not look at the checksums
            return "is damaged: one of its checksums is wrong"
        operations = list(pickletools.genops(archive.read(pickles[0])))
    strange = {value for operation, value, _ in operations if operation.name == "GLOBAL"} - ALLOWED_NAMES
    return f"is not a checkpoint that can be trusted: it asks for {min(strange)!r}" if strange else None


def is_config(value: object) -> bool:
    """Whether it is a run's config: a dict of plain values and of dicts of plain values, among them `flags`.

    Anything deeper could be a tensor, or a list that grows beyond all memory when it is printed.
    """
    return isinstance(value, dict) and isinstance(value.get("flags"), dict) and _is_plain(value, 2)


def _is_plain(value: object, depth: int) -> bool:
    """Whether it is None, text, a number, or a dict of such, nested no deeper than `depth`."""
    if isinstance(value, dict) and depth:
        return all(type(key) is str and _is_plain(each, depth - 1) for key, each in value.items())
    return value is None or type(value) in (str, bool, int, float)


def check_training_state(content: dict, path: Path) -> None:
    """Raise UserError unless a checkpoint has the parts of last.pt, each of the right type."""
    for name, kind in {"model": dict, "optimizer": dict, "generator": Tensor, "epoch": int, "history": list}.items():
        if not isinstance(content.get(name), kind) or content[name] is True:  # True is an int, to Python
            raise UserError(f"{path} has no {name} to continue from; --overwrite starts the run anew")
    rows = content["history"]
    if not (len(rows) == content["epoch"] > 0 and all(is_metrics(row, epoch) for epoch, row in enumerate(rows, 1))):
        raise UserError(f"{path} has metrics that do not fit its epoch; --overwrite starts the run anew")


def is_best_of(path: Path, epoch: EpochMetrics) -> bool:
    """Whether a best.pt is there, whole, and holds the model of this epoch."""
    try:
        metrics = load_checkpoint(path).get("metrics")
    except UserError:
        return False
    return _is_plain(metrics, 1) and metrics == epoch.measured


@dataclass(frozen=True)
class Trained:
    """A network with its weights, `folded`, in evaluation mode on the CPU, and what is known of its training."""

    path: Path
    model: nn.Module
    description: dict  # config["model"]
    dataset: str  # the name of the set that it was trained on
    checksum: str  # and its MD5
    epoch: int
    flags: dict  # as recorded

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def classes(self) -> str:
        """Those it was trained on, as --classes has them; empty: all of the set."""
        return self.flags.get("classes", "")

    @property
    def channels(self) -> str:
        return "rgb" if self.description.get("channels") == 3 else "gray"

    def source(self, images: ImageSet | None, *, all_epochs: bool = False) -> str:
        """What stands in every title: on what the network was trained, and what it is shown if that is another set."""
        trained_on = f"{self.dataset} {self.channels}" + f", classes {self.classes}" * bool(self.classes)
        trained_on += "" if all_epochs else f", epoch {self.epoch}"
        if images is None or images.name == self.dataset:
            return trained_on
        return f"trained on {trained_on}; images of {images.name}"


def load_trained(path: Path, build_model: Callable[[dict], nn.Module]) -> Trained:
    """The network of a best.pt or last.pt. UserError if it cannot be rebuilt from it."""
    content = load_checkpoint(path)
    weights, epoch, config = content.get("model"), content.get("epoch"), content["config"]
    if not isinstance(weights, dict) or not isinstance(epoch, int):  # it may be a snapshot
        raise UserError(f"{path} holds no whole network; name a run's best.pt or last.pt")
    dataset = config.get("dataset")
    classes = config["flags"].get("classes", "")
    known = isinstance(dataset, dict) and dataset.get("name") in IMAGE_SETS
    if not known or not isinstance(classes, str) or not is_class_list(classes):
        raise UserError(f"{path} does not say on which images it was trained")
    try:
        model = build_model(config)
        if not _alike(weights, model.state_dict()):
            raise ValueError("its weights are not those of the network in its config")
    except ValueError as error:
        raise UserError(f"{path} cannot be rebuilt: {error}") from error
    model.load_state_dict(weights)
    model = folded(model.eval())
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise UserError(f"{path} holds weights that are not finite, of a run that diverged; there is nothing to see")
    return Trained(path, model, config["model"], dataset["name"], str(dataset.get("checksum")), epoch, config["flags"])


def load_snapshots(trained: Trained) -> dict[int, dict[str, Tensor]]:
    """The run's snapshots, epoch -> the convolutions' weights and biases, in rising order; empty if there are none.

    UserError if one is damaged or of another network.
    """
    snapshots, own = {}, trained.model.state_dict()
    for path in trained.folder.glob("snapshots/epoch-*.pt"):
        content = load_checkpoint(path)
        weights, epoch = content.get("weights"), content.get("epoch")
        expected = {name: own[name] for name in own if isinstance(weights, dict) and name in weights}
        if not (isinstance(epoch, int) and expected and _alike(weights, expected)):
            raise UserError(f"{path} is no snapshot of the network in {trained.path}")
        if all(value.isfinite().all() for value in weights.values()):  # else of an epoch that diverged
            snapshots[epoch] = weights
    return dict(sorted(snapshots.items()))
