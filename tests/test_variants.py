"""The search in benchmarks/variants.py: without a change it trains as the project does, and nothing is made twice."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_sets import make_mnist

from benchmarks import variants
from harness.data import load_images
from harness.image_sets import IMAGE_SETS
from harness.metrics import METRICS, read_metrics


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A MNIST of 70 and 20 images: two batches of the default size, the last one of 6."""
    monkeypatch.setitem(IMAGE_SETS, "mnist", make_mnist(tmp_path / "data", train=70))
    return tmp_path / "data"


@pytest.mark.usefixtures("quick_figures")
def test_without_a_change_it_trains_as_the_script_does(data_dir, tmp_path, read_flags, run_main):
    argv = ("--cell", "gru", "--epochs", 2, "--seed", 3, "--data-dir", data_dir, "--runs-dir", tmp_path / "runs")
    assert run_main("rnn_mnist", *argv)[0] == 0
    (file,) = (tmp_path / "runs").glob("rnn_mnist/*/metrics.csv")
    expected = [[getattr(epoch, metric) for metric in METRICS] for epoch in read_metrics(file)]
    images = load_images("mnist", data_dir=data_dir)
    assert variants.train_changed(images, read_flags("rnn_mnist", *argv), {})["epoch"] == expected


@pytest.mark.parametrize("name", [name for name in variants.VARIANTS if variants.trained_as(name) == name][1:])
def test_every_change_changes_something(data_dir, read_flags, name):
    images = load_images("mnist", data_dir=data_dir)
    size = 35 if name == "carried" else 64  # a state is carried over to a batch of the same size

    def train(changes: dict) -> list:
        argv = ("--cell", "rnn", "--epochs", 2, "--lr", 0.01, "--optimizer", "sgd", "--batch-size", size)
        return variants.train_changed(images, read_flags("rnn_mnist", *argv), changes)["epoch"]

    changes = {"decay": (1, 0.1)} if name == "lr-step" else variants.changes_of(name)  # its fifth epoch is far
    assert train(changes) != train({})


def test_readings_by_hand():
    """Two batches, of 2 and 1 images with loss sums 2 and 4; three test images."""
    steps = np.array([(0, 0, 0), (2, 2.0, 1), (1, 6.0, 2)])
    found = variants.each_reading(steps, torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True]))
    assert found["epoch"] == pytest.approx([2, 2 / 3, 3, 2 / 3])
    assert found["means"] == pytest.approx([2.5, 0.75, 3, 2 / 3])  # (1 + 4) / 2, (0.5 + 1) / 2
    assert found["best batch"] == pytest.approx([1, 1, 3, 2 / 3])
    assert variants.smoothed([[1.0] * 4, [2.0] * 4])[1] == pytest.approx([(0.24 + 0.8) / 0.64] * 4)


def test_what_is_there_is_not_trained_again_and_the_nearest_are_confirmed(data_dir, tmp_path, monkeypatch, capsys):
    """The trainings are invented: all changes end alike, but two, which are nearer to the printed values."""
    trained = []

    def invented(images, flags, changes):
        trained.append(changes)
        nearer = (flags.lr == 0.001) * (("decay" in changes) + ("dropout" in changes))
        error = 0.04 / (1 + nearer) + flags.seed / 1e5
        ways = ("epoch", "means", "means-256", "best batch", "last 100")
        return {way: [[4 * error, 1 - error] * 2] for way in ways}

    monkeypatch.setattr(variants, "train_changed", invented)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    results = tmp_path / "variants.jsonl"
    argv = ["variants.py", "--data-dir", str(data_dir), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", argv)
    kinds = sum(variants.trained_as(name) == name for name in variants.VARIANTS)
    assert variants.main() == 0
    # Of the two with a decay the first counts; the default, the two nearest and both together are confirmed.
    assert len(trained) == 2 * 3 * (kinds + 1) + 2 * 5 * 4
    assert {"decay": (1, 0.7), "dropout": 0.5} in trained
    lines = results.read_text(encoding="utf-8").splitlines()
    results.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:9], encoding="utf-8")  # torn by a kill
    assert variants.main() == 0
    assert len(trained) == 2 * 3 * (kinds + 1) + 2 * 5 * 4 + 1
    assert json.loads(results.read_text(encoding="utf-8").splitlines()[-1])["seed"] == 14
    text = results.with_suffix(".md").read_text(encoding="utf-8")
    assert "| lr × 0.7 after each epoch, dropout 0.5 before the linear layer |" in text
    assert "All four printed values agree, on these seeds and on all eight, with: nothing that was tried." in text
    monkeypatch.setattr(sys, "argv", [*argv, "--only", "nonsense"])
    with pytest.raises(SystemExit):
        variants.main()
    assert "--only nonsense: there are default, " in capsys.readouterr().err
