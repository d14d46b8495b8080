"""Classifying the first k rows of each test image."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from harness.analyses.first_rows import FILE, first_rows, keep_first_rows
from harness.checkpoint import load_trained
from harness.data import ImageSet, Split
from harness.errors import UserError
from models import build_model


def image_set(images: Tensor, labels: list[int]) -> ImageSet:
    split = Split(images, torch.tensor(labels))
    return ImageSet("mnist", "checksum", ("0", "1"), mean=0.0, std=1.0, train=split, test=split)


class CountsRows(nn.Module):
    """Says class 1, with logit = number of rows with any light, against 1.5 for class 0; notes the heights it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.heights = []

    def forward(self, images: Tensor) -> Tensor:
        self.heights.append(images.shape[2])
        lit = (images.amax(dim=(1, 3)) > 0).sum(dim=1).float()
        return torch.stack([torch.full_like(lit, 1.5), lit], dim=1)


@pytest.mark.parametrize("cut", [True, False])
def test_network_sees_the_first_k_rows_and_no_more(cut: bool) -> None:
    model = CountsRows()
    figures = first_rows(model, image_set(torch.full((2, 1, 3, 4), 255, dtype=torch.uint8), [1, 0]), cut=cut)
    assert model.heights == ([1, 2, 3] if cut else [3, 3, 3])
    assert [rows for rows, _, _ in figures] == [1, 2, 3]
    assert [accuracy for _, accuracy, _ in figures] == [0.5, 0.5, 0.5]
    # Logits (1.5, k): the two images' cross-entropies are log(1 + e^±(1.5 - k)).
    for k, _, loss in figures:
        expected = (math.log1p(math.exp(1.5 - k)) + math.log1p(math.exp(k - 1.5))) / 2
        assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_all_rows_are_the_whole_image(cell: str) -> None:
    description = {"name": "RecurrentClassifier", "cell": cell, "input_size": 6, "hidden_size": 5, "classes": 2}
    model = build_model({"model": description}, seed=3).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 1, 6, 6), generator=generator).byte()
    images = image_set(pixels, torch.randint(0, 2, (40,), generator=generator).tolist())
    with torch.no_grad():
        logits = model(images.normalize(pixels))
    _, accuracy, loss = first_rows(model, images, cut=True)[-1]
    assert accuracy == pytest.approx((logits.argmax(1) == images.test.labels).float().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, images.test.labels).item(), rel=1e-5)


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
@pytest.mark.parametrize("script, cut", [("rnn_mnist", True), ("cnn_cifar10", False)])
def test_recurrent_networks_see_fewer_rows_and_cnns_black_ones(script, cut, run_main, monkeypatch, tmp_path) -> None:
    assert run_main(script, "--data", "synthetic", "--epochs", "1", "--runs-dir", tmp_path)[0] == 0
    (best,) = tmp_path.glob("*/*/best.pt")
    trained = load_trained(best, build_model)
    images = image_set(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), [0])
    asked = []
    monkeypatch.setattr("harness.analyses.first_rows.first_rows", lambda *_, cut: asked.append(cut) or [])
    keep_first_rows(best.parent, replace(images, checksum=trained.checksum), build_model)
    assert asked == [cut]


@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_figures_are_kept_in_the_runs_folder(run_main, tmp_path) -> None:
    from harness.data import load_images

    flags = ["--data", "synthetic", "--hidden-size", "4", "--batch-size", "512", "--epochs", "1"]
    assert run_main("rnn_mnist", *flags, "--runs-dir", tmp_path)[0] == 0
    (run,) = (tmp_path / "rnn_synthetic").iterdir()
    images = load_images("synthetic-digits", data_dir=tmp_path)
    keep_first_rows(run, images, build_model)
    rows = list(csv.DictReader((run / FILE).read_text().splitlines()))
    assert [int(row["rows"]) for row in rows] == list(range(1, 29))
    metrics = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["accuracy"]) == pytest.approx(float(metrics[0]["test/accuracy"]), abs=2e-4)
    with pytest.raises(UserError, match="other images"):
        keep_first_rows(run, replace(images, checksum="another"), build_model)
