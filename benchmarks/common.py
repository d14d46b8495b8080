"""What the benchmarks share: the networks, this project's loop over them, processes that measure, and Markdown tables.

PyTorch and the harness are imported inside the functions that need them. A child process reports its parent's memory
as its own peak if that is larger, so peers.py, which measures such peaks, must be small. It also keeps --help quick.
"""

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from harness.data import ImageSet

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

BATCH_SIZE = 64


@dataclass(frozen=True)
class Network:
    """What is trained: a config for build_model, its image set, its script, and the report's optimizer for it."""

    model: dict
    images: str
    script: str
    optimizer: str
    lr: float


def _recurrent(cell: str) -> Network:
    model = {"name": "RecurrentClassifier", "cell": cell, "input_size": 28, "hidden_size": 128, "classes": 10}
    return Network(model, "mnist", "rnn_mnist", "adam", 0.001)


_LENET = {"name": "LeNet5", "channels": 1, "image_size": 32, "classes": 10, "fc_activation": "tanh"}
NETWORKS = {"cnn": Network(_LENET, "cifar10", "cnn_cifar10", "adagrad", 0.01)} | {
    cell: _recurrent(cell) for cell in ("lstm", "gru", "rnn")
}


# -- this project's loop -----------------------------------------------------------------------------------------------


class Loop(NamedTuple):
    """Two functions over one model: `train` trains it on what it is given, `test` measures its loss and accuracy."""

    train: Callable
    test: Callable


def our_loop(
    network: Network, images: "ImageSet", precision: str, batch_size: int = BATCH_SIZE, *, compile: bool = False
) -> Loop:
    """A new model under harness.train's loop: `train(steps)` takes so many whole batches, `test()` all test images.

    It computes on the device that the images are on. `compile` is as --compile.
    """
    import torch

    from harness.data import EpochOrder
    from harness.device import compiled, keep_freed_memory
    from harness.evaluate import evaluate
    from harness.optimizers import make_optimizer
    from harness.train import train_epoch
    from models import build_model

    keep_freed_memory()  # as harness.train.train does
    device = images.train.labels.device
    flags = Namespace(
        optimizer=network.optimizer,
        lr=network.lr,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        clip_grad_norm=0.0,
        label_smoothing=0.0,
        batch_size=batch_size,
        precision=precision,
    )
    model = build_model({"model": network.model}, seed=0).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(flags, model, device)
    trained = compiled(model, device) if compile else model
    generator = torch.Generator().manual_seed(0)

    def train(steps: int) -> None:
        few = images.first(steps * batch_size)
        order = EpochOrder.draw(len(few.train), generator).to(device)
        train_epoch(trained, optimizer, few, order, flags, show=lambda count, totals: None)

    return Loop(train, lambda: evaluate(trained, images, precision))


def whole_batches(images: int, fraction: float) -> tuple[int, float]:
    """How many batches this fraction of the images fills, and how many times as long a pass over all of them takes."""
    steps = max(1, int(images * fraction) // BATCH_SIZE)
    return steps, images / (steps * BATCH_SIZE)


def time_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# -- processes that measure --------------------------------------------------------------------------------------------


class Worker:
    """A process that prints `ready`, then answers every line on its standard input with one line; see `answer`."""

    def __init__(self, title: Hashable, command: Iterable[object]) -> None:
        self.title = title
        # In a session of its own, so that Ctrl-C reaches this process alone, which then ends the workers.
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def send(self, line: str = "measure") -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def receive(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: the process that measures {self.title} ended early")
        return line


@contextlib.contextmanager
def workers(commands: Mapping[Hashable, Iterable[object]]) -> Iterator[dict[Hashable, Worker]]:
    """A Worker for each command, by the same keys; all are ready, and end with the context."""
    started = {}
    try:
        for title, command in commands.items():
            started[title] = Worker(title, command)
        for worker in started.values():
            while "ready" not in worker.receive():  # Keras prints other lines first
                pass
        yield started
    finally:
        for worker in started.values():
            worker.process.kill()


def answer(measure: Callable[[str], object]) -> None:
    """The other end of a Worker: print what `measure` returns for each line of standard input, until it ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(measure(line), flush=True)


# -- flags and pages ---------------------------------------------------------------------------------------------------


def argument_parser(doc: str) -> argparse.ArgumentParser:
    """A parser with the script's first paragraph, --data-dir, and each flag's default after its help."""
    parser = argparse.ArgumentParser(
        description=doc.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the image sets")
    return parser


def table(header: Sequence[str], rows: Iterable[Iterable[object]], *, left: int = 1) -> list[str]:
    """The lines of a Markdown table; the first `left` columns are words, the others numbers."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * left + "---:|" * (len(header) - left)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def count_of(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def machine(keras_python: str | None = None) -> list[str]:
    """Lines of Markdown: the date, the processor and the versions; Keras' too, given an interpreter that has it."""
    import torch
    import torchvision

    from harness.device import cpu_has_bf16

    bf16 = "with" if cpu_has_bf16() else "without"
    keras = ""
    if keras_python:
        versions = (
            "import keras, tensorflow; print(f'Keras {keras.__version__} on TensorFlow {tensorflow.__version__}')"
        )
        printed = subprocess.run([keras_python, "-c", versions], capture_output=True, text=True, check=True)
        keras = f", {printed.stdout.strip()}"
    return [
        f"- {datetime.date.today().isoformat()}; {_cpu_name()}, {os.cpu_count()} cores, {bf16} bf16 arithmetic; "
        f"{torch.get_num_threads()} threads",
        f"- Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{platform.system()} {platform.machine()}{keras}",
    ]


def write_page(path: Path, lines: Iterable[str]) -> None:
    """Write the Markdown page, and print it."""
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal need not know "÷"
    print(f"{text}\nwritten to {path}")


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux alone has it
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"
