"""The run folder: the one contract between training and everything after it.

`open_run` finds or makes the folder that the flags select, locked for this process. What it holds, and in which order
it is written so that a kill at any instant loses nothing but the epoch under way, is this file's business; what the
numbers are is `train.py`'s.

    config.json   flags, versions, data checksum, status        metrics.csv   one row an epoch
    last.pt       all that an exact continuation needs          best.pt       the model at its best test accuracy
    snapshots/    the convolutions of some epochs               events.out.tfevents.*   for TensorBoard
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from harness.checkpoint import CHECKPOINT_FORMAT, check_training_state, is_config, load_checkpoint
from harness.errors import Interrupted, OutOfMemory, OutputLost, UserError, memory_errors_told
from harness.files import FolderLock, make_folder, write_atomically
from harness.flags import (
    MAY_CHANGE,
    RESULT_FLAGS,
    check_new_name,
    command_line,
    recorded_flags,
    resume_command,
    resumed_flags,
    run_name,
)
from harness.metrics import EpochMetrics, metrics_csv
from harness.ranks import ALONE, Ranks, join
from harness.tensorboard import is_whole

_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
LOCKED = "another process is training in"  # so begins the refusal of a folder that is in use


class RunFolder:
    """A run's folder, locked for this process while it is open.

    `flags` are the flags to train with (the recorded ones, when resuming), `checkpoint` is what last.pt holds or None,
    `config` is what config.json will hold. Nothing is written before `begin`. Of several `ranks` that train the run,
    only the main one locks and writes the folder; for the others all that does nothing.
    """

    def __init__(self, path: Path, experiment: str, flags: argparse.Namespace, ranks: Ranks = ALONE) -> None:
        self.path = path
        self.experiment = experiment
        self.flags = flags
        self.ranks = ranks
        self.config: dict = {}
        self.recorded_config: dict | None = None
        self.recorded_status: str | None = None
        self.checkpoint: dict | None = None
        self.ended = False  # complete, or diverged with its last checkpoint written
        self._lock = FolderLock(path / ".lock", refusal=f"{LOCKED} {path}; wait for it, or choose another --name")

    @property
    def kept(self) -> bool:
        """False for a dry run, whose folder is thrown away."""
        return not self.flags.dry_run

    def lock(self) -> None:
        self._lock.acquire()

    def unlock(self) -> None:
        self._lock.release()

    def read_record(self) -> None:
        """Take up a run to resume: its config, last checkpoint and flags. UserError if any of it cannot be used."""
        last = self.path / "last.pt"
        if last.exists():
            self.checkpoint = load_checkpoint(last)
            check_training_state(self.checkpoint, last)
            self.recorded_config = self.checkpoint["config"]  # last.pt is the truth, and enough without config.json
            with contextlib.suppress(UserError):
                config = read_config(self.path)
                self.recorded_status = config.get("status")
                later = {name: config["flags"][name] for name in MAY_CHANGE if name in config["flags"]}
                self.recorded_config["flags"] |= later  # changed on a resume that was killed in its first epoch
                if self.checkpoint["epoch"] == config["flags"].get("epochs"):  # the last pictures took time, too
                    self.recorded_config["wall_seconds"] = max(map(_seconds, (config, self.recorded_config)))
        elif (self.path / "config.json").exists():
            self.recorded_config = read_config(self.path)
            if self.recorded_config.get("status") in ("complete", "diverged"):  # as the committed reference runs are
                raise UserError(
                    f"{self.path} holds the results of a finished run but no last.pt to continue from; "
                    "--overwrite starts it anew, --name or --runs-dir chooses another folder"
                )
            print(f"note: {self.path} has no last.pt, no finished epoch to continue from: starting at epoch 1")
        else:
            return
        if self.recorded_config.get("experiment") != self.experiment:
            raise UserError(
                f"{self.path} holds a run of {self.recorded_config.get('experiment')!r}, not of {self.experiment!r}"
            )
        try:
            self.flags = resumed_flags(self.flags, self.recorded_config["flags"])
        except UserError as error:
            raise UserError(f"cannot resume {self.path}: {error}") from error
        if self.checkpoint and self.checkpoint["epoch"] > self.flags.epochs:
            raise UserError(f"{last} has more epochs than the {self.flags.epochs} of its flags; it cannot be trusted")
        if "threads" not in self.flags.given:
            threads = self.recorded_config.get("threads")
            as_before = self.recorded_config.get("ranks", 1) == self.ranks.count  # else their threads share cores anew
            self.flags.threads = threads if as_before and type(threads) is int and 1 <= threads <= 4096 else None

    def taken_up(self) -> dict:
        """What the main rank found and the others must know; `take_up` is the other end."""
        return {
            "flags": {name: getattr(self.flags, name) for name in recorded_flags(self.flags)},
            "recorded_config": self.recorded_config,
            "recorded_status": self.recorded_status,
            "checkpoint": self.checkpoint,
        }

    def take_up(self, found: dict) -> None:
        self.flags = argparse.Namespace(**vars(self.flags) | found["flags"])
        self.recorded_config, self.recorded_status = found["recorded_config"], found["recorded_status"]
        self.checkpoint = found["checkpoint"]

    @property
    def recorded_seconds(self) -> float:
        """The wall-clock seconds that the resumed run had taken by its checkpoint; 0 without one."""
        return _seconds(self.recorded_config) if self.checkpoint else 0.0

    def begin(self, *, model: dict, dataset: dict, device: str, threads: int) -> None:
        """Make the folder (or clear it, for --overwrite) and record the run's config with status `running`."""
        self._check_images(dataset)
        config = {
            "experiment": self.experiment,
            "flags": recorded_flags(self.flags),
            "model": model,
            "dataset": dataset,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": importlib.metadata.version("torchvision"),
            "device": device,
            "threads": threads,
            "ranks": self.ranks.count,
            "git_commit": _git_commit(),
            "status": "running",
            "wall_seconds": self.recorded_seconds,
        }
        if self.ranks.main:
            self._make_ready()
        self.write_config(config)  # a failure here leaves self.config empty: nothing has begun

    def _make_ready(self) -> None:
        make_folder(self.path)
        if not self._lock.held:
            self.lock()
            if has_run(self.path) and self.flags.resume:  # and there was none when it was looked for
                raise UserError(f"another process has just trained in {self.path}; the same command again continues it")
            if has_run(self.path) and not self.flags.overwrite:
                raise _folder_exists(self.path)
        try:
            if self.flags.overwrite:
                _clear(self.path)
            elif self.checkpoint is None:  # a kill in the middle of an --overwrite may have left the former run's
                _remove_folder(self.path / "snapshots")
            _sweep(self.path)
        except OSError as error:
            raise UserError(f"cannot delete {error.filename or self.path}: {error.strerror or error}") from error

    def write_config(self, changes: dict | None = None) -> None:
        """Write config.json; `changes` to the config count from when they are on the disk."""
        config = self.config | (changes or {})
        self._write("config.json", (json.dumps(config, indent=2) + "\n").encode())
        self.config = config

    def write_metrics(self, history: list[EpochMetrics]) -> None:
        self._write("metrics.csv", metrics_csv(history))

    def lacks(self, history: list[EpochMetrics], *, ended: bool) -> bool:
        """Whether metrics.csv with just these epochs is missing, or their events and, if it `ended`, its last ones."""
        try:
            metrics = (self.path / "metrics.csv").read_bytes()
        except OSError:
            return True
        return metrics != metrics_csv(history) or not is_whole(self.path, len(history), ended=ended)

    def write_checkpoint(self, name: str, content: dict) -> None:
        """Write `content` (tensors and plain values) as `name`, with the format number and the run's config."""
        make_folder((self.path / name).parent)
        buffer = io.BytesIO()  # through memory: torch.save to a path hides what the disk said
        torch.save({"format": CHECKPOINT_FORMAT, "config": self.config, **content}, buffer)
        self._write(name, buffer.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        if self.ranks.main:
            write_atomically(self.path / name, content)

    def finish(self, wall_seconds: float) -> None:
        """Record that the run is complete."""
        self.config["wall_seconds"] = round(wall_seconds, 3)
        self.end("complete")

    def take_up_again(self, dataset: dict) -> None:
        """Open a run, all of whose epochs are in last.pt, to write other files of it anew; `end` closes it again.

        Its record stays that of the training. UserError if these are other images than it was trained on.
        """
        self._check_images(dataset)
        self._make_ready()
        self.config = self.recorded_config
        self.write_config({"status": "running"})

    def end(self, status: str) -> None:
        """Record how the run ended."""
        self.write_config({"status": status})
        self.ended = True

    def _check_images(self, dataset: dict) -> None:
        before = self.recorded_config
        if before and before.get("dataset") != dataset:
            raise UserError(f"cannot resume {self.path}: it was trained on {before.get('dataset')}, this is {dataset}")


@contextlib.contextmanager
def open_run(flags: argparse.Namespace, experiment: str) -> Iterator[RunFolder]:
    """The run folder that the flags select, locked; or a temporary one for --dry-run.

    Raises UserError if the folder holds a run and neither --resume nor --overwrite is given, if another process trains
    in it, or if what it holds cannot be resumed. An interruption or a failed write while it is open is recorded as
    status `interrupted`, and the message gets the command that continues.
    """
    ranks, enough_memory = join(), memory_errors_told()
    path = flags.runs_dir / experiment / (flags.name or run_name(flags))
    if not ranks.main:
        with ranks.together(), enough_memory:
            run = RunFolder(path, experiment, flags, ranks)
            run.take_up(ranks.broadcast(None))
            yield run
        return
    if flags.dry_run:
        with tempfile.TemporaryDirectory(prefix="dry-run-") as folder, ranks.together(), enough_memory:
            run = RunFolder(Path(folder) / "run", experiment, flags, ranks)
            try:
                ranks.broadcast(run.taken_up())
                yield run
            finally:
                run.unlock()  # Windows deletes no file that is open
        return
    run = RunFolder(path, experiment, flags, ranks)
    try:
        with ranks.together(), enough_memory:
            _find_run(run)
            ranks.broadcast(run.taken_up())
            yield run
    except Interrupted as interruption:
        if run.config:
            _record_interruption(run)
            interruption.message = f"interrupted; continue with: {resume_command(flags)}"
        raise
    except OutOfMemory as error:
        if run.config:
            _record_interruption(run)
            anew = "start anew with a smaller --batch-size and --overwrite, or "
            way_on = f"continue where there is more with: {resume_command(flags)}"
            raise UserError(f"{error}; {way_on if (path / 'last.pt').exists() else anew + way_on}") from error
        raise
    except UserError as error:
        if run.config:
            _record_interruption(run)
            raise UserError(
                f"{error}; what was saved before is whole, continue with: {resume_command(flags)}"
            ) from error
        raise
    except OutputLost:
        if run.config:
            _record_interruption(run)
        raise
    finally:
        run.unlock()


def _find_run(run: RunFolder) -> None:
    """Lock the folder if it holds a run, and take up what is to be resumed."""
    path, flags = run.path, run.flags
    there = has_run(path)
    if there and not (flags.resume or flags.overwrite):
        raise _folder_exists(path)
    if there:
        run.lock()
        if flags.resume:
            run.read_record()
    elif flags.resume:
        check_new_name(flags)
        print(f"{path} holds no run yet: starting at epoch 1")
        for shorter in () if flags.name else _shorter_runs(path.parent, flags):
            words = command_line(["--name", shorter, "--epochs", str(flags.epochs), "--resume"])
            print(f"note: {words} would continue that shorter run instead")


def _record_interruption(run: RunFolder) -> None:
    if not run.ended:
        with contextlib.suppress(UserError):  # the disk may be full: the run can be continued all the same
            run.write_config({"status": "interrupted"})


def _shorter_runs(folder: Path, flags: argparse.Namespace) -> list[str]:
    """The runs in `folder` with the same flags but for fewer epochs: another folder's name, but perhaps what is meant.

    They are not taken up unasked, because a run of 10 epochs beside one of 20 is a result of its own.
    """
    wanted = {name: value for name, value in recorded_flags(flags).items() if name in RESULT_FLAGS and name != "epochs"}
    names = []
    for file in sorted(folder.glob("*/config.json")):
        with contextlib.suppress(UserError):
            recorded = read_config(file.parent)["flags"]
            epochs = recorded.get("epochs")
            if wanted.items() <= recorded.items() and type(epochs) is int and epochs < flags.epochs:
                names.append(file.parent.name)
    return names


def _seconds(config: dict) -> float:
    seconds = config.get("wall_seconds")
    return seconds if type(seconds) is float and 0 <= seconds < math.inf else 0.0


def has_run(path: Path) -> bool:
    """Whether the folder holds anything of a run (the lock file alone is nothing)."""
    try:
        return path.exists() and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir()))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _folder_exists(path: Path) -> UserError:
    return UserError(f"{path} exists already: --resume continues it, --overwrite starts anew, --name chooses another")


def _clear(path: Path) -> None:
    """Delete a run, and only what a run consists of; last.pt first, so that no half of it can be resumed."""
    (path / "last.pt").unlink(missing_ok=True)
    for folder in (path / "snapshots", path / "figures"):
        _remove_folder(folder)
    for pattern in ("best.pt", "metrics.csv", "events.out.tfevents.*", "config.json"):
        for file in path.glob(pattern):
            file.unlink()


def _remove_folder(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _sweep(path: Path) -> None:
    """Remove what a kill in the middle of a write left behind."""
    for leftover in (*path.glob(".*.tmp"), *path.glob("snapshots/.*.tmp")):
        leftover.unlink(missing_ok=True)


def read_config(path: Path) -> dict:
    """A run folder's config.json. UserError if it is missing, no JSON, or not of a run."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON ({error}); --overwrite starts the run anew") from error
    if not is_config(config):
        raise UserError(f"{file} is not the config of a run; --overwrite starts the run anew")
    return config


def _git_commit() -> str | None:
    """The commit of the code that trains, with "-dirty" if files differ from it; None outside a git checkout of it."""
    project = Path(__file__).resolve().parent.parent
    if not (project / ".git").exists():  # git would ask the folders above
        return None
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=project,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace").strip() or None
