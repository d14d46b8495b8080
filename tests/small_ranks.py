"""torchrun on a few images, with ranks that fail where a test wants it.

Each rank is `small_ranks.py SCRIPT FLAGS…`. To start Python and PyTorch takes a rank seconds, so `forked_torchrun` runs
torchrun's own main in a fork of a process that has imported everything, and lets it fork its ranks.
"""

import atexit
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch._dynamo  # the optimizers import it
import torch.distributed.run
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fake_sets import make_mnist
from killed_runs import SMALL, make_runs_small

import cnn_cifar10  # noqa: F401 - these take the time, and every fork has them
import harness.data
import harness.pictures
import harness.train
import models  # noqa: F401
import rnn_mnist  # noqa: F401
from harness import ranks
from harness.cli import run_script
from harness.image_sets import IMAGE_SETS

LONG = 600  # seconds: only a job that hangs takes as long


@dataclass
class Job:
    """What came of a torchrun: its exit code, and what its ranks wrote."""

    code: int
    out: str
    err: str


def make_small(replace: Callable[[object, str, object], None] = setattr, data_dir: Path | None = None) -> None:
    """Make the synthetic sets and MNIST small; with `data_dir`, write MNIST's files there."""
    make_runs_small(replace)
    with tempfile.TemporaryDirectory() as folder:  # the files are the same each time, and so are their checksums
        small = IMAGE_SETS | {"mnist": make_mnist(data_dir or Path(folder), *SMALL)}
        replace(harness.data, "IMAGE_SETS", small)


def train_as_rank(words: list[str]) -> int:
    """Run SCRIPT with FLAGS; as epoch 2 begins the rank that the variable FAIL names ("1 killed") fails as it says."""
    make_small()
    draw, epochs = harness.data.EpochOrder.draw, []

    def draw_or_fail(*given: object, **named: object) -> harness.data.EpochOrder:
        epochs.append(1)
        rank, how = os.environ.get("FAIL", "none none").split(" ", 1)
        first_attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if len(epochs) == 2 and os.environ["RANK"] == rank and first_attempt:
            while not any(Path("runs").rglob("last.pt")):  # the main rank may still be writing epoch 1
                time.sleep(0.01)
            fail(how)
        return draw(*given, **named)

    harness.data.EpochOrder.draw = draw_or_fail
    sys.argv = words
    return run_script(lambda: importlib.import_module(words[0]).main(words[1:]))


def fail(how: str) -> None:
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "interrupts torchrun":
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
    elif how == "has a full disk":
        os.fsync = full_disk
    else:
        ranks.WAIT_FOR_TORCHRUN = 0  # on this rank alone: no other will have its error
        raise MemoryError if how == "lacks memory" else ZeroDivisionError("a bug")


def full_disk(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def forked_torchrun(count: int, *words: str, fail: str = "", torchrun: tuple[str, ...] = ()) -> Job:
    """Run SCRIPT FLAGS… on `count` ranks in the current folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_ranks"])
    environment = os.environ | {"FAIL": fail or "none none"}
    argv = ["--standalone", f"--nproc-per-node={count}", *torchrun, __file__, *words]
    files = [Path(name) for name in ("out", "err", "torchrun.log")]
    process = context.Process(target=run_torchrun, args=(argv, environment, [str(file.resolve()) for file in files]))
    with mock.patch.dict(os.environ, PYTHONPATH=str(Path(__file__).parent)):  # the fork server looks nowhere else
        process.start()
    process.join(LONG)
    out, err, _ = (file.read_text(encoding="utf-8") for file in files)
    return Job(process.exitcode, out, err)


def run_torchrun(argv: list[str], environment: dict[str, str], files: list[str]) -> None:
    """torchrun's main in this process, with ranks that are forks of it; the ranks write to the first two files."""
    multiprocessing.set_start_method("fork", force=True)  # the default, as tqdm's locks depend on it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(files[0]).parent)
    out, err, log = (os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND) for file in files)

    class ForkedRank(subprocess.Popen):
        def _execute_child(self, words: list[str], *given: object) -> None:
            self.pid = os.fork()
            if not self.pid:
                os.setpgid(0, 0)
                os.dup2(out, 1)
                os.dup2(err, 2)
                os.environ.update(given[5])
                become_rank(words[words.index(__file__) + 1 :])
            os.setpgid(self.pid, self.pid)  # here, too: torchrun signals the group
            self._child_created = True

    os.dup2(log, 1)
    os.dup2(log, 2)
    subprocess_handler.Popen = ForkedRank
    subprocess_handler.subprocess = types.SimpleNamespace(Popen=ForkedRank)  # where PyTorch 2.6 takes it from
    torch.distributed.run.main(argv)


def become_rank(words: list[str]) -> None:
    """What a new interpreter does with a script, from signals to exit functions."""
    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(each, signal.SIG_DFL)
    atexit._clear()
    code = 1
    try:
        code = train_as_rank(words)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(train_as_rank(sys.argv[1:]))
