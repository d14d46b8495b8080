"""The run folder: the one contract between training and everything after it.

`open_run` finds the folder that the flags select, locks it, and loads what is to be resumed; `begin` makes it ready for
training. In which order its files are written stands in `publish.publish`.

    last.pt       all that an exact continuation needs; written first, and the others are made to agree with it
    config.json   flags, versions, data checksum, status        metrics.csv   one row an epoch
    best.pt       the model of the best epoch (metrics.py)      snapshots/    the convolutions of some epochs
    events.out.tfevents.*   for TensorBoard                     figures/      what visualize.py and report.py draw
"""

import argparse
import contextlib
import importlib.metadata
import json
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from harness.checkpoint import check_training_state, is_config, load_checkpoint
from harness.errors import Interrupted, OutOfMemory, UserError, catch_out_of_memory
from harness.files import leftovers, lock_folder, make_folder, os_errors_as, patiently, read_file, write_atomically
from harness.flags import check_new_name, recorded_flags, resume_command, resumed_flags, run_name
from harness.ranks import ALONE, Ranks, join
from harness.tensorboard import EventsFile, own_events

# What a run consists of, beside config.json, events and what visualize.py draws, in the order in which it is deleted.
RUN_FILES = ("last.pt", "best.pt", "metrics.csv", "snapshots/epoch-*.pt")
RUN_FILES += ("figures/first_rows.csv", "figures/confusion.png", "figures/confusion.csv")
FIGURES_PAGE = b"<title>Inside "  # in the head of the index.html that visualize.py writes


class RunFolder:
    """A run's folder. A new run writes nothing before `begin`; of several ranks only the main one locks and writes.

    `flags` are those to train with: when resuming, the recorded ones.
    """

    def __init__(self, path: Path, experiment: str, flags: argparse.Namespace, ranks: Ranks = ALONE) -> None:
        self.path, self.experiment, self.flags, self.ranks = path, experiment, flags, ranks
        self.checkpoint: dict | None = None  # what last.pt holds of the run to resume
        self.recorded: dict = {}  # and the config of that run
        self.config: dict = {}  # what checkpoints and config.json will hold
        self.status: str | None = None  # what config.json says, once this process has written it
        self.events: EventsFile | None = None
        self.lock_stack = contextlib.ExitStack()  # releases the lock, if there is one, and gives back the threads
        self.holds_lock = False

    def lock(self) -> None:
        self.lock_stack.enter_context(lock_folder(self.path))
        self.holds_lock = True

    def find(self) -> None:
        """Look whether the folder holds a run; lock it then, and load it for --resume. UserError if that cannot be."""
        flags = self.flags
        if self.has_run():
            if not (flags.resume or flags.overwrite):
                raise self.exists_already()
            self.lock()
            _delete(file for name in (*RUN_FILES, "config.json") for file in leftovers(self.path / name))
            if flags.resume:
                self.load()
        elif flags.resume:
            check_new_name(flags)
            print(f"{self.path} holds no run yet: starting at epoch 1")

    def has_run(self) -> bool:
        """Whether the folder holds anything of a run (the lock file alone is nothing)."""
        path = self.path
        with os_errors_as(f"cannot read {path}"):
            return path.exists() and (not path.is_dir() or any(entry.name != ".lock" for entry in path.iterdir()))

    def exists_already(self) -> UserError:
        ways = "--resume continues it, --overwrite starts anew, --name chooses another"
        return UserError(f"{self.path} exists already: {ways}")

    def load(self) -> None:
        """Load a run to resume: its last checkpoint and its flags. UserError if any of it cannot be used."""
        last = self.path / "last.pt"
        if last.exists():
            self.checkpoint = load_checkpoint(last)
            check_training_state(self.checkpoint, last)
            self.recorded = self.checkpoint["config"]
        else:
            if (self.path / "config.json").exists():
                self.recorded = read_config(self.path)
            if self.recorded.get("status") in ("complete", "diverged"):  # as the committed reference runs are
                raise UserError(
                    f"{self.path} holds the results of a finished run but no last.pt to continue from; "
                    "--overwrite starts it anew, --name or --runs-dir chooses another folder"
                )
            if not self.recorded and any(file for pattern in RUN_FILES for file in self.path.glob(pattern)):
                raise UserError(
                    f"{self.path} holds files of a run but neither last.pt nor config.json to continue from; "
                    "--overwrite deletes them and starts anew, --name chooses another folder"
                )
            print(f"note: {self.path} has no last.pt, no finished epoch to continue from: starting at epoch 1")
            if not self.recorded:
                return
        found = self.recorded.get("experiment")
        if found != self.experiment:
            raise UserError(f"{self.path} holds a run of {found!r}, not of {self.experiment!r}")
        try:
            self.flags = resumed_flags(self.flags, self.recorded["flags"])
        except UserError as error:
            raise UserError(f"cannot resume {self.path}: {error}") from error
        if self.checkpoint and self.checkpoint["epoch"] > self.flags.epochs:
            raise UserError(f"{last} has more epochs than the {self.flags.epochs} of its flags; it cannot be trusted")
        if "threads" not in self.flags.given:
            threads = self.recorded.get("threads")
            as_before = self.recorded.get("ranks", 1) == self.ranks.count  # else threads are chosen afresh
            self.flags.threads = threads if as_before and type(threads) is int and 1 <= threads <= 4096 else None

    def begin(self, *, model: dict, dataset: dict, device: str) -> None:
        """Set `config`, and make the folder ready for training: cleared, for --overwrite."""
        self.config = {
            "experiment": self.experiment,
            "flags": recorded_flags(self.flags),
            "model": model,
            "dataset": dataset,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": importlib.metadata.version("torchvision"),
            "device": device,
            "threads": torch.get_num_threads(),
            "ranks": self.ranks.count,
            "git_commit": _git_commit(),
            "status": "running",  # of a checkpoint always; config.json has the true one
            "wall_seconds": self.recorded_seconds,
        }
        if self.ranks.main and not self.checkpoint:
            make_folder(self.path)
            if not self.holds_lock:
                self.lock()
                if self.has_run() and not self.flags.overwrite:  # another process was quicker, while images were loaded
                    raise self.exists_already()
            # First: a folder with a config and no checkpoint is one that --resume starts at epoch 1.
            self.write_config("running")
            _clear(self.path)

    @property
    def recorded_seconds(self) -> float:
        """The wall-clock seconds that the resumed run had taken by its checkpoint; 0 without one."""
        seconds = self.recorded.get("wall_seconds") if self.checkpoint else None
        return seconds if isinstance(seconds, float) else 0.0

    def write_config(self, status: str) -> None:
        """Write config.json with this status; of several ranks the main one does."""
        if self.ranks.main:
            config = json.dumps(self.config | {"status": status}, indent=2)
            write_atomically(self.path / "config.json", f"{config}\n".encode())
            self.status = status

    def record_early_end(self, error: BaseException) -> None:
        """Record that the run was interrupted, and add to the error's message how to go on."""
        if self.status is None or self.flags.dry_run:
            return  # nothing has been written, or nothing is to stay
        if self.status == "running":
            with contextlib.suppress(UserError):  # the disk may be full: the run can be continued all the same
                self.write_config("interrupted")
        command = resume_command(self.flags)
        if not self.path.exists():
            command += f" (but {self.path} was moved or deleted meanwhile: put it back first, or that starts anew)"
        if isinstance(error, Interrupted):
            error.message = f"interrupted; continue with: {command}"
        elif isinstance(error, OutOfMemory):
            smaller = "start anew with a smaller --batch-size and --overwrite, or "
            nothing_saved = not (self.path / "last.pt").exists()
            error.args = (f"{error}; {smaller * nothing_saved}continue where there is more with: {command}",)
        elif isinstance(error, UserError):
            whole = "what was saved before is whole, " * self.path.exists()
            error.args = (f"{error}; {whole}continue with: {command}",)


@contextlib.contextmanager
def open_run(flags: argparse.Namespace, experiment: str) -> Iterator[RunFolder]:
    """The run folder that the flags select, locked; or a temporary one for --dry-run.

    Raises UserError if the folder holds a run and neither --resume nor --overwrite is given, if another process trains
    in it, or if what it holds cannot be resumed. An interruption or a failed write while it is open is recorded as
    status `interrupted`, and the message gets the command that continues.
    """
    ranks = join()
    with contextlib.ExitStack() as stack:
        path = flags.runs_dir / experiment / (flags.name or run_name(flags))
        if flags.dry_run and ranks.main:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dry-run-"))) / "run"
        run = RunFolder(path, experiment, flags, ranks)
        stack.enter_context(run.lock_stack)
        try:
            with ranks.together(), catch_out_of_memory():
                if ranks.main:
                    run.find()
                # What the main rank found is what all ranks train with. (The parser, which each has, cannot be sent.)
                found = {name: getattr(run.flags, name) for name in recorded_flags(run.flags)}
                found, run.recorded, run.checkpoint = ranks.broadcast((found, run.recorded, run.checkpoint))
                run.flags = argparse.Namespace(**vars(run.flags) | found)
                yield run
        except (Interrupted, KeyboardInterrupt, UserError) as error:  # the second from a notebook that calls main()
            run.record_early_end(error)
            raise


def read_config(path: Path) -> dict:
    """A run folder's config.json. UserError if it cannot be read or is something else."""
    file = path / "config.json"
    try:
        config = json.loads(read_file(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not valid JSON; --overwrite starts the run anew") from error
    if not is_config(config):
        raise UserError(f"{file} is not the config of a run; --overwrite starts the run anew")
    return config


def _clear(folder: Path) -> None:
    """Delete what this project wrote into a run's folder but config.json, and nothing that somebody else put there."""
    files = [file for pattern in RUN_FILES for file in folder.glob(pattern)]
    files += own_events(folder)
    for record in folder.glob("figures/**/*.json"):  # figures/own/ is of a person's own pictures
        begins = f'{{\n "name": "{record.stem}",'.encode()  # visualize.py's
        if record.is_file() and read_file(record).startswith(begins):
            files += record.parent.glob(f"{record.stem}[._]*")
    files += [page for page in folder.glob("figures/**/index.html") if FIGURES_PAGE in read_file(page)[:400]]
    _delete(files)


def _delete(files: Iterable[Path]) -> None:
    for file in files:
        with os_errors_as(f"cannot delete {file}"):
            patiently(file.unlink, missing_ok=True)


def _git_commit() -> str | None:
    """The commit of the code that trains, with "-dirty" if files differ from it; None outside a git checkout of it."""
    project = Path(__file__).resolve().parent.parent
    if not (project / ".git").exists():  # git would ask the folders above
        return None
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=project, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode(errors="replace").strip() or None
