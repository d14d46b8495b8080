"""Measure this project's loop on a CUDA GPU, and show that the host never waits for it within an epoch.

    python benchmarks/gpu.py

Measured are the seconds of whole training epochs at batch 64, eager and compiled (--compile), in fp32 and bf16; the
same with several runs on one GPU, each a process of its own; and how often the host waits, as PyTorch's profiler counts
it. A loop that never waits within an epoch waits as often in 40 steps as in 20. Writes a Markdown table. Needs the real
image sets. `--device cpu` tries the script out where there is no GPU.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common import (
    BATCH_SIZE,
    NETWORKS,
    PROJECT,
    answer,
    argument_parser,
    count_of,
    machine,
    our_loop,
    table,
    time_of,
    whole_batches,
    workers,
    write_page,
)

if TYPE_CHECKING:
    from harness.data import ImageSet

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
KINDS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16, compiled": ("bf16", True)}  # precision, --compile


def main() -> None:
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments)
        return
    share = arguments.fraction
    note = "" if share == 1 else f", **extrapolated** from {share:.2g} of the images (whole batches)"
    rates = [f"{count_of(count, 'run')}, epochs/min" for count in arguments.jobs]
    rows = []
    for name in NETWORKS:
        images, scale = load_images_of(name, arguments)
        seconds = [f"{scale * epoch_seconds(name, images, *kind, arguments.rounds):.2f}" for kind in KINDS.values()]
        waits = [str(host_waits(name, images, steps)) for steps in (20, 40)]
        epochs = [f"{epochs_a_minute(name, count, arguments) / scale:.0f}" for count in arguments.jobs]
        rows.append([name, *seconds, ", ".join(waits), *epochs])
        print(*rows[-1], sep="  ", flush=True)
    write_page(
        arguments.out,
        [
            "# This project's loop on a GPU",
            "",
            f"Written by `benchmarks/gpu.py --rounds {arguments.rounds}{f' --fraction {share}' if note else ''}`, "
            "which says what is measured.",
            "",
            *machine(),
            f"- {device_name(arguments.device)}",
            "",
            f"Seconds for the training pass of an epoch, batch {BATCH_SIZE}, median of {arguments.rounds}; how often "
            f"the host waits in 20 steps and in 40; epochs a minute of several processes at once (bf16, eager){note}.",
            "",
            *table(["network", *KINDS, "waits in 20, 40 steps", *rates], rows),
        ],
    )


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many epochs are measured")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 4, 16], help="numbers of runs side by side")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training images in an epoch")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script out")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "gpu.md", help="the table")
    parser.add_argument("--serve", choices=tuple(NETWORKS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not 0 < arguments.fraction <= 1 or min(arguments.jobs) < 1:
        parser.error("--rounds and --jobs are at least 1, --fraction above 0 and at most 1")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine, or this build of PyTorch, has no CUDA GPU")
    return arguments


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "no GPU: the script was tried out on the CPU"


def load_images_of(name: str, arguments: argparse.Namespace) -> "tuple[ImageSet, float]":
    """The images on the device, cut to whole batches of the fraction, and how many times as long all would take."""
    import torch

    from harness.data import load_images

    images = load_images(NETWORKS[name].images, data_dir=arguments.data_dir)
    steps, scale = whole_batches(len(images.train), arguments.fraction)
    return images.first(steps * BATCH_SIZE).to(torch.device(arguments.device)), scale


def epoch_seconds(name: str, images: "ImageSet", precision: str, compile: bool, rounds: int) -> float:
    """Median seconds of a training pass over the images. A pass ends when the host has read the epoch's loss."""
    train = our_loop(NETWORKS[name], images, precision, compile=compile).train
    steps = len(images.train) // BATCH_SIZE
    train(steps)  # compiles, and lets the libraries choose their kernels
    return statistics.median(time_of(lambda: train(steps)) for _ in range(rounds))


def host_waits(name: str, images: "ImageSet", steps: int) -> int:
    """How often the host waits for the GPU in an epoch of so many steps."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    train = our_loop(NETWORKS[name], images, "bf16").train
    train(steps)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=kinds) as profiled:
        train(steps)
    return sum(event.count for event in profiled.key_averages() if event.key in WAITS)


def epochs_a_minute(name: str, count: int, arguments: argparse.Namespace) -> float:
    """Of `count` processes together, each training one epoch of the cut images, from when all of them are ready."""
    command = [sys.executable, __file__, "--serve", name, "--device", arguments.device]
    command += [f"--data-dir={arguments.data_dir}", "--fraction", arguments.fraction]
    titles = [f"{name} as process {number} of {count}" for number in range(1, count + 1)]
    with workers(dict.fromkeys(titles, command)) as started:

        def train() -> None:
            for worker in started.values():
                worker.send()
            for worker in started.values():
                worker.receive()

        return 60 * count / time_of(train)


def serve(arguments: argparse.Namespace) -> None:
    """In a process of its own: train an epoch for every line on standard input."""
    images, _ = load_images_of(arguments.serve, arguments)
    train = our_loop(NETWORKS[arguments.serve], images, "bf16").train
    train(5)  # lets the libraries choose their kernels

    def one_epoch(line: str) -> str:
        train(len(images.train) // BATCH_SIZE)
        return "done"

    answer(one_epoch)


if __name__ == "__main__":
    main()
