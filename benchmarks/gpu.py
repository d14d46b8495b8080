"""Measure this project's loop on a CUDA GPU, and show that the host never waits for it within an epoch.

    python benchmarks/gpu.py

Seconds of whole training epochs at batch 64, eager and compiled (--compile), in fp32 and bf16; runs side by side on one
GPU, each a process of its own; and how often the host waits, as PyTorch's profiler counts it: no more in an epoch of
twice the steps. Writes a Markdown table. Needs the real image sets. `--device cpu` tries it out where there is no GPU.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from peers import BATCH_SIZE, NETWORKS, PROJECT, machine, our_loop, steps_of, time_of

if TYPE_CHECKING:
    from harness.data import ImageSet

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
KINDS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16, compiled": ("bf16", True)}  # precision, --compile


def main() -> None:
    arguments = parse_arguments()
    if arguments.serve:
        serve(arguments)
        return
    sys.stdout.reconfigure(errors="backslashreplace")
    share = arguments.fraction
    note = "" if share == 1 else f", **extrapolated** from {share:.2g} of the images (whole batches)"
    lines = [
        "# This project's loop on a GPU",
        "",
        f"Written by `benchmarks/gpu.py --rounds {arguments.rounds}{f' --fraction {share}' if note else ''}`, which "
        "says what is measured.",
        "",
        *machine(),
        f"- {device_name(arguments.device)}",
        "",
        f"Seconds for the training pass of an epoch, batch {BATCH_SIZE}, median of {arguments.rounds}; how often the "
        f"host waits in 20 steps and in 40; epochs a minute of several processes at once (bf16, eager){note}.",
        "",
        f"| network | {' | '.join(KINDS)} | waits in 20, 40 steps | {' | '.join(map(side_by_side, arguments.jobs))} |",
        f"|---{'|---:' * (len(KINDS) + 1 + len(arguments.jobs))}|",
    ]
    for name in NETWORKS:
        epochs = [epoch_seconds(name, *kind, arguments) for kind in KINDS.values()]
        waits = [host_waits(name, steps, arguments) for steps in (20, 40)]
        rates = [epochs_a_minute(name, count, arguments) for count in arguments.jobs]
        cells = [*(f"{value:.2f}" for value in epochs), "{}, {}".format(*waits), *(f"{rate:.0f}" for rate in rates)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how many epochs are measured")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 4, 16], help="numbers of runs side by side")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training images in an epoch")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the script out")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the image sets")
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "gpu.md", help="the table")
    parser.add_argument("--serve", choices=tuple(NETWORKS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not 0 < arguments.fraction <= 1 or min(arguments.jobs) < 1:
        parser.error("--rounds and --jobs are at least 1, --fraction above 0 and at most 1")
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine, or this build of PyTorch, has no CUDA GPU")
    return arguments


def side_by_side(count: int) -> str:
    return f"{count} run{'s' * (count > 1)}, epochs/min"


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "no GPU: the script was tried out on the CPU"


def images_of(name: str, arguments: argparse.Namespace) -> "tuple[ImageSet, float]":
    """The network's images, on the device; the train split cut to the fraction, in whole batches, and by how much."""
    import torch

    from harness.data import load_images

    images = load_images(NETWORKS[name].images, data_dir=arguments.data_dir)
    steps, cut = steps_of(len(images.train), arguments.fraction)
    return images.first(steps * BATCH_SIZE).to(torch.device(arguments.device)), cut


def epoch_seconds(name: str, precision: str, compile: bool, arguments: argparse.Namespace) -> float:
    """Median seconds of an epoch's training pass, which ends when the host has read the epoch's loss."""
    images, cut = images_of(name, arguments)
    train = our_loop(NETWORKS[name], images, precision, compile=compile).train
    steps = len(images.train) // BATCH_SIZE
    train(steps)  # which compiles, and lets the libraries choose their kernels
    measured = [time_of(lambda: train(steps)) for _ in range(arguments.rounds)]
    return cut * statistics.median(measured)


def host_waits(name: str, steps: int, arguments: argparse.Namespace) -> int:
    """How often the host waits for the GPU in an epoch of so many steps."""
    from torch.profiler import ProfilerActivity, profile

    train = our_loop(NETWORKS[name], images_of(name, arguments)[0], "bf16").train
    train(steps)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if arguments.device == "cuda" else [])]
    with profile(activities=kinds) as profiled:
        train(steps)
    return sum(event.count for event in profiled.key_averages() if event.key in WAITS)


def epochs_a_minute(name: str, count: int, arguments: argparse.Namespace) -> float:
    """Of `count` processes together, each training one epoch, from the moment that all of them are ready."""
    common = ("--device", arguments.device, f"--data-dir={arguments.data_dir}", "--fraction", arguments.fraction)
    words = [str(word) for word in (sys.executable, __file__, "--serve", name, *common)]
    children = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for child in children:
            ready, _, cut = child.stdout.readline().partition(" ")
            if ready != "ready":
                sys.exit(f"error: one of {count} processes training {name} did not start")

        def train() -> None:
            for child in children:
                child.stdin.write("train\n")
                child.stdin.flush()
            for child in children:
                if not child.stdout.readline():
                    sys.exit(f"error: one of {count} processes training {name} ended early")

        return 60 * count / (float(cut) * time_of(train))
    finally:
        for child in children:
            child.kill()


def serve(arguments: argparse.Namespace) -> None:
    """In a process of its own: get ready, then train an epoch for every line on standard input."""
    images, cut = images_of(arguments.serve, arguments)
    train = our_loop(NETWORKS[arguments.serve], images, "bf16").train
    train(5)
    print(f"ready {cut}", flush=True)
    for _ in sys.stdin:
        train(len(images.train) // BATCH_SIZE)
        print("done", flush=True)


if __name__ == "__main__":
    main()
