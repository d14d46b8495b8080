"""Train the report's RNN, LSTM or GRU on MNIST, an image's rows as time steps; without flags, the report's best run:
GRU with 128 hidden units, Adam, lr 0.001, 10 epochs.

Writes a run folder under runs/ with TensorBoard curves, metrics and checkpoints; see the README.
"""

import argparse
import sys
from collections.abc import Sequence

from harness.cli import run_script, say_loading
from harness.flags import parse_flags, training_parser
from harness.image_sets import sets_for

DATA = sets_for("rnn_mnist")  # what --data takes, the default first, and the image set that it means
EXAMPLES = (
    "python rnn_mnist.py --data synthetic --epochs 2  # to try it, in seconds",
    "python rnn_mnist.py --cell lstm --bidirectional --hidden-size 64 --lr 0.01",
    "python rnn_mnist.py --resume  # go on after any stop",
)


def make_parser() -> argparse.ArgumentParser:
    return training_parser("rnn_mnist", __doc__, EXAMPLES)


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse_flags(make_parser(), argv)

    # Only now: PyTorch takes seconds to import, and --help and wrong flags are answered before.
    say_loading()
    from harness.data import load_images
    from harness.run import open_run
    from harness.train import train
    from models import build_model

    with open_run(flags, experiment=f"rnn_{flags.data}") as run:
        flags = run.flags  # of a resumed run, those that it records
        with run.ranks.main_first():  # which downloads
            images = load_images(DATA[flags.data], data_dir=flags.data_dir, mirror=flags.mirror, classes=flags.classes)
        description = {
            "name": "RecurrentClassifier",
            "cell": flags.cell,
            "input_size": images.train.images.shape[3],  # the pixels of a row: (images, channels, rows, pixels)
            "hidden_size": flags.hidden_size,
            "classes": len(images.classes),
            "layers": flags.layers,
            "bidirectional": flags.bidirectional,
            "dropout": flags.dropout,
        }
        return train(run, images, description, build_model)


if __name__ == "__main__":
    sys.exit(run_script(main))
