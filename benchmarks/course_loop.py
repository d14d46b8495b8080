"""Measure this project's training loop side by side with the loop that courses hand out; writes a Markdown table.

    python benchmarks/course_loop.py --rounds 3 --networks cnn,lstm,gru,rnn --fraction 0.1

The course's loop: a torchvision dataset with transforms, a DataLoader without workers, eager fp32, a plain optimizer,
and loss and accuracy read after every step. Ours: the set in memory as one tensor, batches cut and normalised whole, a
fused optimizer, sums read once an epoch; in fp32 and in bf16. Network, first weights, batch size, optimizer and its
settings are the same. Run it on an otherwise idle machine; the rounds are interleaved, so that what slows the machine
for a while slows all three. Needs the real image sets, and Linux or macOS.
"""

import argparse
import contextlib
import datetime
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# PyTorch and our own modules are imported inside functions: a child process reports its parent's memory as its own peak
# if that is larger, so the parent must be small while it measures memory. That also keeps --help quick.
PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

BATCH_SIZE = 64
WARM_UP_STEPS = 5
LOOPS = ("course, fp32", "ours, fp32", "ours, bf16")
FIRST_BATCH = "first batch"  # what a child process prints when it has one


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


LENET = {"name": "LeNet5", "channels": 1, "image_size": 32, "classes": 10, "fc_activation": "tanh"}
NETWORKS = {"cnn": Network(LENET, "cifar10", "cnn_cifar10", "adagrad", 0.01)} | {
    cell: _recurrent(cell) for cell in ("lstm", "gru", "rnn")
}


@dataclass(frozen=True)
class Timing:
    """Seconds for one whole epoch's training pass, and for making its batches alone; both extrapolated."""

    epoch: float
    data: float


@dataclass(frozen=True)
class Start:
    """Seconds from starting the process to its first batch, and the process's peak memory in MiB."""

    seconds: float
    peak: float


def main() -> None:
    arguments = parse_arguments()
    if arguments.child:
        run_child(arguments.child, NETWORKS[arguments.networks[0]], arguments.data_dir, arguments.fraction)
        return
    starts = measure_starts(arguments)
    timings = {name: measure_network(NETWORKS[name], arguments) for name in arguments.networks}
    text = render(arguments, timings, starts)
    arguments.out.write_text(text)
    print(f"{text}\nwritten to {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each loop is measured")
    parser.add_argument("--networks", type=_network_list, default="cnn,lstm,gru,rnn", help="which, and in which order")
    parser.add_argument("--fraction", type=float, default=0.1, help="of the training images that a pass is timed over")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the image sets")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "course_loop.md", help="the table")
    parser.add_argument("--child", choices=("course", "ours"), help=argparse.SUPPRESS)
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
    """The DataLoader of a course's notebook, with the normalisation that our loop uses."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from harness.data import CIFAR10_NORMALISATION, MNIST_NORMALISATION

    if network.images == "cifar10":
        mean, std = CIFAR10_NORMALISATION
        steps = [transforms.Grayscale(), transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
        dataset = datasets.CIFAR10(data_dir, train=train, transform=transforms.Compose(steps))
    else:
        mean, std = MNIST_NORMALISATION
        steps = [transforms.ToTensor(), transforms.Normalize((mean,), (std,))]
        dataset = datasets.MNIST(data_dir, train=train, transform=transforms.Compose(steps))
    return DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=train)


def course_trainer(network: Network) -> Callable[[Iterator], None]:
    """A function that trains a new model on the batches it is handed, as a course's notebook does."""
    import torch
    import torch.nn.functional as F

    from models import build_model

    model = build_model({"model": network.model}, seed=0)
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

    return train


def time_course(network: Network, loader: Iterator, steps: int) -> Timing:
    """Time `steps` steps of the course's loop, and the making of as many batches without training."""
    train = course_trainer(network)
    train(itertools.islice(loader, WARM_UP_STEPS))
    scale = len(loader) / steps
    epoch = _seconds(lambda: train(itertools.islice(loader, steps)))
    data = _seconds(lambda: _exhaust(itertools.islice(loader, steps)))
    return Timing(epoch * scale, data * scale)


# -- this project's loop -----------------------------------------------------------------------------------------------


def time_ours(network: Network, images: object, steps: int, precision: str) -> Timing:
    """Time `steps` steps of harness.train's loop, and the making of as many batches without training."""
    import torch

    from harness.data import EpochOrder, train_batches
    from harness.train import make_optimizer, train_epoch
    from models import build_model

    device = torch.device("cpu")
    flags = Namespace(
        optimizer=network.optimizer,
        lr=network.lr,
        momentum=0.0,
        weight_decay=0.0,
        clip_grad_norm=0.0,
        batch_size=BATCH_SIZE,
        precision=precision,
    )
    model = build_model({"model": network.model}, seed=0).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(flags, model, device)
    generator = torch.Generator().manual_seed(0)

    def train(steps: int) -> None:
        few = images.first(steps * BATCH_SIZE)
        order = EpochOrder.draw(len(few.train), generator, augment=False)
        train_epoch(model, optimizer, few, order, flags, show=lambda count, totals: None)

    def make_batches() -> None:
        few = images.first(steps * BATCH_SIZE)
        _exhaust(train_batches(few, EpochOrder.draw(len(few.train), generator, augment=False), BATCH_SIZE))

    train(WARM_UP_STEPS)
    scale = _steps_an_epoch(images) / steps
    return Timing(_seconds(lambda: train(steps)) * scale, _seconds(make_batches) * scale)


def _steps_an_epoch(images: object) -> int:
    return -(-len(images.train) // BATCH_SIZE)


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure_network(network: Network, arguments: argparse.Namespace) -> dict[str, list[Timing]]:
    """One Timing a round for each of LOOPS, the rounds interleaved."""
    from harness.data import load_images

    loader = course_loader(network, arguments.data_dir)
    images = load_images(network.images, data_dir=arguments.data_dir)
    steps = max(1, int(len(images.train) * arguments.fraction) // BATCH_SIZE)  # whole batches
    timings = {name: [] for name in LOOPS}
    for number in range(1, arguments.rounds + 1):
        timings["course, fp32"].append(time_course(network, loader, steps))
        timings["ours, fp32"].append(time_ours(network, images, steps, "fp32"))
        timings["ours, bf16"].append(time_ours(network, images, steps, "bf16"))
        seconds = ", ".join(f"{name} {timings[name][-1].epoch:.1f} s" for name in LOOPS)
        print(f"{network.model.get('cell', 'cnn'):4}  round {number}/{arguments.rounds}: {seconds}", flush=True)
    return timings


def measure_starts(arguments: argparse.Namespace) -> dict[tuple[str, str], list[Start]]:
    """Start and peak memory of a whole training process, {(network, loop): one Start a round}; one network a script.

    Each process trains one epoch over `--fraction` of the images and tests on the whole test set. Ours is the script
    itself, with its run folder, checkpoints and TensorBoard pictures, which the course's loop does not have.
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
    command = [sys.executable, __file__, "--child", loop, "--networks", name, "--data-dir", arguments.data_dir]
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
    """In a process of its own: one short epoch and one test pass, saying when the first batch is there."""
    if loop == "course":
        _run_course(network, data_dir, fraction)
        return
    from dataclasses import replace
    from importlib import import_module

    import harness.data
    import harness.train

    load_images, train_batches = harness.data.load_images, harness.train.train_batches

    def load_part(*args: object, **options: object) -> object:
        images = load_images(*args, **options)
        steps = max(1, int(len(images.train) * fraction) // BATCH_SIZE)
        return replace(images, train=images.train.first(steps * BATCH_SIZE))

    harness.data.load_images = load_part
    harness.train.train_batches = lambda *args: _announced(train_batches(*args))
    with tempfile.TemporaryDirectory() as runs:
        argv = ["--epochs", "1", "--device", "cpu", "--data-dir", data_dir, "--runs-dir", runs]
        if "cell" in network.model:
            argv += ["--cell", network.model["cell"]]
        sys.exit(import_module(network.script).main([str(word) for word in argv]))


def _run_course(network: Network, data_dir: Path, fraction: float) -> None:
    import torch

    train, loader = course_trainer(network), course_loader(network, data_dir)
    test_loader = course_loader(network, data_dir, train=False)
    steps = max(1, int(len(loader.dataset) * fraction) // BATCH_SIZE)
    train(_announced(itertools.islice(loader, steps)))
    from models import build_model

    model = build_model({"model": network.model}, seed=0).eval()
    with torch.no_grad():
        for inputs, _ in test_loader:
            model(inputs)


def _announced(batches: Iterator) -> Iterator:
    for number, batch in enumerate(batches):
        if number == 0:
            print(FIRST_BATCH, flush=True)
        yield batch


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _exhaust(batches: Iterator) -> None:
    for _ in batches:
        pass


# -- the table ---------------------------------------------------------------------------------------------------------


def render(
    arguments: argparse.Namespace,
    timings: dict[str, dict[str, list[Timing]]],
    starts: dict[tuple[str, str], list[Start]],
) -> str:
    """The Markdown page: the machine, the epochs' table, the starts' table."""
    lines = [
        "# The course's loop and ours, side by side",
        "",
        f"Written by `benchmarks/course_loop.py --rounds {arguments.rounds} --networks {','.join(arguments.networks)} "
        f"--fraction {arguments.fraction:g}`, which says what the two loops are.",
        "",
        *_machine(),
        "",
        f"Seconds are for the training pass of one epoch, batch {BATCH_SIZE}, **extrapolated** from "
        f"{arguments.fraction:.0%} of the images (whole batches); the median of {arguments.rounds} interleaved rounds. "
        "Times faster: course ÷ ours in the same round, median (smallest to largest). Data: making the batches alone, "
        "as a share of the pass.",
        "",
        "| network | loop | s an epoch | times faster than the course's | data |",
        "|---|---|---:|---:|---:|",
    ]
    for name, loops in timings.items():
        for loop in LOOPS:
            epochs = [timing.epoch for timing in loops[loop]]
            share = statistics.median(timing.data / timing.epoch for timing in loops[loop])
            faster = [course.epoch / ours for course, ours in zip(loops["course, fp32"], epochs, strict=True)]
            spread = f"{statistics.median(faster):.2f} ({min(faster):.2f} to {max(faster):.2f})"
            spread = "1" if loop.startswith("course") else spread
            lines.append(f"| {name} | {loop} | {statistics.median(epochs):.1f} | {spread} | {share:.1%} |")
    lines += [
        "",
        "A whole process in fp32, with the files in the system's cache: seconds from its start to the first training "
        f"batch, and its peak memory over {arguments.fraction:.0%} of an epoch and the whole test set. Ours is the "
        "script itself, which verifies the files' checksums, and writes checkpoints and TensorBoard pictures besides.",
        "",
        "| network | loop | s to the first batch | peak memory, MiB |",
        "|---|---|---:|---:|",
    ]
    for (name, loop), measured in starts.items():
        seconds = statistics.median(start.seconds for start in measured)
        peak = statistics.median(start.peak for start in measured)
        lines.append(f"| {name} | {loop} | {seconds:.1f} | {peak:,.0f} |")
    return "\n".join(lines) + "\n"


def _machine() -> list[str]:
    import torch
    import torchvision

    from harness.train import cpu_has_bf16

    bf16 = "with" if cpu_has_bf16() else "without"
    return [
        f"- {datetime.date.today().isoformat()}; {_cpu_name()}, {os.cpu_count()} cores, {bf16} bf16 arithmetic; "
        f"{torch.get_num_threads()} threads",
        f"- Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
        f"{platform.system()} {platform.machine()}",
    ]


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


if __name__ == "__main__":
    main()
