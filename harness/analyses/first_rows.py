"""How well a network trained on whole MNIST images classifies their first k rows, for every k.

A recurrent network reads k steps and answers; a CNN needs its fixed input shape and gets black rows below row k. The
original report asserts this difference between the two; here it is measured, for the report's comparison of both.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.analyses.findings import Table
from harness.checkpoint import load_trained
from harness.data import ImageSet
from harness.errors import UserError
from harness.files import make_folder, write_atomically

FILE = Path("figures") / "first_rows.csv"  # in the run's folder
_BATCH = 500


class FirstRows(NamedTuple):
    """The whole test set seen down to `rows`: accuracy in [0, 1] and mean cross-entropy a sample."""

    rows: int
    accuracy: float
    loss: float


@torch.no_grad()
def first_rows(model: nn.Module, images: ImageSet, *, cut: bool) -> list[FirstRows]:
    """Accuracy and loss on the first k rows of the test images, for k from 1 to all of them, in fp32 on the CPU.

    With `cut` the model gets images of k rows (a recurrent network, one step a row); without, rows below the k-th are
    black. The model is in evaluation mode.
    """
    height, labels = images.test.images.shape[2], images.test.labels
    metrics = []
    for rows in range(1, height + 1):
        parts = [_first(part, rows, cut=cut) for part in images.test.images.split(_BATCH)]
        logits = torch.cat([model(images.normalise(part)) for part in parts])  # (n, classes)
        accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
        metrics.append(FirstRows(rows, accuracy, F.cross_entropy(logits.double(), labels).item()))
    return metrics


def _first(images: Tensor, rows: int, *, cut: bool) -> Tensor:
    """The first rows of images, uint8 (n, channels, height, width): alone, or with black ones below."""
    return images[:, :, :rows] if cut else F.pad(images[:, :, :rows], (0, 0, 0, images.shape[2] - rows))


def keep_first_rows(run: Path, images: ImageSet, build_model: Callable[[dict], nn.Module]) -> None:
    """Measure the run's best.pt and write the numbers to its `FILE`.

    Raises UserError if the checkpoint is missing or foreign, was trained on other images, or the file cannot be
    written.
    """
    trained = load_trained(run / "best.pt", build_model)
    if trained.checksum != images.checksum:
        raise UserError(f"{trained.path} was trained on other images than this {images.name}")
    measured = first_rows(trained.model, images, cut=trained.description["name"] == "RecurrentClassifier")
    rows = [(each.rows, round(each.accuracy, 6), round(each.loss, 6)) for each in measured]
    make_folder(run / FILE.parent)
    write_atomically(run / FILE, Table(FILE.stem, "", FirstRows._fields, rows).as_csv().encode())
