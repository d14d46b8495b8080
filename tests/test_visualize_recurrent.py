"""visualize.py on runs of rnn_mnist.py: what it writes, that its numbers are right, and what it says of bad input."""

import csv
import importlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from harness.analyses import OF_RECURRENT, read_analyses
from harness.analyses.base import lacks
from harness.pictures import Drawing

TESTED = 60  # synthetic test images
RENDERED = "gates"  # to pixels; Matplotlib takes longer for the others than their computation


@pytest.fixture(scope="module")
def tiny_sets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.synthetic.TRAIN_COUNT", 200)
        patch.setattr("harness.synthetic.TEST_COUNT", TESTED)
        for name in ("confusion_figure", "worst_figure"):
            patch.setattr(f"harness.pictures.{name}", lambda *_: np.zeros((4, 4, 3), dtype=np.uint8))
        yield


@pytest.fixture(scope="module")
def runs(tiny_sets, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each cell; tests that write into one take a copy."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--data", "synthetic", "--epochs", "2", "--hidden-size", "8", "--threads", "1", "--runs-dir", str(folder)]
    for cell in ("rnn", "lstm", "gru"):
        assert importlib.import_module("rnn_mnist").main([*flags, "--cell", cell, "--name", cell]) == 0
    return {cell: next(folder.glob(f"*/{cell}")) for cell in ("rnn", "lstm", "gru")}


@pytest.fixture(autouse=True)
def quick_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = Drawing(np.zeros((30, 40, 3), dtype=np.uint8), b"<svg/>")
    for name in {*OF_RECURRENT} - {RENDERED}:
        monkeypatch.setattr(f"harness.analyses.{name}.both", lambda _: blank)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_analysis_of_an_lstm_is_written_and_shown(runs, tmp_path: Path, run_main: Callable):
    code, out, err = run_main("visualize", runs["lstm"], "--out", tmp_path, "--images", "6")
    assert (code, err) == (0, "") and "note" not in out
    records = read_analyses(tmp_path)
    assert list(records) == list(OF_RECURRENT)
    page = (tmp_path / "index.html").read_text()
    assert "Inside LSTM: synthetic-digits gray" in page and re.findall(r'<section id="(\w+)">', page) == list(records)
    for name, record in records.items():
        assert [each["file"] for each in record["figures"]] == [f"{name}.png"]
        assert record["tables"][0]["file"] == f"{name}.csv" and "synthetic" in record["tables"][0]["title"]
        assert "LSTM" in record["text"].split(". ")[0]  # the sentence about this network
    pixels = np.asarray(Image.open(tmp_path / "gates.png"))
    assert 800 < pixels.shape[1] <= 1760 and pixels.std() > 10


def test_reading_ends_with_the_accuracy_of_the_training(runs, tmp_path: Path, run_main: Callable):
    assert run_main("visualize", runs["gru"], "--out", tmp_path, "--only", "reading,lengths")[0] == 0
    trained = max(float(row["test/accuracy"]) for row in rows_of(runs["gru"] / "metrics.csv"))
    last = rows_of(tmp_path / "reading.csv")[-1]
    assert last["rows"] == "28" and float(last["accuracy"]) == pytest.approx(trained, abs=1e-6)
    lengths = {row.pop("rows"): row for row in rows_of(tmp_path / "lengths.csv")}
    assert [*lengths] == [str(rows) for rows in range(20, 41, 2)]
    assert [float(value) for value in lengths["28"].values()] == pytest.approx([trained] * 3, abs=1e-6)
    images = rows_of(tmp_path / "reading_images.csv")
    assert len(images) == 5 * 28
    for row in images:
        shares = {name: float(value) for name, value in row.items() if name.startswith("p(")}
        assert (
            sum(shares.values()) == pytest.approx(1, abs=1e-5) and max(shares, key=shares.get) == f"p({row['answer']})"
        )


def test_memory_begins_at_one_and_the_untrained_network_is_another(runs, tmp_path: Path, run_main: Callable):
    assert run_main("visualize", runs["rnn"], "--out", tmp_path, "--only", "memory")[0] == 0
    rows = rows_of(tmp_path / "memory.csv")
    medians = {
        name: [float(row["median"]) for row in rows if row["network"] == name] for name in ("trained", "untrained")
    }
    assert [len(line) for line in medians.values()] == [28, 28] and medians["trained"] != medians["untrained"]
    assert all(line[0] == pytest.approx(1) for line in medians.values())


def test_what_a_network_has_not_is_left_out_with_a_note(runs, tmp_path: Path, run_main: Callable):
    code, out, err = run_main("visualize", runs["rnn"], "--out", tmp_path, "--images", "1")
    assert (code, err) == (0, "") and "note: gates left out, a plain RNN has no gates\n" in out
    assert list(read_analyses(tmp_path)) == [name for name in OF_RECURRENT if name != "gates"]
    assert lacks(nn.GRU(4, 3)) == {}
    for layer in (nn.LSTM(4, 3, num_layers=2), nn.GRU(4, 3, bidirectional=True)):
        assert list(lacks(layer)) == ["steps"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("--only", "filters"), "of a recurrent network there is reading, hidden_state, gates"),
        (("--only", "gates"), "gates cannot be shown: a plain RNN has no gates"),
        (("--maps", "3"), "holds a RecurrentClassifier, which has no convolutions to look into"),
        (
            ("--image", "digit.png", "--only", "memory"),
            "of a picture there is reading, saliency to show, and not memory",
        ),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(runs, run_main: Callable, argv: tuple, sentence: str):
    code, _, err = run_main("visualize", runs["rnn"], *argv)
    assert code == 2 and sentence in err and err.count("\n") == 1, err
    assert not (runs["rnn"] / "figures" / "index.html").exists()


def test_own_picture_is_read_and_its_pixels_weighed(runs, tmp_path: Path, run_main: Callable):
    pixels = np.zeros((40, 60), dtype=np.uint8)
    pixels[5:35, 28:32] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    code, out, err = run_main("visualize", runs["lstm"], "--image", tmp_path / "one.png", "--out", tmp_path / "own")
    assert (code, err) == (0, "") and out.startswith("one.png\n")
    records = read_analyses(tmp_path / "own")
    assert list(records) == ["reading", "saliency"] and records["reading"]["dataset"]["name"] == "your own"
    last = rows_of(tmp_path / "own" / "reading_images.csv")[-1]
    (saliency,) = rows_of(tmp_path / "own" / "saliency.csv")
    assert last["answer"] == last["class"] == saliency["class"]
    assert float(saliency["p as it is"]) == pytest.approx(float(last[f"p({last['answer']})"]), abs=1e-5)


def test_where_no_checkpoint_is_the_command_that_makes_one_is_said(runs, tmp_path: Path, run_main: Callable):
    run = shutil.copytree(runs["gru"], tmp_path / "gru")
    (run / "best.pt").unlink()  # as in a committed run
    code, _, err = run_main("visualize", run)
    assert code == 2 and f"there is no {run / 'best.pt'}; python rnn_mnist.py " in err and err.count("\n") == 1
    assert {"--data=synthetic", "--hidden-size=8", "--epochs=2"} <= {*err.split()}
