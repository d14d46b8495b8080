"""Measure this project's training loop side by side with what one would use instead; writes a Markdown table.

    python benchmarks/peers.py --rounds 5 --fraction 0.08 --keras path/to/python

Three loops train the same network with the same batch size, optimizer and settings:

- The course's: a torchvision dataset with transforms, a DataLoader without workers, PyTorch's own layers in eager fp32,
  a plain optimizer, loss and accuracy read after every step.
- Keras: `fit` and `evaluate` on arrays in memory (keras_loop.py), run by an interpreter that has Keras and TensorFlow.
- Ours: harness.train's loop, in fp32 and in bf16.

An epoch is a pass over the training images and one over the test images for their loss and accuracy, since all three
need it for the curves; ours does it in the larger batches of harness.evaluate. Each loop is a process of its own, which
waits while another is measured. The rounds are interleaved, so that what slows the machine for a while slows all loops.
The limit is the fastest large matrix product, measured in the same rounds. Needs the real image sets, Linux or macOS,
and an otherwise idle machine.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common import (
    BATCH_SIZE,
    NETWORKS,
    PROJECT,
    Loop,
    Network,
    answer,
    argument_parser,
    machine,
    our_loop,
    spread,
    table,
    time_of,
    whole_batches,
    workers,
    write_page,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# PyTorch and our own modules are imported inside functions, as common.py says.
WARM_UP_STEPS = 5
LOOPS = {"course": "course, fp32", "keras": "Keras, fp32", "fp32": "ours, fp32", "bf16": "ours, bf16"}
FIRST_BATCH = "first batch"  # what a child process prints when it has one
TRAIN_IMAGES = {"cifar10": 50_000, "mnist": 60_000}


class Timing(NamedTuple):
    """Seconds for an epoch's training pass and for making its batches alone, both extrapolated; for its test pass."""

    training: float
    data: float
    testing: float

    @property
    def epoch(self) -> float:
        return self.training + self.testing


@dataclass(frozen=True)
class Start:
    """Seconds from starting the process to its first batch, and the process's peak memory in MiB."""

    seconds: float
    peak: float


def main() -> None:
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments.serve, NETWORKS[arguments.networks[0]], arguments)
        return
    if arguments.child:
        run_child(arguments.child, NETWORKS[arguments.networks[0]], arguments.data_dir, arguments.fraction)
        return
    starts = measure_starts(arguments)  # first, while this process is small
    with tempfile.TemporaryDirectory() as arguments.scratch:
        measured = {name: measure_network(name, arguments) for name in arguments.networks}
    write_page(arguments.out, page(arguments, measured, starts))


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each loop is measured")
    parser.add_argument("--networks", type=_network_list, default="cnn,lstm,gru,rnn", help="which, and in which order")
    parser.add_argument("--fraction", type=float, default=0.08, help="of the training images that a pass is timed over")
    parser.add_argument("--keras", help="a Python interpreter that has Keras and TensorFlow; without it, no Keras")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "peers.md", help="the table")
    parser.add_argument("--child", choices=("course", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=("course", "fp32", "bf16", "peak"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not 0 < arguments.fraction <= 1:
        parser.error("--rounds is at least 1, --fraction above 0 and at most 1")
    return arguments


def _network_list(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(NETWORKS):
        raise argparse.ArgumentTypeError(f"{text} is not a list out of {','.join(NETWORKS)}")
    return names


# -- the course's loop -------------------------------------------------------------------------------------------------


def course_loader(network: Network, data_dir: Path, *, train: bool = True) -> Iterator:
    """The DataLoader of a course's notebook, with the normalization that our loop uses."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from harness.image_sets import IMAGE_SETS

    known = IMAGE_SETS[network.images]
    steps = [transforms.ToTensor(), transforms.Normalize((known.mean,), (known.std,))]
    if network.images == "cifar10":
        steps.insert(0, transforms.Grayscale())
    dataset = getattr(datasets, known.torchvision)(data_dir, train=train, transform=transforms.Compose(steps))
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=train)


def course_model(network: Network) -> "nn.Module":
    """The network of PyTorch's own layers, called as a course does."""
    from torch import nn

    from models import build_model

    if "cell" not in network.model:
        model = build_model({"model": network.model}, seed=0)
        return nn.Sequential(model.features, model.classifier)
    layers = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = network.model["input_size"], network.model["hidden_size"]
            self.recurrent = layers[network.model["cell"]](*sizes, batch_first=True)
            self.fc = nn.Linear(network.model["hidden_size"], network.model["classes"])

        def forward(self, images: "Tensor") -> "Tensor":
            outputs, _ = self.recurrent(images.squeeze(1))  # (batch, rows, hidden)
            return self.fc(outputs[:, -1])

    return Classifier()


def course_loop(network: Network) -> Loop:
    """A new model, trained and tested on the batches that it is given, as a course's notebook does it."""
    import torch
    import torch.nn.functional as F

    model = course_model(network)
    kind = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}[network.optimizer]
    optimizer = kind(model.parameters(), lr=network.lr)

    def train(batches: Iterator) -> None:
        model.train()
        running_loss, correct = 0.0, 0
        for inputs, labels in batches:
            optimizer.zero_grad()
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()

    @torch.no_grad()
    def test(batches: Iterator) -> None:
        model.eval()
        running_loss, correct = 0.0, 0
        for inputs, labels in batches:
            logits = model(inputs)
            running_loss += F.cross_entropy(logits, labels).item() * len(labels)
            correct += (logits.argmax(dim=1) == labels).sum().item()

    return Loop(train, test)


def prepare_course(network: Network, arguments: argparse.Namespace) -> Callable[[], Timing]:
    """A function that times some steps of the course's training, making their batches alone, and a whole test pass."""
    loop, loader = course_loop(network), course_loader(network, arguments.data_dir)
    test_loader = course_loader(network, arguments.data_dir, train=False)
    steps, scale = whole_batches(len(loader.dataset), arguments.fraction)
    loop.train(itertools.islice(loader, WARM_UP_STEPS))
    loop.test(itertools.islice(test_loader, WARM_UP_STEPS))

    def measure() -> Timing:
        training = time_of(lambda: loop.train(itertools.islice(loader, steps)))
        data = time_of(lambda: _exhaust(itertools.islice(loader, steps)))
        return Timing(training * scale, data * scale, time_of(lambda: loop.test(test_loader)))

    return measure


# -- this project's loop -----------------------------------------------------------------------------------------------


def prepare_ours(network: Network, arguments: argparse.Namespace, precision: str) -> Callable[[], Timing]:
    """A function that times the same for this project's loop and evaluation."""
    import torch

    from harness.data import EpochOrder, load_images, train_batches

    images = load_images(network.images, data_dir=arguments.data_dir)
    steps, scale = whole_batches(len(images.train), arguments.fraction)
    loop = our_loop(network, images, precision)
    generator = torch.Generator().manual_seed(0)

    def make_batches() -> None:
        few = images.first(steps * BATCH_SIZE)
        _exhaust(train_batches(few, EpochOrder.draw(len(few.train), generator), BATCH_SIZE))

    def measure() -> Timing:
        training, data = time_of(lambda: loop.train(steps)), time_of(make_batches)
        return Timing(training * scale, data * scale, time_of(loop.test))

    loop.train(WARM_UP_STEPS)
    loop.test()
    return measure


# -- the limit ---------------------------------------------------------------------------------------------------------


def training_flops(model: dict) -> float:
    """Floating-point operations of a training step on one image, a multiply-add counted as two.

    Each layer has a product forward and two as large backward: one for the gradient of its weights and, except in the
    first layer, one for that of its inputs. Elementwise work, which is a hundredth of it, is left out.
    """
    if model["name"] == "RecurrentClassifier":
        gates = {"rnn": 1, "gru": 3, "lstm": 4}[model["cell"]]
        inputs, hidden, steps = model["input_size"], model["hidden_size"], model["input_size"]
        first = steps * gates * hidden * inputs
        others = steps * gates * hidden * hidden + hidden * model["classes"]
    else:
        side = model["image_size"]
        first = side**2 * 32 * 25 * model["channels"]
        others = (side // 2) ** 2 * 64 * 25 * 32 + 64 * (side // 4) ** 2 * 1024 + 1024 * model["classes"]
    return 2.0 * (2 * first + 3 * others)


def prepare_peak(dtype: str) -> Callable[[], float]:
    """A function that measures the fastest of some large matrix products, in operations a second."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    sizes = (512, 1024, 1536)
    pairs = [(torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)) for size in sizes]

    def measure() -> float:
        best = 0.0
        for left, right in pairs:
            for _ in range(6):
                best = max(best, 2 * len(left) ** 3 / time_of(lambda a=left, b=right: a @ b))
        return best

    measure()
    return measure


# -- measuring ---------------------------------------------------------------------------------------------------------


def serve(loop: str, network: Network, arguments: argparse.Namespace) -> None:
    """In a process of its own: get ready, then measure once for every line on standard input."""
    if loop == "peak":
        peaks = [prepare_peak(dtype) for dtype in ("fp32", "bf16")]
        answer(lambda line: " ".join(str(peak()) for peak in peaks))
    else:
        measure = prepare_course(network, arguments) if loop == "course" else prepare_ours(network, arguments, loop)
        answer(lambda line: " ".join(map(str, measure())))


def measure_network(name: str, arguments: argparse.Namespace) -> dict[str, list[list[float]]]:
    """For each of LOOPS the numbers of a Timing, for "peak" those of fp32 and bf16: a list of them each round."""
    common = ["--networks", name, f"--data-dir={arguments.data_dir}", "--fraction", arguments.fraction]
    commands = {loop: [sys.executable, __file__, "--serve", loop, *common] for loop in (*LOOPS, "peak")}
    if arguments.keras:
        script = Path(__file__).with_name("keras_loop.py")
        commands["keras"] = [arguments.keras, script, *keras_arguments(name, arguments)]
    else:
        del commands["keras"]
    measured = {loop: [] for loop in commands}
    with workers(commands) as loops:
        for number in range(1, arguments.rounds + 1):
            for loop, worker in loops.items():
                worker.send()
                measured[loop].append([float(word) for word in worker.receive().split()])
            epochs = {loop: Timing(*measured[loop][-1]).epoch for loop in LOOPS if loop in measured}
            seconds = ", ".join(f"{LOOPS[loop]} {epoch:.1f} s" for loop, epoch in epochs.items())
            print(f"{name:4}  round {number}/{arguments.rounds}: {seconds}", flush=True)
    return measured


def keras_arguments(name: str, arguments: argparse.Namespace) -> list:
    """What keras_loop.py needs: the network, and a file of normalized images in its layout, in the scratch folder."""
    import numpy as np

    from harness.data import load_images

    network = NETWORKS[name]
    images = load_images(network.images, data_dir=arguments.data_dir)
    steps, scale = whole_batches(len(images.train), arguments.fraction)
    content = {}
    for which, split in (("train", images.train.part(slice(steps * BATCH_SIZE))), ("test", images.test)):
        inputs = ((split.images.float() / 255 - images.mean) / images.std).numpy()  # (n, 1, height, width)
        inputs = inputs.transpose(0, 2, 3, 1) if name == "cnn" else inputs[:, 0]
        content |= {f"{which}_inputs": np.ascontiguousarray(inputs), f"{which}_labels": split.labels.numpy()}
    path = Path(arguments.scratch) / f"{name}.npz"
    np.savez(path, **content)
    return [name, path, network.optimizer, network.lr, BATCH_SIZE, scale]


def measure_starts(arguments: argparse.Namespace) -> dict[tuple[str, str], list[Start]]:
    """Start and peak memory of a whole training process: {(network, loop): one Start a round}.

    One network of each script is enough. Each process trains one epoch over `--fraction` of the images and tests on the
    whole test set. Ours is the script itself, with run folder, checkpoints and TensorBoard pictures; the course's loop
    has none of them.
    """
    first_of = {NETWORKS[name].script: name for name in reversed(arguments.networks)}
    names = [name for name in arguments.networks if first_of[NETWORKS[name].script] == name]
    starts = {(name, loop): [] for name in names for loop in ("course", "ours")}
    for number in range(1, arguments.rounds + 1):
        for (name, loop), measured in starts.items():
            measured.append(_measure_child(name, loop, arguments))
            last = f"first batch after {measured[-1].seconds:.1f} s, peak {measured[-1].peak:,.0f} MiB"
            print(f"{name:4}  start {number}/{arguments.rounds}: {loop} {last}", flush=True)
    return starts


def _measure_child(name: str, loop: str, arguments: argparse.Namespace) -> Start:
    command = [sys.executable, __file__, "--child", loop, "--networks", name, f"--data-dir={arguments.data_dir}"]
    command += ["--fraction", str(arguments.fraction)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        seconds = next((time.perf_counter() - started for line in child.stdout if line.strip() == FIRST_BATCH), None)
        child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)  # this child's peak; getrusage would give the largest of all so far
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or seconds is None:
        sys.exit(f"error: {name} with the loop {loop!r} ended with exit code {child.returncode}")
    return Start(seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


def run_child(loop: str, network: Network, data_dir: Path, fraction: float) -> None:
    """In a process of its own: one short epoch and one test pass. It prints FIRST_BATCH when it has one."""
    if loop == "course":
        _run_course(network, data_dir, fraction)
        return
    from importlib import import_module

    import harness.data
    import harness.train

    load_images, train_batches = harness.data.load_images, harness.train.train_batches

    def load_part(*args: object, **options: object) -> object:
        images = load_images(*args, **options)
        steps, _ = whole_batches(len(images.train), fraction)
        return replace(images, train=images.train.part(slice(steps * BATCH_SIZE)))

    harness.data.load_images = load_part
    harness.train.train_batches = lambda *args: _announced(train_batches(*args))
    with tempfile.TemporaryDirectory() as runs:
        argv = ["--epochs", "1", "--batch-size", BATCH_SIZE, "--device", "cpu"]
        argv += [f"--data-dir={data_dir}", f"--runs-dir={runs}"]
        if "cell" in network.model:
            argv += ["--cell", network.model["cell"]]
        sys.exit(import_module(network.script).main([str(word) for word in argv]))


def _run_course(network: Network, data_dir: Path, fraction: float) -> None:
    loop, loader = course_loop(network), course_loader(network, data_dir)
    steps, _ = whole_batches(len(loader.dataset), fraction)
    loop.train(_announced(itertools.islice(loader, steps)))
    loop.test(course_loader(network, data_dir, train=False))


def _announced(batches: Iterator) -> Iterator:
    for number, batch in enumerate(batches):
        if number == 0:
            print(FIRST_BATCH, flush=True)
        yield batch


def _exhaust(batches: Iterator) -> None:
    for _ in batches:
        pass


# -- the page ----------------------------------------------------------------------------------------------------------


def page(
    arguments: argparse.Namespace,
    measured: dict[str, dict[str, list[list[float]]]],
    starts: dict[tuple[str, str], list[Start]],
) -> list[str]:
    """The lines of the Markdown page: the machine, the epochs' table, the starts' table."""
    keras = " --keras PYTHON" if arguments.keras else ""
    peaks = [peak for loops in measured.values() for peak in loops["peak"]]
    fp32, bf16 = (statistics.median(peak[which] for peak in peaks) / 1e9 for which in (0, 1))
    epochs = [
        row
        for name, loops in measured.items()
        for row in (_epoch_row(name, loop, loops) for loop in LOOPS if loop in loops)
    ]
    start_rows = [
        [
            name,
            loop,
            f"{statistics.median(start.seconds for start in rounds):.1f}",
            f"{statistics.median(start.peak for start in rounds):,.0f}",
        ]
        for (name, loop), rounds in starts.items()
    ]
    return [
        "# This project's loop beside what one would use instead",
        "",
        f"Written by `benchmarks/peers.py --rounds {arguments.rounds} --networks {','.join(arguments.networks)} "
        f"--fraction {arguments.fraction:g}{keras}`, which says what the loops are.",
        "",
        *machine(arguments.keras),
        "",
        f"Seconds at batch {BATCH_SIZE}, the training pass **extrapolated** from {arguments.fraction:.0%} of the "
        f"images (whole batches); the median of {arguments.rounds} interleaved rounds. An epoch is its training pass "
        "and, for the curves, its test pass, which ours makes in larger batches. Times faster: the course's loop ÷ "
        "this one in the same round, median (smallest to largest). Data: making the batches alone, as a share of the "
        "training pass. Limit: the operations of that pass's matrix products and convolutions (a multiply-add is two) "
        "÷ its seconds, as a share of the fastest large matrix product of the same round in the same precision.",
        "",
        *table(
            ["network", "loop", "training, s", "times faster", "epoch, s", "times faster", "data", "of the limit"],
            epochs,
            left=2,
        ),
        "",
        f"The fastest large matrix product: {fp32:.0f} GFLOP/s in fp32, {bf16:.0f} in bf16 (medians).",
        "",
        "A whole process in fp32, with the files in the system's cache: seconds from its start to the first training "
        f"batch, and its peak memory over {arguments.fraction:.0%} of an epoch and the whole test set. Ours is the "
        "script itself, which verifies the files' checksums, and writes checkpoints and TensorBoard pictures besides.",
        "",
        *table(["network", "loop", "s to the first batch", "peak memory, MiB"], start_rows, left=2),
    ]


def _epoch_row(name: str, loop: str, loops: dict[str, list[list[float]]]) -> list[str]:
    """A loop's row of the epochs' table; `loops` holds the numbers of all loops over the same network."""
    network = NETWORKS[name]
    timings, course = ([Timing(*numbers) for numbers in loops[which]] for which in (loop, "course"))
    training, epoch = [timing.training for timing in timings], [timing.epoch for timing in timings]
    faster = "1", "1"
    if loop != "course":
        faster = (
            spread([theirs.training / ours for theirs, ours in zip(course, training, strict=True)]),
            spread([theirs.epoch / ours for theirs, ours in zip(course, epoch, strict=True)]),
        )
    operations = training_flops(network.model) * TRAIN_IMAGES[network.images]
    peaks = [peak[loop == "bf16"] for peak in loops["peak"]]  # operations a second, each round
    limit = statistics.median(operations / mine / peak for mine, peak in zip(training, peaks, strict=True))
    data = statistics.median(timing.data / timing.training for timing in timings)
    return [
        name,
        LOOPS[loop],
        f"{statistics.median(training):.1f}",
        faster[0],
        f"{statistics.median(epoch):.1f}",
        faster[1],
        "" if loop == "keras" else f"{data:.1%}",  # Keras makes its batches within `fit`
        f"{limit:.0%}",
    ]


if __name__ == "__main__":
    main()
