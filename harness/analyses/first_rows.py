"""How well a network trained on whole MNIST images classifies their first k rows, for every k.

A recurrent network reads k steps and answers; a CNN needs its fixed input shape and gets black rows below row k. The
original report asserts this difference between the two; here it is measured, for the report's comparison of both.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from harness.analyses.findings import Table
from harness.checkpoint import load_trained
from harness.data import ImageSet
from harness.errors import UserError
from harness.files import make_folder, write_atomically

FILE = Path("figures") / "first_rows.csv"  # in the run's folder


@torch.no_grad()
def first_rows(model: nn.Module, images: ImageSet, *, cut: bool) -> list[tuple[int, float, float]]:
    """(k, accuracy in [0, 1], mean cross-entropy) on the first k rows of all test images, for every k, on the CPU.

    With `cut` the model gets images of k rows (a recurrent network, one step a row); without, rows below the k-th are
    black. The model is in evaluation mode.
    """
    labels, height = images.test.labels, images.test.images.shape[2]
    metrics = []
    for rows in range(1, height + 1):
        logits = []
        for part in images.test.images.split(500):  # uint8 (500, channels, height, width)
            seen = part[:, :, :rows] if cut else F.pad(part[:, :, :rows], (0, 0, 0, height - rows))
            logits.append(model(images.normalize(seen)))
        answers = torch.cat(logits).double()  # (n, classes)
        accuracy = (answers.argmax(dim=1) == labels).double().mean()
        metrics.append((rows, float(accuracy), float(F.cross_entropy(answers, labels))))
    return metrics


def keep_first_rows(run: Path, images: ImageSet, build_model: Callable[[dict], nn.Module]) -> None:
    """Measure the run's best.pt and write the numbers to its `FILE`.

    Raises UserError if the checkpoint is missing or foreign, was trained on other images, or the file cannot be
    written.
    """
    trained = load_trained(run / "best.pt", build_model)
    if trained.checksum != images.checksum:
        raise UserError(f"{trained.path} was trained on other images than this {images.name}")
    measured = first_rows(trained.model, images, cut=trained.description["name"] == "RecurrentClassifier")
    rows = [(number, round(accuracy, 6), round(loss, 6)) for number, accuracy, loss in measured]
    make_folder(run / FILE.parent)
    write_atomically(run / FILE, Table(FILE.stem, "", ("rows", "accuracy", "loss"), rows).as_csv().encode())
