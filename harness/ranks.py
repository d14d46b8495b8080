"""One run on several devices: what a process does when torchrun started it as one rank of several.

Every rank runs the same script and the same loop. `Ranks` is all that the others see of it: which part of a batch is
this rank's, the model whose gradients are averaged, sums over all ranks, and who writes (the main rank, number 0). A
process that torchrun did not start is `ALONE`, to which everything belongs; PyTorch's part is imported by ranks only.

The ranks live and die together. Whoever ends early closes its connections, and the others, who wait for it sooner or
later, then leave without a word and with its exit code, which it has put into torchrun's key-value store.
"""

import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from harness.errors import EXIT_BAD_INPUT, Interrupted, OutputLost, UserError, ignore_interruptions, leave

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WAIT_FOR_MAIN = datetime.timedelta(hours=2)  # it may be downloading
GRACE = 5  # seconds


@dataclass(frozen=True)
class Share:
    """A rank's part of one batch.

    `here` are its positions in the epoch. An empty part has the batch's first image there, because not every layer
    takes no image at all, but `count`, the images to be counted, is 0. `weight` is count · ranks / batch.
    """

    here: slice
    count: int
    weight: float = 1.0

    def backward(self, loss: "Tensor") -> None:
        """Gradients of this part's mean loss, weighted so that their mean over the ranks is that of the whole batch."""
        if self.weight == 1:
            loss.backward()
        else:
            loss.backward(loss.new_tensor(self.weight))


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` of its job: `rank` of all, `local_rank` of the `local_count` on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    store: Any = None  # torchrun's, which outlives any rank

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

    def shares(self, images: int, batch_size: int) -> Iterator[Share]:
        """This rank's parts of the batches of an epoch; the last batch may be smaller."""
        for start in range(0, images, batch_size):
            yield self.share(start, min(start + batch_size, images))

    def sum(self, totals: "Tensor") -> "Tensor":
        """Sums over all ranks, the same bits on each."""
        if self.count > 1:
            from torch import distributed

            distributed.all_reduce(totals)
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
        """The model to train by: itself, or one that has the gradients averaged over the ranks in its backward pass.

        It holds the very parameters of `model`, which are set to the main rank's.
        """
        if self.count == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(model)

    def tell(self, value: Any) -> Any:
        """The main rank's value (anything that can be pickled), on every rank."""
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    broadcast = tell

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main rank finish the block before the others begin it."""
        if not self.main:
            self.tell(None)
        yield
        if self.main:
            self.tell(None)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """The time within which no rank outlives another.

        At its end all ranks wait for the main one. On the main rank the loss of another is an Interrupted, as by the
        SIGTERM that torchrun sends in this case; the other ranks leave when the main rank has left. Of a UserError the
        sentence is printed once, by the main rank if it met the error too.
        """
        if self.count == 1:
            yield
            return
        try:
            with self._connected():
                yield
                self.tell(None)
                ignore_interruptions()  # all is done, and torchrun ends the rest when the first has left with an error
                _disconnect()
        except Interrupted as interruption:
            self._note_exit(128 + interruption.signum)
            raise
        except UserError:
            if not self._tells_error():
                leave(EXIT_BAD_INPUT)
            raise
        except OutputLost:  # the main rank's, as no other prints
            self._note_exit(EXIT_BAD_INPUT)
            raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not _is_lost_connection(error):
                raise
            ignore_interruptions()
            if self.main:
                raise Interrupted(signal.SIGTERM) from error
            leave(self._noted_exit() or 128 + signal.SIGTERM)

    def _note_exit(self, code: int) -> None:
        with contextlib.suppress(RuntimeError):  # torchrun may be gone
            self.store.set("exit code", str(code))

    def _noted_exit(self) -> int | None:
        with contextlib.suppress(RuntimeError):
            if self.store.check(["exit code"]):
                return int(self.store.get("exit code"))
        return None

    def _tells_error(self) -> bool:
        """Whether this rank is the one to print the sentence of its UserError: only one does, preferably the main."""
        ignore_interruptions()
        if self.main:
            self._note_exit(EXIT_BAD_INPUT)
            return True
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            if self._noted_exit():
                return False
            time.sleep(0.05)
        with contextlib.suppress(RuntimeError):
            if self.store.add("errors", 1) > 1:
                return False
        self._note_exit(EXIT_BAD_INPUT)
        sys.stderr = sys.__stderr__
        return True


ALONE = Ranks()


def is_rank() -> bool:
    """Whether torchrun started this process as one of several."""
    given = {"TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"} <= os.environ.keys()
    return given and int(os.environ["WORLD_SIZE"]) > 1


def launcher() -> list[str]:
    """The words before the script in the command line that started this process."""
    return ["torchrun", f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}"] if is_rank() else ["python"]


def refuse_ranks(script: str) -> None:
    """UserError if torchrun started this script, whose work is not shared by ranks."""
    if is_rank():
        if os.environ["RANK"] != "0":
            time.sleep(GRACE)  # torchrun ends all ranks when one has ended, and the main one is to be heard first
        raise UserError(f"{script} does its work in one process: start it with python; torchrun is for the trainings")


def prepare_process() -> None:
    """At a script's start: leave the talking to the main rank, and see that a signal ends this one whatever it does."""
    if not is_rank():
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # C++ would tell of every lost connection
    if os.environ["RANK"] == "0":
        _end_even_if_stuck()
        return
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # there is nothing to tidy up
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for the rest of the process
    sys.excepthook = _show_bug


def join() -> Ranks:
    """This process's place among the ranks of its job, connected to them; ALONE without torchrun."""
    if not is_rank():
        return ALONE
    import torch
    from torch import distributed

    nccl = torch.cuda.is_available() and distributed.is_nccl_available()
    store, rank, count = next(distributed.rendezvous("env://"))
    # The store may be that of an earlier attempt of the job (torchrun --max-restarts), with the addresses of its ranks.
    store = distributed.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    ranks = Ranks(rank, count, int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), store)
    with ranks._connected():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo", store=store, rank=rank, world_size=count, timeout=WAIT_FOR_MAIN
        )
    if rank and not nccl:  # gloo tells when the main rank has left, which is the time to go, with its exit code
        ignore_interruptions()
    return ranks


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether another rank has gone: gloo raises plain RuntimeErrors, which name its source file."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _disconnect() -> None:
    from torch import distributed

    distributed.destroy_process_group()


def _show_bug(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    traceback.print_exception(kind, error, where, file=sys.__stderr__)


def _end_even_if_stuck() -> None:
    """End the process some seconds after a signal, should it wait in PyTorch for a rank that is no more.

    A handler in Python runs only when the call under way returns; the signal's number is written to a socket at once.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        signum = reader.recv(1)[0]
        time.sleep(GRACE)
        writer.close()
        os._exit(128 + signum)

    threading.Thread(target=wait, daemon=True).start()
