"""visualize.py end to end on a tiny synthetic run: what it writes, that its numbers are interpret's, and bad input."""

import csv
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import interpret.activations
import interpret.correspondence
import interpret.evolution
import interpret.invariance
import interpret.occlusion
import visualize
from harness.analyses import (
    OF_CNN,
    ON_REQUEST,
    correspondence,
    deconvnet,
    depth,
    draw_analyses,
    evolution,
    invariance,
    read_analyses,
)
from harness.analyses.base import load_test_images, read_picture
from harness.analyses.findings import Findings, Picture, Table, write_findings, write_page
from harness.checkpoint import load_checkpoint, load_snapshots, load_trained
from harness.errors import UserError
from harness.files import lock_folder
from harness.flops import flops_per_image
from harness.pictures import DPI, Drawing
from harness.tensorboard import read_events
from interpret.probe import layer_features, probe
from models import build_model

DRAWN = [name for name in OF_CNN if name not in ON_REQUEST]  # unless --only names others
TESTED = 60  # synthetic test images
RENDERED = ("filters", "correspondence")  # to pixels; Matplotlib takes longer for the others than their computation


@pytest.fixture(scope="module")
def tiny_sets():
    """Synthetic sets of few images, and few maps and images in the slow analyses, for every test here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.synthetic.TRAIN_COUNT", 200)
        patch.setattr("harness.synthetic.TEST_COUNT", TESTED)
        patch.setattr(invariance, "AVERAGED", 4)
        patch.setattr(correspondence, "PER_CLASS", 2)
        patch.setattr(depth, "LEARNED_FROM", 50)
        patch.setattr(depth, "TESTED_ON", 20)
        patch.setattr(deconvnet, "MAPS_SHOWN", 5)
        patch.setattr(evolution, "MAPS_SHOWN", 2)
        for name in ("confusion_figure", "worst_figure"):
            patch.setattr(f"harness.pictures.{name}", lambda *_: np.zeros((4, 4, 3), dtype=np.uint8))
        yield


@pytest.fixture(scope="module")
def trained_run(tiny_sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A colour run of two epochs with snapshots of both; tests that write into it take a copy."""
    return _train("cnn_cifar10", tmp_path_factory.mktemp("runs"), "--channels", "rgb", "--snapshot-epochs", "1,2")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.fixture(scope="module")
def drawn(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, drawn once."""
    folder = tmp_path_factory.mktemp("drawn") / "figures"

    def blank(figure: Figure) -> Drawing:
        width, height = (round(inches * DPI) for inches in figure.get_size_inches())
        return Drawing(np.zeros((height, width, 3), dtype=np.uint8), b"<svg/>")

    with pytest.MonkeyPatch.context() as patch:
        for name in set(DRAWN) - set(RENDERED):
            patch.setattr(f"harness.analyses.{name}.both", blank)
        assert visualize.main([str(trained_run / "best.pt"), "--out", str(folder), "--images", "2"]) == 0
    return folder


@pytest.fixture(autouse=True)
def quick_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank figures for all but `drawn`, which is made before: Matplotlib takes longer than the analyses."""
    blank = Drawing(np.zeros((30, 40, 3), dtype=np.uint8), b"<svg/>")
    for name in DRAWN:
        monkeypatch.setattr(f"harness.analyses.{name}.draw", lambda *_: blank)


def _train(script: str, runs: Path, *argv: str) -> Path:
    import importlib

    common = ["--data", "synthetic", "--epochs", "2", "--runs-dir", str(runs), "--threads", "1"]
    assert importlib.import_module(script).main([*common, *argv]) == 0
    return next(runs.glob("*/*/best.pt")).parent


def drawn_into(run: Path) -> list[Path]:
    """What is in its figures/, beside the confusion matrix that the training left."""
    return [path for path in (run / "figures").glob("*") if path.stem != "confusion"]


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def _whole(checkpoint: Path):
    """The network, its whole test split and the image set, in visualize's memory layout: another rounds otherwise."""
    trained = load_trained(checkpoint, build_model)
    images = load_test_images(trained, None, data_dir=Path("nowhere"), mirror=None)
    inputs = images.normalize(images.test.images).contiguous(memory_format=torch.channels_last)
    return trained.model.to(memory_format=torch.channels_last), inputs, images


def test_every_analysis_writes_its_figures_and_tables(drawn: Path):
    written = {path.name for path in drawn.iterdir()}
    for name in DRAWN:
        assert {f"{name}.csv", f"{name}.md", f"{name}.json"} <= written
        figures = [each for each in written if re.fullmatch(rf"{name}(_conv[12])?\.png", each)]
        assert len(figures) == (2 if name in ("filters", "deconvnet", "evolution") else 1)
        for figure in figures:
            pixels = np.asarray(Image.open(drawn / figure))
            assert pixels.shape[2] == 3 and 800 < pixels.shape[1] <= 1760  # twice the 880 of a README
            assert name not in RENDERED or pixels.std() > 10
            assert (drawn / figure).with_suffix(".svg").read_bytes().startswith(b"<svg")
    assert not [name for name in written if name.startswith(".")]


def test_page_shows_every_figure_and_names_only_files_that_exist(drawn: Path):
    page = (drawn / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
    assert named == {path.name for path in drawn.iterdir() if path.suffix != ".json"} - {"index.html"}
    assert re.findall(r'<section id="(\w+)">', page) == list(DRAWN)
    assert "prefers-color-scheme" in page and "http" not in page


def test_all_titles_say_synthetic(drawn: Path):
    for path in drawn.glob("*.md"):
        assert "synthetic" in path.read_text().splitlines()[0], path
    page = (drawn / "index.html").read_text()
    titles = re.findall(r'alt="([^"]*)"', page) + re.findall(r"<(?:title|h1)>([^<]*)", page)
    assert len(titles) == len(list(drawn.glob("*.png"))) + 2 and all("synthetic" in title for title in titles)


def test_activation_table_has_the_numbers_of_interpret(trained_run: Path, drawn: Path):
    model, inputs, _ = _whole(trained_run / "best.pt")
    for row, layer in zip(
        _rows(drawn / "activations.csv"), interpret.activations.activation_statistics(model, inputs), strict=True
    ):
        found = [float(row[name]) for name in ("mean", "std", "share of zeros")]
        assert found == pytest.approx([layer.mean, layer.std, layer.zeros], rel=1e-6)
        assert int(row["dead maps"]) == len(layer.dead)
    counted = _rows(drawn / "activations_histogram.csv")
    outputs = TESTED * (32 * 32 * 32 + 64 * 16 * 16)
    assert sum(int(row["count"]) for row in counted) == outputs


def test_activation_table_is_printed_beside_the_report(trained_run: Path, tmp_path: Path, run_main: Callable):
    code, out, _ = run_main("visualize", trained_run / "best.pt", "--only", "activations", "--out", tmp_path / "out")
    assert code == 0
    (first, second) = _rows(tmp_path / "out" / "activations.csv")
    assert f"ReLU1        {float(first['mean']):7.4f}  {float(first['std']):7.4f}      0.0657   0.1373" in out
    assert f"ReLU2        {float(second['mean']):7.4f}  {float(second['std']):7.4f}      0.1000   0.3112" in out
    assert re.search(r"^activations +\d+\.\d s   activations\.png$", out, re.MULTILINE)


def test_filter_table_has_the_weights_of_the_checkpoint(trained_run: Path, drawn: Path):
    weights = load_checkpoint(trained_run / "best.pt")["model"]["features.conv1.weight"].double().numpy()
    rows = [row for row in _rows(drawn / "filters.csv") if row["layer"] == "features.conv1"]
    assert [float(row["largest"]) for row in rows] == pytest.approx(np.abs(weights).max(axis=(1, 2, 3)))
    assert [float(row["norm"]) for row in rows] == pytest.approx(np.sqrt((weights**2).sum(axis=(1, 2, 3))))
    assert [float(row["RMS"]) for row in rows] == pytest.approx(np.sqrt((weights**2).mean(axis=(1, 2, 3))))
    # Pooled by 2: what changes more than once in four pixels is too fast for the map.
    waves = np.abs(np.fft.fft2(weights, s=(1024, 1024))) ** 2
    fast = np.abs(np.fft.fftfreq(1024)) > 0.25
    shares = (waves * (fast[:, None] | fast)).sum(axis=(1, 2, 3)) / waves.sum(axis=(1, 2, 3))
    aliased = [float(row["share aliased"]) for row in rows]
    assert aliased == pytest.approx(shares, abs=3e-3)  # ours is the integral over all frequencies
    assert f"{np.mean(aliased):.0%} of the filters" in " ".join(
        json.loads((drawn / "filters.json").read_text())["text"].split()
    )


def test_deconvnet_table_names_the_strongest_activations(trained_run: Path, drawn: Path):
    model, inputs, images = _whole(trained_run / "best.pt")
    with torch.no_grad():
        maps = torch.relu(model.features.conv1(inputs))
    rows = [row for row in _rows(drawn / "deconvnet.csv") if row["layer"] == "features.relu1"]
    assert len({row["map"] for row in rows}) == deconvnet.MAPS_SHOWN
    for row in rows:
        number, image, rank = int(row["map"]), int(row["test image"]), int(row["rank"])
        strongest = maps[:, number].amax(dim=(1, 2)).sort(descending=True).values[rank - 1]
        assert float(row["activation"]) == pytest.approx(float(strongest), abs=1e-5)
        assert float(maps[image, number, int(row["row"]), int(row["column"])]) == pytest.approx(
            float(strongest), abs=1e-5
        )
        assert row["class"] == images.classes[images.test.labels[image]]


def test_evolution_table_has_the_snapshots_of_the_run(trained_run: Path, drawn: Path):
    rows = _rows(drawn / "evolution.csv")
    assert len(rows) == 2 * 2 * evolution.MAPS_SHOWN
    model, inputs, images = _whole(trained_run / "best.pt")
    snapshots = load_snapshots(load_trained(trained_run / "best.pt", build_model))
    for layer in ("features.relu1", "features.relu2"):
        of_layer = [row for row in rows if row["layer"] == layer]
        maps = sorted({int(row["map"]) for row in of_layer})
        expected = [
            (epoch, number, *figures)
            for epoch, stage in interpret.evolution.evolution(model, inputs, {layer: maps}, snapshots)[layer].items()
            for number, *figures in zip(
                maps, *(values.tolist() for values in (stage.images, stage.rows, stage.columns)), strict=True
            )
        ]
        names = ("epoch", "map", "test image", "row", "column")
        assert sorted(tuple(int(row[name]) for name in names) for row in of_layer) == sorted(expected)
        for row in of_layer:
            assert row["class"] == images.classes[images.test.labels[int(row["test image"])]]


def test_strong_network_is_looked_into_as_any_other(tiny_sets, tmp_path: Path, run_main: Callable, monkeypatch):
    monkeypatch.setattr("models.vgg.MAPS", (4, 6, 6, 8, 8, 8, 8))
    run = _train("cnn_cifar10", tmp_path / "runs", "--model", "vgg", "--channels", "rgb", "--snapshot-epochs", "2")
    assert run_main("visualize", run, "--images", "2")[0] == 0
    drawn = {path.stem for path in drawn_into(run) if path.suffix == ".png"}
    layers, shown = [f"conv{number}" for number in range(1, 8)], ["conv1", "conv4", "conv7"]
    by_layer = {f"{name}_{layer}" for name in ("filters", "deconvnet", "evolution") for layer in shown}
    assert drawn == by_layer | {"activations", "invariance", "occlusion", "correspondence", "depth"}
    assert "Without conv2, conv3, conv5, conv6:" in (run / "figures" / "filters.json").read_text()
    assert run_main("visualize", run, "--only", "deconvnet", "--maps", "conv2:3", "--out", tmp_path / "own")[0] == 0
    assert {path.stem for path in (tmp_path / "own").glob("*.png")} == {f"deconvnet_{n}" for n in ("conv2", *shown)}
    # The snapshot of the last epoch has the folded weights and biases of its best.pt or last.pt.
    trained = load_trained(run / "last.pt", build_model)
    (weights,) = load_snapshots(trained).values()
    assert {name.rpartition(".")[0] for name in weights} == {f"features.{layer}" for layer in layers}
    assert all(torch.equal(value, trained.model.state_dict()[name]) for name, value in weights.items())


def test_large_network_is_measured_on_some_of_the_test_images(
    run: Path, tmp_path: Path, run_main: Callable, monkeypatch
):
    trained = load_trained(run / "best.pt", build_model)
    of_image = flops_per_image(trained.model, torch.zeros(1, 3, 32, 32))
    monkeypatch.setattr("harness.analyses.base.SEARCH", 12.5 * of_image)
    code, _, err = run_main("visualize", run, "--only", "activations,deconvnet,evolution", "--out", tmp_path / "some")
    assert (code, err) == (0, "")
    some = {*torch.randperm(TESTED, generator=torch.Generator().manual_seed(0))[:12].tolist()}
    for name in ("deconvnet", "evolution"):
        shown = {int(row["test image"]) for row in _rows(tmp_path / "some" / f"{name}.csv")}
        assert shown <= some and len(shown) > 1
        assert "12 random test images" in (tmp_path / "some" / f"{name}.json").read_text()
    assert "12 random test images" in (tmp_path / "some" / "activations.json").read_text()


def test_evolution_of_many_snapshots_is_shown_at_some(run: Path, tmp_path: Path, run_main: Callable, monkeypatch):
    first = torch.load(run / "snapshots" / "epoch-0001.pt", weights_only=True)
    for epoch in range(3, 8):
        torch.save(first | {"epoch": epoch}, run / "snapshots" / f"epoch-{epoch:04}.pt")
    monkeypatch.setattr(evolution, "STAGES", 3)
    code, out, _ = run_main("visualize", run / "best.pt", "--only", "evolution", "--out", tmp_path / "out")
    assert code == 0 and "note: evolution at 3 of the run's 7 snapshots, evenly chosen\n" in out
    assert {int(row["epoch"]) for row in _rows(tmp_path / "out" / "evolution.csv")} == {1, 4, 7}


def test_invariance_is_undisturbed_where_nothing_is_moved(trained_run: Path, drawn: Path):
    model, inputs, images = _whole(trained_run / "best.pt")
    still = {"translation": 0, "scale": 1, "rotation": 0}
    rows = [row for row in _rows(drawn / "invariance.csv") if float(row["amount"]) == still[row["transformation"]]]
    assert len(rows) == 3 * 3  # two images and the mean
    with torch.no_grad():
        probabilities = model(inputs).softmax(dim=1)
    for row in rows:
        assert float(row["first layer"]) == float(row["last hidden layer"]) == 0
        if not row["test image"].startswith("mean"):
            image = int(row["test image"])
            expected = float(probabilities[image, images.test.labels[image]])
            assert float(row["p(true class)"]) == pytest.approx(expected, rel=1e-4)


def test_occlusion_and_correspondence_tables_equal_interpret(trained_run: Path, drawn: Path):
    model, inputs, images = _whole(trained_run / "best.pt")
    rows = _rows(drawn / "occlusion.csv")
    shown = torch.tensor([int(row["test image"]) for row in rows])
    gray = (0.5 - images.mean) / images.std
    places = list(itertools.product(range(25), repeat=2))  # all that a square of 8 pixels can have
    for row, picture, label in zip(rows, inputs[shown], images.test.labels[shown], strict=True):
        hidden = picture.repeat(len(places), 1, 1, 1)
        for each, (top, left) in zip(hidden, places, strict=True):
            each[:, top : top + 8, left : left + 8] = gray
        with torch.no_grad():
            probability = model(hidden).softmax(dim=1)[:, label]
        assert float(row["lowest p"]) == pytest.approx(float(probability.min()), rel=1e-4)
        assert (int(row["top"]), int(row["left"])) == places[int(probability.argmin())]
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    chosen = torch.cat([order[images.test.labels[order] == label][: correspondence.PER_CLASS] for label in range(10)])
    cells = interpret.correspondence.correspondence(
        model, inputs[chosen], images.test.labels[chosen], size=8, stride=4, value=gray, seed=0
    )
    table = [
        (row["part hidden"], row["layer"], float(row["mean"]), float(row["std"]))
        for row in _rows(drawn / "correspondence.csv")
    ]
    assert len(table) == 12
    assert [row[:2] for row in table] == [(cell.part, cell.layer.replace("_", " ")) for cell in cells]
    assert [row[2:] for row in table] == [pytest.approx((cell.mean, cell.std), rel=1e-4) for cell in cells]


def test_depth_table_counts_what_each_layers_probe_gets_right(trained_run: Path, drawn: Path):
    model, _, images = _whole(trained_run / "best.pt")
    drawn_order = torch.Generator().manual_seed(0)
    learned = images.train.part(torch.randperm(200, generator=drawn_order)[:50])
    tested = images.test.part(torch.randperm(TESTED, generator=drawn_order)[:20])
    untrained = build_model({"model": load_trained(trained_run / "best.pt", build_model).description}, seed=0)
    rows = _rows(drawn / "depth.csv")
    assert [row["features after"] for row in rows] == ["images", "conv1", "conv2", "fc1"] * 2
    for network, own in (("trained", rows[:4]), ("untrained", rows[4:])):
        part = {"trained": model, "untrained": untrained}[network]
        features = layer_features(part, images.normalize(learned.images))
        seen = layer_features(part, images.normalize(tested.images))
        for row, name in zip(own, features, strict=True):
            answers = probe(features[name], learned.labels, 10)(seen[name]).argmax(dim=1)
            assert row["network"] == network and int(row["how many"]) == features[name].shape[1]
            accuracy = float((answers == tested.labels).double().mean())
            assert float(row["accuracy"]) == pytest.approx(accuracy, abs=0.051)  # another order of sums may turn one
            assert float(row["low"]) < float(row["accuracy"]) < float(row["high"])


def test_invariance_table_is_that_of_interpret(trained_run: Path, drawn: Path):
    model, inputs, images = _whole(trained_run / "best.pt")
    rows = _rows(drawn / "invariance.csv")
    image = next(int(row["test image"]) for row in rows)
    expected = {
        "translation": range(-9, 10),  # 60 pixels of 224, in the paper, are 8.6 of 32
        "scale": [0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8],
        "rotation": [15 * step for step in range(24)],
    }
    for kind in ("translation", "scale", "rotation"):
        found = [row for row in rows if (row["transformation"], row["test image"]) == (kind, str(image))]
        amounts = [float(row["amount"]) for row in found]
        assert amounts == pytest.approx(expected[kind])
        of_image = slice(image, image + 1)
        fill = (0.5 - images.mean) / images.std
        result = interpret.invariance.invariance(
            model, inputs[of_image], images.test.labels[of_image], kind, amounts, fill=fill
        )
        for name, values in (
            ("first layer", result.first / result.first_norm),
            ("last hidden layer", result.last_hidden / result.last_hidden_norm),
            ("p(true class)", result.probability),
        ):
            assert [float(row[name]) for row in found] == pytest.approx(values[:, 0].tolist(), rel=1e-3, abs=1e-6)


def test_a_network_that_answers_nothing_is_shown_dead(run: Path, tmp_path: Path, run_main: Callable):
    content = torch.load(run / "best.pt", weights_only=True)
    content["model"]["features.conv2.weight"].zero_()
    content["model"]["features.conv2.bias"].fill_(-1)
    torch.save(content, run / "best.pt")
    code, _, err = run_main("visualize", run / "best.pt", "--out", tmp_path / "out", "--images", "1")
    assert (code, err) == (0, "")
    rows = _rows(tmp_path / "out" / "deconvnet.csv")
    assert {float(row["activation"]) for row in rows if row["layer"] == "features.relu2"} == {0}


def test_weights_that_are_not_finite_are_one_sentence(run: Path, run_main: Callable):
    content = torch.load(run / "best.pt", weights_only=True)
    content["model"]["features.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(content, run / "best.pt")
    code, out, err = run_main("visualize", run / "best.pt")
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and "not finite, of a run that diverged" in err and err.count("\n") == 1


def test_snapshots_of_an_epoch_that_diverged_are_left_out(run: Path):
    snapshot = run / "snapshots" / "epoch-0002.pt"
    content = torch.load(snapshot, weights_only=True)
    next(iter(content["weights"].values())).fill_(float("inf"))
    torch.save(content, snapshot)
    assert list(load_snapshots(load_trained(run / "best.pt", build_model))) == [1]


def test_named_maps_are_shown(trained_run: Path, tmp_path: Path, run_main: Callable):
    wanted = ("--only", "deconvnet", "--maps", "63,3", "conv1:31")
    code, _, err = run_main("visualize", trained_run / "best.pt", "--out", tmp_path / "out", *wanted)
    assert (code, err) == (0, "")
    rows = _rows(tmp_path / "out" / "deconvnet.csv")
    assert {(row["layer"], row["map"]) for row in rows} == {
        ("features.relu1", "31"),
        ("features.relu2", "3"),
        ("features.relu2", "63"),
    }


def test_filters_alone_need_no_data_and_leave_other_sections_standing(run: Path, run_main: Callable, monkeypatch):
    code, _, _ = run_main("visualize", run / "best.pt", "--only", "activations")
    monkeypatch.setattr("harness.analyses.base.load_images", None)
    code, _, err = run_main("visualize", run / "best.pt", "--only", "filters", "--per-filter")
    assert (code, err) == (0, "")
    page = (run / "figures" / "index.html").read_text()
    assert re.findall(r'<section id="(\w+)">', page) == ["filters", "activations"]
    (run / "figures" / "activations.png").unlink()
    run_main("visualize", run / "best.pt", "--only", "filters")
    assert re.findall(r'<section id="(\w+)">', (run / "figures" / "index.html").read_text()) == ["filters"]


def test_another_image_size_and_gray(tiny_sets, tmp_path: Path, monkeypatch, run_main: Callable):
    from harness.synthetic import draw_shapes

    monkeypatch.setattr("harness.data.draw_shapes", lambda: draw_shapes(size=20))
    run = _train("cnn_cifar10", tmp_path, "--epochs", "1")
    code, _, err = run_main("visualize", run / "best.pt", "--images", "1")
    assert (code, err) == (0, "")
    assert len(list((run / "figures").glob("*.png"))) == 12  # with the confusion matrix of the training


def test_tensorboard_gets_each_figure_once(run: Path, run_main: Callable):
    (events,) = run.glob("events.out.tfevents.*")
    before = [event.SerializeToString() for event in read_events(events)]
    for _ in range(2):
        code, out, err = run_main("visualize", run / "best.pt", "--only", "filters", "--tensorboard")
        assert (code, err) == (0, "") and "tensorboard --logdir" in out
    after = list(read_events(events))
    assert [event.SerializeToString() for event in after[: len(before)]] == before
    added = after[len(before) :]
    assert [event.summary.value[0].tag for event in added] == ["visualize/filters_conv1", "visualize/filters_conv2"]
    assert all(event.step == load_checkpoint(run / "best.pt")["epoch"] for event in added)
    shown = Image.open(BytesIO(added[0].summary.value[0].image.encoded_image_string))
    assert shown.size == Image.open(run / "figures" / "filters_conv1.png").size


def test_tensorboard_figures_survive_a_resumed_training(run: Path, tmp_path: Path, run_main: Callable):
    runs = tmp_path / "runs"
    shutil.copytree(run, runs / "cnn_synthetic" / "mine")
    run_main("visualize", runs / "cnn_synthetic" / "mine" / "best.pt", "--only", "filters", "--tensorboard")
    flags = ("--data", "synthetic", "--name", "mine", "--runs-dir", runs, "--epochs", "3", "--resume", "--threads", "1")
    code, _, err = run_main("cnn_cifar10", *flags)
    assert code == 0, err
    (events,) = (runs / "cnn_synthetic" / "mine").glob("events.out.tfevents.*")
    tags = [event.summary.value[0].tag for event in read_events(events) if event.summary.value]
    assert tags.count("visualize/filters_conv1") == 1


def test_tensorboard_waits_for_no_training(run: Path, run_main: Callable):
    with lock_folder(run):
        code, _, err = run_main("visualize", run / "best.pt", "--only", "filters", "--tensorboard")
    assert code == 2 and "another process is training in" in err
    assert not drawn_into(run)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("--only", "filter"), "'filter' is none of filters, activations"),
        (("--only", "ocllusion"), "lengths; did you mean occlusion?"),
        (("--only", "gates"), "of a CNN there is filters, activations"),
        (("--maps", "64"), "conv2 has the maps 0 to 63, and no 64"),
        (("--maps", "conv1:32"), "conv1 has the maps 0 to 31, and no 32"),
        (("--maps", "conv1:-1"), "and no -1"),
        (("--maps", "conv3:1"), "there is no convolution conv3"),
        (("--maps", "one"), "not a list of maps"),
        (("--images", "0"), "not a whole number from 1 to 10"),
        (("--data", "mnist"), "cannot find"),
    ],
)
def test_wrong_flag_is_one_sentence(run: Path, run_main: Callable, monkeypatch, argv: tuple, sentence: str):
    def fetch(*_: object) -> None:
        raise UserError("cannot find or download mnist")

    monkeypatch.setattr("harness.data.fetch", fetch)
    code, _, err = run_main("visualize", run / "best.pt", "--data-dir", run / "none", *argv)
    assert code == 2 and sentence in err and err.count("\n") == 1, err
    assert not drawn_into(run)


def test_images_that_do_not_fit_are_refused(run: Path, run_main: Callable, monkeypatch):
    from harness.synthetic import draw_shapes

    monkeypatch.setattr("harness.data.draw_shapes", lambda: draw_shapes(size=20))
    code, _, err = run_main("visualize", run / "best.pt", "--only", "activations")
    assert code == 2 and "choose another --data" in err and not drawn_into(run)


def test_run_folder_stands_for_its_best_checkpoint(run: Path, run_main: Callable):
    code, out, err = run_main("visualize", run, "--only", "filters")
    assert (code, err) == (0, "") and f"{run / 'figures' / 'index.html'} shows them all" in out
    assert read_analyses(run / "figures")["filters"]["checkpoint"] == str(run / "best.pt")


def test_where_no_checkpoint_is_the_command_that_makes_one_is_said(run: Path, in_project: Path, run_main: Callable):
    (run / "best.pt").unlink()
    makes = "python cnn_cifar10.py --data=synthetic --threads=1 --channels=rgb --snapshot-epochs=1,2 --epochs=2"
    for path in (run, run / "best.pt"):
        code, _, err = run_main("visualize", path)
        assert code == 2 and f"there is no {run / 'best.pt'}; python cnn_cifar10.py " in err and err.count("\n") == 1
        assert {*makes.split()} <= {*err.split()}
    code, _, err = run_main("visualize", run.parent)
    assert (code, err) == (2, f"error: {run.parent} is a folder of runs; name one, such as {run}\n")
    code, _, err = run_main("visualize", "runs/cnn_cifar10/adagrad-lr0.01-e20-s0")  # as on a fresh clone
    assert code == 2 and "; python cnn_cifar10.py makes one, " in err


# -- pictures of one's own ---------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A wide one, red in the middle square and blue at both sides, and a tall gray one, turned by its EXIF entry."""
    wide = np.zeros((60, 100, 3), dtype=np.uint8)
    wide[:, :, 2] = 255
    wide[:, 20:80] = (255, 0, 0)
    tall = np.zeros((90, 40), dtype=np.uint8)
    tall[:, 20:] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(tall).save(tmp_path / "tall.jpg", exif=exif, quality=95)
    return [tmp_path / "wide.png", tmp_path / "tall.jpg"]


def test_own_picture_is_prepared_as_the_training_images_were(pictures: list[Path]):
    red = read_picture(pictures[0], "rgb", 32)
    assert red.shape == (3, 32, 32) and red.dtype == torch.uint8
    assert red[:, 4:-4, 4:-4].float().mean(dim=(1, 2)).tolist() == [255, 0, 0]  # the sides are cut off
    gray = read_picture(pictures[0], "gray", 32)
    assert gray.shape == (1, 32, 32) and gray[0, 16, 16] == 76  # luma of red: 0.299 * 255
    turned = read_picture(pictures[1], "gray", 28).float()[0]
    assert turned[:, :10].mean() > 250 and turned[:, -10:].mean() < 5


def test_own_pictures_get_their_most_probable_classes_and_three_analyses(run, pictures, run_main, monkeypatch):
    titles = []
    monkeypatch.setattr("harness.analyses.invariance.draw", lambda *given: titles.append(given) or DRAWING)
    code, out, err = run_main("visualize", run, "--image", *pictures)
    assert (code, err) == (0, "")
    model, _, images = _whole(run / "best.pt")
    inputs = images.normalize(torch.stack([read_picture(each, "rgb", 32) for each in pictures]))
    with torch.no_grad():
        shares = model(inputs.contiguous(memory_format=torch.channels_last)).softmax(dim=1)
    lines = []
    for name, row in zip(("wide.png", "tall.jpg"), shares, strict=True):
        lines += [name, *(f"  {images.classes[i]:16} {row[i]:.3f}" for i in row.argsort(descending=True)[:5].tolist())]
    assert "\n".join(lines) in out
    folder = run / "figures" / "own"
    records = read_analyses(folder)
    assert list(records) == ["deconvnet", "invariance", "occlusion"] and drawn_into(run) == [folder]
    for record in records.values():  # so that the report shows none of them
        assert record["dataset"]["name"] == "your own" and "images of your own" in record["figures"][0]["title"]
    answers = [images.classes[index] for index in shares.argmax(dim=1).tolist()]
    occluded = _rows(folder / "occlusion.csv")
    assert [(row["picture"], row["class"]) for row in occluded] == [
        *zip(("wide.png", "tall.jpg"), answers, strict=True)
    ]
    assert [float(row["p as it is"]) for row in occluded] == pytest.approx(shares.amax(dim=1).tolist(), rel=1e-4)
    with torch.no_grad():
        peaks = torch.relu(model.features.conv1(inputs)).amax(dim=(2, 3))  # (2, maps)
    found = [row for row in _rows(folder / "deconvnet.csv") if row["layer"] == "features.relu1"]
    for index, name in enumerate(("wide.png", "tall.jpg")):
        own = [float(row["activation"]) for row in found if row["picture"] == name]
        assert own == pytest.approx(peaks[index].sort(descending=True).values[:9].tolist(), abs=1e-5)
    assert {row["picture"] for row in _rows(folder / "invariance.csv")} == {"wide.png", "tall.jpg"}
    (_, _, captions, asked, _) = titles[0]
    assert captions == [f"{n}: {a}" for n, a in zip(("wide.png", "tall.jpg"), answers, strict=True)]
    assert asked == "p(first answer)"


def test_own_pictures_that_cannot_be_shown_are_one_sentence(run: Path, pictures: list[Path], run_main: Callable):
    (run / "text.png").write_text("no picture")
    (run / "cut.png").write_bytes(pictures[0].read_bytes()[:60])
    for given, sentence in (
        ([run / "text.png"], "text.png is no picture that can be read"),
        ([pictures[0], run / "cut.png"], "cut.png is no picture that can be read"),
        ([run / "none.png"], "cannot read"),
        (
            [pictures[0], "--only", "filters"],
            "there is deconvnet, invariance, occlusion to show, and not filters",
        ),
        ([pictures[0]] * 11, "10 pictures at a time"),
    ):
        code, _, err = run_main("visualize", run, "--image", *given)
        assert code == 2 and sentence in err and err.count("\n") == 1, err
    assert not (run / "figures" / "own").exists()


# -- the confusion matrix that a training leaves -----------------------------------------------------------------------


def test_training_ends_with_its_confusion_matrix_and_a_resume_makes_it_good(run: Path, tmp_path: Path, run_main):
    shutil.copytree(run, tmp_path / "runs" / "cnn_synthetic" / "mine")
    run = tmp_path / "runs" / "cnn_synthetic" / "mine"
    table, picture = run / "figures" / "confusion.csv", run / "figures" / "confusion.png"
    first = table.read_bytes()
    rows = _rows(table)
    counts = np.array([[int(row[name]) for row in rows] for name in [each["true class"] for each in rows]]).T
    accuracy = [float(row["accuracy"]) for row in rows]
    assert counts.sum() == TESTED and accuracy == pytest.approx(counts.diagonal() / counts.sum(axis=1), abs=1e-6)
    assert counts.trace() / TESTED == pytest.approx(float(_rows(run / "metrics.csv")[-1]["test/accuracy"]), abs=1e-6)
    (events,) = run.glob("events.out.tfevents.*")
    shown = [
        event for event in read_events(events) if event.summary.value and "confusion" in event.summary.value[0].tag
    ]
    assert [event.summary.value[0].image.encoded_image_string for event in shown] == [picture.read_bytes()]
    table.unlink()
    flags = ("--data", "synthetic", "--name", "mine", "--runs-dir", tmp_path / "runs", "--threads", "1", "--resume")
    assert run_main("cnn_cifar10", *flags)[0] == 0
    assert table.read_bytes() == first


def test_what_is_no_checkpoint_is_refused(run: Path, run_main: Callable):
    (run / "text.pt").write_text("no checkpoint")
    content = (run / "best.pt").read_bytes()
    (run / "cut.pt").write_bytes(content[: len(content) // 2])
    for name in ("text.pt", "cut.pt", "missing.pt", "config.json", "snapshots/epoch-0001.pt"):
        code, _, err = run_main("visualize", run / name)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, (name, err)
    assert not drawn_into(run)


def test_run_without_snapshots(run: Path, run_main: Callable, monkeypatch):
    shutil.rmtree(run / "snapshots")
    code, _, err = run_main("visualize", run / "best.pt", "--only", "evolution")
    assert code == 2 and "no snapshots" in err and not drawn_into(run)
    monkeypatch.setattr("harness.analyses.OF_CNN", ("filters", "evolution"))
    code, out, err = run_main("visualize", run / "best.pt", "--images", "1")
    assert (code, err) == (0, "") and "note: evolution left out" in out
    assert not list((run / "figures").glob("evolution*"))


def test_damaged_and_foreign_snapshots_are_refused(run: Path, run_main: Callable):
    path = run / "snapshots" / "epoch-0002.pt"
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    code, _, err = run_main("visualize", run / "best.pt", "--only", "evolution")
    assert code == 2 and "epoch-0002.pt" in err and err.count("\n") == 1
    name = "features.conv1.weight"
    for change in (
        {"weights": {name: torch.zeros(32, 1, 5, 5)}},
        {"weights": {"another.weight": torch.zeros(1)}},
        {"weights": {name: 1.0}},
        {"weights": {}},
        {"weights": [1.0]},
        {"epoch": "2"},
    ):
        torch.save(torch.load(BytesIO(content), weights_only=True) | change, path)
        code, _, err = run_main("visualize", run / "best.pt", "--only", "evolution")
        assert code == 2 and "epoch-0002.pt is no snapshot of the network" in err
    assert not drawn_into(run)


def test_unwritable_folder_is_found_before_anything_is_computed(run: Path, run_main: Callable, monkeypatch):
    (run / "file").write_text("")
    code, _, err = run_main("visualize", run / "best.pt", "--only", "filters", "--out", run / "file" / "figures")
    assert code == 2 and "cannot make the folder" in err and err.count("\n") == 1

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("harness.files.tempfile.TemporaryFile", refuse)
    code, out, err = run_main("visualize", run / "best.pt", "--only", "filters")
    assert code == 2 and "Read-only file system" in err and out == ""


def test_page_of_somebody_else_is_not_replaced(run: Path, run_main: Callable):
    (run / "index.html").write_text("<title>mine</title>")
    code, out, err = run_main("visualize", run / "best.pt", "--only", "filters", "--out", run)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert f"{run / 'index.html'} was not written by visualize.py and would be replaced; choose another --out" in err
    assert (run / "index.html").read_text() == "<title>mine</title>" and not (run / "filters.json").exists()
    (run / "index.html").unlink()
    for _ in range(2):  # our own is
        assert run_main("visualize", run / "best.pt", "--only", "filters", "--out", run)[0] == 0


def test_an_analysis_is_drawn_without_a_users_matplotlibrc(trained_run: Path, tmp_path: Path, monkeypatch):
    """It may ask for LaTeX, which may not be there."""
    asked = []

    def analyze(_: object) -> Findings:
        asked.append(matplotlib.rcParams["text.usetex"])
        return Findings("", "", [], [])

    monkeypatch.setattr("harness.analyses.filters.analyze", analyze)
    with matplotlib.rc_context({"text.usetex": True}):
        draw_analyses(trained_run / "best.pt", build_model, names=["filters"], out=tmp_path / "out")
    assert asked == [False]


def test_help_imports_nothing_heavy():
    import subprocess
    import sys

    from conftest import PROJECT

    program = (
        "import sys, visualize\ntry: visualize.main(['--help'])\n"
        "except SystemExit: assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True, capture_output=True, timeout=20)


DRAWING = Drawing(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8), b"<svg/>")
OF_MNIST = {"name": "mnist", "checksum": "5"}


def test_page_escapes_what_it_is_given(tmp_path: Path):
    table = Table("t", "a <b> title", ("name", "value"), [("<i>", 0.25), ("a|b", None)])
    findings = Findings("<h>", "1 < 2", [Picture("filters_p", DRAWING, 'a "quoted" picture')], [table])
    write_findings(tmp_path, "filters", findings, {"epoch": 1, "dataset": OF_MNIST, "command": "<c>"})
    write_page(tmp_path, read_analyses(tmp_path).values(), "<t>")
    page = (tmp_path / "index.html").read_text()
    for raw in ("<b>", "<i>", "<t>", "<h><", "<c>", '"quoted"'):
        assert raw not in page
    assert "1 &lt; 2" in page and ">0.2500</td>" in page
    assert '<td class="text" data-head="name">a|b</td><td data-head="value"></td>' in page
    assert (tmp_path / "t.md").read_text().splitlines()[2:] == [
        "| name | value |",
        "| --- | ---: |",
        "| <i> | 0.2500 |",
        "| a\\|b |  |",
    ]
    assert (tmp_path / "t.csv").read_text() == "name,value\n<i>,0.25\na|b,\n"


def test_records_say_what_they_are_of_and_what_there_is_to_see(trained_run: Path, drawn: Path):
    records = read_analyses(drawn)
    assert list(records) == list(DRAWN)
    content = load_checkpoint(trained_run / "best.pt")
    for name, record in records.items():
        assert record["epoch"] == content["epoch"] and record["checkpoint"] == str(trained_run / "best.pt")
        assert record["dataset"] == record["trained_on"] == content["config"]["dataset"]
        assert record["command"].startswith("python visualize.py ") and record["command"].endswith(" --images 2")
        for figure in record["figures"]:
            width, height = Image.open(drawn / figure["file"]).size
            assert (figure["width"], figure["height"]) == (width // 2, height // 2)  # sharp where pixels are dense
            assert figure["file"].startswith(name) and "synthetic" in figure["title"]
        for table in record["tables"]:
            written = list(csv.reader((drawn / table["file"]).read_text().splitlines()))
            assert written[0] == table["header"]
            assert written[1:] == [["" if value is None else str(value) for value in row] for row in table["rows"]]


def test_report_draws_into_the_runs_folder_and_the_record_has_a_command_that_does_the_same(run: Path, capsys):
    pictures = draw_analyses(run / "best.pt", build_model, names=["filters"], data_dir=Path("nowhere"))
    assert [picture.name for picture in pictures] == ["filters_conv1", "filters_conv2"]
    record = read_analyses(run / "figures")["filters"]
    assert record["command"] == f"python visualize.py {run / 'best.pt'} --only filters"
    assert capsys.readouterr().out.startswith("filters ")


def test_of_other_images_the_record_says_both_sets(run: Path, run_main: Callable, monkeypatch):
    from harness.synthetic import draw_shapes

    monkeypatch.setattr("harness.data.draw_shapes", lambda: draw_shapes(seed=1))
    code, out, err = run_main("visualize", run / "best.pt", "--only", "activations")
    assert (code, err) == (0, "") and "is not the very set that" in out
    record = read_analyses(run / "figures")["activations"]
    assert record["dataset"]["name"] == record["trained_on"]["name"] == "synthetic-shapes"
    assert record["dataset"]["checksum"] != record["trained_on"]["checksum"]


def one_record(folder: Path) -> dict:
    table = Table("filters", "title", ("map", "norm"), [(0, float("nan")), (1, 2.0)])
    findings = Findings("Filters", "text", [Picture("filters_conv1", DRAWING, "title")], [table])
    write_findings(folder, "filters", findings, {"epoch": 3, "dataset": OF_MNIST})
    return read_analyses(folder)["filters"]


def test_record_is_strict_json(tmp_path: Path):
    one_record(tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    record = json.loads((tmp_path / "filters.json").read_text(), parse_constant=refuse)
    assert record["tables"][0]["rows"] == [[0, None], [1, 2.0]]


@pytest.mark.parametrize("file", ["filters.json", "filters.csv", "filters_conv1.png", "filters_conv1.svg"])
def test_analysis_without_one_of_its_files_is_passed_over(tmp_path: Path, file: str):
    one_record(tmp_path)
    (tmp_path / file).unlink()
    assert read_analyses(tmp_path) == {}


def test_analysis_with_a_cut_picture_is_passed_over(tmp_path: Path):
    one_record(tmp_path)
    picture = tmp_path / "filters_conv1.png"
    picture.write_bytes(picture.read_bytes()[:-200])
    assert read_analyses(tmp_path) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "3"},
        {"dataset": None},
        {"figures": [1]},
        {"figures": {"file": "filters_conv1.png"}},
        {"figures": [{"file": "../secret.png"}]},
        {"tables": [{"file": "filters.csv", "header": ["a"], "rows": [[1, 2]]}]},
        {"tables": [{"file": ["filters.csv"], "header": [], "rows": []}]},
    ],
)
def test_foreign_record_is_passed_over(tmp_path: Path, change: dict):
    folder = tmp_path / "figures"
    folder.mkdir()
    record = one_record(folder)
    shutil.copy(folder / "filters_conv1.png", tmp_path / "secret.png")
    (folder / "filters.json").write_text(json.dumps(record | change))
    assert read_analyses(folder) == {}
    for text in ("", "[]", "no JSON", "[" * 100_000, "\xff"):
        (folder / "filters.json").write_bytes(text.encode("latin-1"))
        assert read_analyses(folder) == {}
    if hasattr(os, "mkfifo"):
        (folder / "filters.json").unlink()
        os.mkfifo(folder / "filters.json")  # from which nothing ever comes
        assert read_analyses(folder) == {}


def test_a_kill_among_the_new_files_leaves_no_record_of_the_old_ones(tmp_path: Path, monkeypatch):
    one_record(tmp_path)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.analyses.findings.write_atomically", kill)
    with pytest.raises(KeyboardInterrupt):
        one_record(tmp_path)
    assert read_analyses(tmp_path) == {}


def test_interruption_names_the_analysis_and_keeps_what_was_finished(run: Path, run_main: Callable, monkeypatch):
    from harness.errors import Interrupted

    def interrupt(subject: object) -> None:
        raise Interrupted(2)

    monkeypatch.setattr(deconvnet, "analyze", interrupt)
    with pytest.raises(Interrupted) as caught:
        visualize.main([str(run / "best.pt"), "--only", "filters,deconvnet"])
    assert caught.value.message == f"interrupted during deconvnet; what was finished before is in {run / 'figures'}"
    assert list(read_analyses(run / "figures")) == ["filters"]
