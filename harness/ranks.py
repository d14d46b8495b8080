"""One run on several devices: what a process does that torchrun started as one of several ranks.

Every rank runs the same script and the same loop (train.py). `Ranks` tells the loop which part of a batch is this
rank's, averages gradients, sums over all ranks, and says who writes: the main rank, number 0. A process that torchrun
did not start is `ALONE`, to which everything belongs.

torchrun ends all ranks together: when one has ended with an error or by a signal, it sends SIGTERM to the others, and
SIGKILL 30 seconds later. On the main rank SIGTERM is an Interrupted, as in any run; the others die of it at once.
"""

import atexit
import contextlib
import datetime
import io
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, ignore_interruptions

if TYPE_CHECKING:  # PyTorch takes seconds to import, which --help need not wait for
    import torch
    from torch import Tensor, nn

WAIT_FOR_MAIN = datetime.timedelta(hours=2)  # it may be downloading
WAIT_FOR_TORCHRUN = 10  # seconds; it looks ten times a second whether a rank has ended


@dataclass(frozen=True)
class Share:
    """A rank's part of one batch: its positions in the epoch (`here`), and how many images of it count.

    A part may be empty; as not every layer accepts an empty batch, `here` then is the batch's first image. `weight` is
    count · ranks / batch.
    """

    here: slice
    count: int
    weight: float = 1.0

    def backward(self, loss: "Tensor") -> None:
        """Gradients of this part's mean loss, weighted so that their mean over the ranks is that of the whole batch."""
        loss.backward(None if self.weight == 1 else loss.new_tensor(self.weight))


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` of its job: `rank` of all, `local_rank` of the `local_count` on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes the run folder, prints and downloads."""
        return self.rank == 0

    def share(self, start: int, stop: int) -> Share:
        """This rank's part of the images at `start` to `stop`: parts differ by one image at most, larger ones first."""
        size, larger = divmod(stop - start, self.count)
        count = size + (self.rank < larger)
        first = start + self.rank * size + min(self.rank, larger)
        here = slice(first, first + count) if count else slice(start, start + 1)
        return Share(here, count, count * self.count / (stop - start))

    def shares(self, images: int, batch_size: int) -> list[Share]:
        """This rank's parts of an epoch's batches; the last batch may be smaller."""
        return [self.share(start, min(start + batch_size, images)) for start in range(0, images, batch_size)]

    def sum(self, totals: "Tensor") -> "Tensor":
        """Sums over all ranks, the same bits on each."""
        if self.count > 1:
            import torch.distributed

            torch.distributed.all_reduce(totals)
        return totals

    def own_device(self, device: "torch.device") -> "torch.device":
        """The device of this rank: of the GPUs the one with its local number. UserError if there are too few."""
        if self.count == 1 or device.type == "cpu":
            return device
        import torch

        there = torch.cuda.device_count() if device.type == "cuda" else 0
        if there < self.local_count:
            raise UserError(
                f"{self.local_count} ranks on this machine need a CUDA GPU each and there are {there}; "
                "give torchrun a smaller --nproc-per-node, or the script --device cpu"
            )
        torch.cuda.set_device(self.local_rank)  # which "cuda" means from here on
        return device

    def parallel(self, model: "nn.Module") -> "nn.Module":
        """The model to train by, with the very parameters of `model`, set to the main rank's; it averages gradients."""
        if self.count == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # Of a gray image's filters, which lie alike in memory whatever the strides of their one channel are called.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(model)

    def share_buffers(self, model: "nn.Module") -> None:
        """Set what a model holds beside its parameters to the main rank's, which saves it."""
        if self.count > 1:
            import torch.distributed

            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def broadcast(self, value: Any) -> Any:
        """The main rank's value (anything that can be pickled), on every rank."""
        if self.count == 1:
            return value
        import torch.distributed

        values = [value]
        torch.distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main rank finish the block before the others begin it."""
        if not self.main:
            self.broadcast(None)
        yield
        if self.main:
            self.broadcast(None)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Train on all ranks in this block and wait for the main one. It gets an Interrupted when another is lost."""
        try:
            yield
            self.broadcast(None)
        except RuntimeError:
            # Gloo raises it when another rank is gone, as for any fault; but then torchrun's SIGTERM is on its way.
            # Without one it is a bug, which keeps its traceback.
            if self.main and self.count > 1:
                _wait_for_torchrun(WAIT_FOR_TORCHRUN)
            raise
        if self.count > 1:  # all is saved, but the first rank to end a diverged run, with code 3, brings SIGTERM
            ignore_interruptions()


ALONE = Ranks()


def is_rank() -> bool:
    """Whether torchrun started this process as one of several."""
    given = {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= os.environ.keys()
    return given and int(os.environ["WORLD_SIZE"]) > 1


def is_main() -> bool:
    """Whether this process is the one that writes, prints and tidies up: the main rank, or one without ranks."""
    return not is_rank() or os.environ["RANK"] == "0"


def launcher() -> list[str]:
    """The words before the script in the command line that started this process."""
    if not is_rank():
        return ["python"]
    # Typed where the machine's name does not resolve: there torchrun would wait for minutes without it.
    local = ["--local-addr=127.0.0.1"] if os.environ.get("MASTER_ADDR") == "127.0.0.1" else []
    return ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}", *local]


def refuse_ranks(script: str) -> None:
    """UserError if torchrun started this script, whose work is not shared by ranks."""
    if is_rank():
        raise UserError(f"{script} does its work in one process: start it with python; torchrun is for the trainings")


def join() -> Ranks:
    """This process's place among the ranks of its job, connected to them; ALONE without torchrun."""
    if not is_rank():
        return ALONE
    from torch import cuda, distributed

    store, rank, count = next(distributed.rendezvous("env://"))
    # After torchrun --max-restarts the store still holds the addresses of the attempt before.
    store = distributed.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    backend = "cpu:gloo,cuda:nccl" if cuda.is_available() and distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=WAIT_FOR_MAIN)
    return Ranks(rank, count, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))


def prepare_process() -> None:
    """At a script's start: let only the main rank print."""
    if is_rank():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else C++ logs every lost connection
    if not is_main():
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        atexit.register(_print_own_error)


def _print_own_error() -> None:
    """Print the error of a rank other than the main one, unless torchrun ends the rank first.

    It does if the main rank has met the same error, and printed it, or if the error is only that another rank is gone.
    A rank that succeeds does not come here: `run_script` ends it at once.
    """
    if error := sys.stderr.getvalue():
        # One second more from rank to rank: after the first has printed the error and ended, torchrun ends the others.
        _wait_for_torchrun(WAIT_FOR_TORCHRUN + int(os.environ["LOCAL_RANK"]))
        sys.__stderr__.write(error)


def _wait_for_torchrun(seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)  # short, because a signal that came just before a sleep is handled after it
