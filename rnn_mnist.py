"""Train the report's RNN, LSTM or GRU on MNIST, an image's rows as time steps; without flags, the report's best run:
GRU with 128 hidden units, Adam, lr 0.001, 10 epochs.

Writes a run folder under runs/ with TensorBoard curves, metrics and checkpoints; see the README.
"""

import argparse
import sys
from collections.abc import Sequence

from harness.cli import run_script
from harness.flags import parse_flags, positive_int, training_parser

DATA = {"mnist": "mnist", "synthetic": "synthetic-digits"}


def make_parser() -> argparse.ArgumentParser:
    parser = training_parser(__doc__, data=tuple(DATA), optimizer="adam", lr=0.001, epochs=10, batch_size=64)
    model = parser.model_group
    model.add_argument("--cell", choices=("rnn", "lstm", "gru"), default="gru", help="kind of recurrent layer")
    model.add_argument("--hidden-size", type=positive_int, default=128, help="of the recurrent layer")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_flags(make_parser(), argv)

    from harness.data import load_images
    from harness.run import open_run
    from harness.train import train
    from models import build_model

    with open_run(flags, experiment=f"rnn_{flags.data}") as run:
        flags = run.flags
        with run.ranks.main_first():  # which downloads
            images = load_images(DATA[flags.data], data_dir=flags.data_dir, mirror=flags.mirror)
        description = {
            "name": "RecurrentClassifier",
            "cell": flags.cell,
            "input_size": images.train.images.shape[3],
            "hidden_size": flags.hidden_size,
            "classes": len(images.classes),
        }
        return train(run, images, description, build_model)


if __name__ == "__main__":
    sys.exit(run_script(main))
