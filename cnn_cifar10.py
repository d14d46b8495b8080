"""Train the report's CNN (LeNet5) on CIFAR-10; without flags, the report's best run: Adagrad, lr 0.01, 20 epochs.

Writes a run folder under runs/ with TensorBoard curves, metrics and checkpoints; see the README.
"""

import argparse
import sys
from collections.abc import Sequence

from harness.cli import run_script
from harness.flags import DEFAULT_SNAPSHOTS, epoch_list, parse_flags, training_parser

DATA = {"cifar10": "cifar10", "mnist": "mnist", "synthetic": "synthetic-shapes"}


def make_parser() -> argparse.ArgumentParser:
    parser = training_parser(__doc__, data=tuple(DATA), optimizer="adagrad", lr=0.01, epochs=20, batch_size=256)
    model = parser.model_group
    model.add_argument("--channels", choices=("gray", "rgb"), default="gray", help="of the images")
    model.add_argument("--fc-activation", choices=("tanh", "relu"), default="tanh", help="between the linear layers")
    model.add_argument("--augment", action="store_true", help="mirror and shift the training images at random")
    model.add_argument(
        "--snapshot-epochs",
        type=epoch_list,
        default=DEFAULT_SNAPSHOTS,
        help="keep these epochs' filters",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    flags = parse_flags(parser, argv)
    if flags.data == "mnist" and flags.channels == "rgb":
        parser.error("--channels rgb needs colour images, and MNIST has none")

    from harness.data import load_images
    from harness.run import open_run
    from harness.train import train
    from models import build_model

    with open_run(flags, experiment=f"cnn_{flags.data}") as run:
        flags = run.flags
        with run.ranks.main_first():  # which downloads
            images = load_images(
                DATA[flags.data], data_dir=flags.data_dir, channels=flags.channels, mirror=flags.mirror
            )
        channels, image_size = images.train.images.shape[1:3]
        description = {
            "name": "LeNet5",
            "channels": channels,
            "image_size": image_size,
            "classes": len(images.classes),
            "fc_activation": flags.fc_activation,
        }
        return train(run, images, description, build_model)


if __name__ == "__main__":
    sys.exit(run_script(main))
