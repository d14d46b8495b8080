"""Train a CNN on CIFAR-10; without flags, the report's best run: LeNet5, Adagrad, lr 0.01, 20 epochs.

Writes a run folder under runs/ with TensorBoard curves, metrics and checkpoints; see the README.
"""

import argparse
import sys
from collections.abc import Sequence

from harness.cli import run_script, say_loading
from harness.flags import option, parse_flags, training_parser
from harness.image_sets import IMAGE_SETS, sets_for, titles

DATA = sets_for("cnn_cifar10")  # what --data takes, the default first, and the image set that it means
LENET5 = ("fc_activation", "kernel_size", "stride", "conv1_maps", "conv2_maps", "fc_units")  # its own flags
EXAMPLES = (
    "python cnn_cifar10.py --data synthetic --epochs 2  # to try it, in seconds",
    "python cnn_cifar10.py --model vgg --channels rgb --augment --precision bf16",
    "python cnn_cifar10.py --resume  # go on after any stop",
)


def make_parser() -> argparse.ArgumentParser:
    return training_parser("cnn_cifar10", __doc__, EXAMPLES)


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_flags(make_parser(), argv)
    if flags.channels == "rgb" and IMAGE_SETS[DATA[flags.data]].channels == 1:
        flags.parser.error(f"--channels rgb needs color images, and {titles()[flags.data]} has none")
    own = [name for name in (*LENET5, "max_filter_rms") if name in flags.given]
    if flags.model != "lenet5" and own:
        flags.parser.error(f"{option(own[0])} is a flag of --model lenet5")

    # Only now: PyTorch takes seconds to import, and --help and wrong flags are answered before.
    say_loading()
    from harness.data import load_images
    from harness.run import open_run
    from harness.train import train
    from models import build_model

    with open_run(flags, experiment=f"cnn_{flags.data}") as run:
        flags = run.flags  # of a resumed run, those that it records
        with run.ranks.main_first():  # which downloads
            images = load_images(
                DATA[flags.data],
                data_dir=flags.data_dir,
                channels=flags.channels,
                mirror=flags.mirror,
                classes=flags.classes,
            )
        channels, image_size = images.train.images.shape[1:3]  # (images, channels, rows, pixels)
        description = {
            "name": {"lenet5": "LeNet5", "vgg": "VGG"}[flags.model],
            "channels": channels,
            "image_size": image_size,
            "classes": len(images.classes),
        }
        if flags.model == "lenet5":
            description |= {name: getattr(flags, name) for name in LENET5}
        return train(run, images, description, build_model)


if __name__ == "__main__":
    sys.exit(run_script(main))
