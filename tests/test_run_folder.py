"""The run folder from outside: what a run leaves, who may enter, and what --resume, --overwrite and --name do."""

import csv
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import assert_same_run, logged_values, make_runs_small, metrics_of, same_bits

import harness.train
import rnn_mnist
from harness.analyses.findings import Findings, Picture, Table, write_findings, write_page
from harness.checkpoint import check_training_state, load_checkpoint
from harness.errors import Interrupted, UserError
from harness.files import lock_folder, write_atomically
from harness.flags import parse_flags
from harness.metrics import METRICS_HEADER, EpochMetrics, best_epoch, best_values, is_metrics, metrics_csv, read_metrics
from harness.pictures import Drawing
from harness.ranks import ALONE, Ranks
from harness.run import RunFolder, _git_commit
from harness.tensorboard import read_events

TINY = ("--data", "synthetic", "--hidden-size", "8", "--batch-size", "16")
RUN = Path("runs/rnn_synthetic/run")


@pytest.fixture(autouse=True)
def small_runs(monkeypatch, in_project):
    make_runs_small(monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug


def config_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


@pytest.fixture
def rnn(run_main):
    """Run rnn_mnist in runs/…/run: rnn("--epochs", 2) -> (exit code, stdout, stderr)."""
    return lambda *flags: run_main("rnn_mnist", *TINY, "--name", "run", *flags)


def test_a_run_leaves_what_the_contract_says(rnn):
    assert rnn("--epochs", 2, "--seed", 7)[0] == 0
    names = {file.name for file in RUN.iterdir()}
    (events,) = (name for name in names if name.startswith("events.out.tfevents."))
    assert names == {".lock", "config.json", "metrics.csv", "best.pt", "last.pt", "figures", events}
    assert {file.name for file in (RUN / "figures").iterdir()} == {"confusion.csv", "confusion.png"}
    with (RUN / "metrics.csv").open(newline="") as file:
        assert file.readline() == "epoch,train/loss,train/accuracy,test/loss,test/accuracy,seconds\n"
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(0 <= float(row[i]) <= 1 for row in rows for i in (2, 4))
    config = config_of(RUN)
    assert config["status"] == "complete"
    assert config["flags"]["seed"] == 7
    assert config["flags"]["hidden_size"] == 8
    assert config["threads"] == torch.get_num_threads()
    assert config["torch"] == torch.__version__
    assert config["wall_seconds"] >= sum(float(row[5]) for row in rows)


def test_best_checkpoint_is_the_model_of_the_best_test_accuracy_with_its_config(rnn):
    assert rnn("--epochs", 5, "--lr", 0.05)[0] == 0
    accuracies = [float(row[4]) for row in metrics_of(RUN)[1:]]
    best = load_checkpoint(RUN / "best.pt")
    assert best["epoch"] == 1 + accuracies.index(max(accuracies))
    assert best["metrics"]["test_accuracy"] == max(accuracies)

    from harness.data import load_images
    from harness.evaluate import evaluate
    from models import build_model

    model = build_model(best["config"])
    model.load_state_dict(best["model"])
    images = load_images("synthetic-digits", data_dir=Path("data"))
    assert evaluate(model, images, "fp32")[1] == max(accuracies)


def test_with_images_held_out_the_best_model_is_that_of_the_best_validation_accuracy(rnn):
    code, out, _ = rnn("--epochs", 5, "--lr", 0.05, "--validation", 20, "--seed", 3)
    assert code == 0 and "(20 train, 20 validation and 20 test images)" in out
    header, *rows = csv.reader((RUN / "metrics.csv").read_text().splitlines())
    assert ",".join(header) == f"{','.join(METRICS_HEADER)},validation/loss,validation/accuracy"
    accuracies = [float(row[7]) for row in rows]
    best = load_checkpoint(RUN / "best.pt")
    assert best["epoch"] == 1 + accuracies.index(max(accuracies))
    assert best["metrics"]["validation_accuracy"] == max(accuracies)
    test_accuracy = best["metrics"]["test_accuracy"]
    assert (
        f"best.pt is epoch {best['epoch']}, chosen by validation accuracy; its test accuracy is {test_accuracy:.4f}\n"
        in out
    )
    assert config_of(RUN)["flags"]["validation"] == 20

    from harness.data import hold_out, load_images
    from harness.evaluate import evaluate
    from models import build_model

    model = build_model(best["config"])
    model.load_state_dict(best["model"])
    images = hold_out(load_images("synthetic-digits", data_dir=Path("data")), 20, seed=3)
    assert evaluate(model, replace(images, test=images.validation), "fp32")[1] == max(accuracies)


def test_averaged_weights_and_augmented_tests_are_measured_beside_the_plain_ones_and_kept(rnn):
    flags = ("--epochs", 3, "--average-weights", 0.9, "--test-time-augmentation")
    code, out, _ = rnn(*flags, "--validation", 20, "--seed", 3, "--lr", 0.05)
    assert code == 0
    history = read_metrics(RUN / "metrics.csv")
    first, last = history[0].measured, history[-1].measured
    only_last = {f"{split}{weights}tta_accuracy" for split in ("", "validation_") for weights in ("", "average_")}
    assert last.keys() - first.keys() == only_last
    assert {"average_loss", "average_accuracy", "validation_average_loss", "validation_average_accuracy"} < first.keys()
    lines = {line[:26].strip(): line[26:].split() for line in out.splitlines() if line[:26].strip()}
    assert lines["Test, average"][3] == f"{last['average_accuracy']:.4f}"
    assert lines["Validation, average, tta"] == 2 * [f"{last['validation_average_tta_accuracy']:.4f}"]

    from harness.data import hold_out, load_images
    from harness.evaluate import evaluate
    from models import build_model

    checkpoint = load_checkpoint(RUN / "last.pt")
    model = build_model(checkpoint["config"])
    model.load_state_dict(checkpoint["average"])
    images = hold_out(load_images("synthetic-digits", data_dir=Path("data")), 20, seed=3)
    assert evaluate(model, images, "fp32") == (last["average_loss"], last["average_accuracy"])
    held_out = replace(images, test=images.validation)
    assert evaluate(model, held_out, "fp32", augmented=True)[1] == last["validation_average_tta_accuracy"]
    best = load_checkpoint(RUN / "best.pt")
    assert best["average"].keys() == best["model"].keys()
    plain = rnn("--epochs", 3, "--validation", 20, "--seed", 3, "--lr", 0.05, "--overwrite")
    assert plain[0] == 0 and [row[:5] for row in read_metrics(RUN / "metrics.csv")] == [row[:5] for row in history]


def test_validation_accuracy_decides_before_test_accuracy():
    rows = [EpochMetrics(epoch, 0.5, 0.5, 0.5, 0.1 * epoch, 1.0) for epoch in (1, 2, 3)]
    assert best_epoch(rows).epoch == 3
    held = [
        row._replace(validation_loss=1.0, validation_accuracy=value)
        for row, value in zip(rows, (0.3, 0.4, 0.4), strict=True)
    ]
    assert best_epoch(held).epoch == 2


def test_more_held_out_images_than_there_are_is_one_sentence_and_leaves_no_folder(rnn):
    code, _, err = rnn("--validation", 40)
    assert (code, err) == (2, "error: --validation 40 leaves none of the 40 training images to train on\n")
    assert not RUN.exists()


def test_existing_run_is_not_touched_without_being_asked(rnn):
    assert rnn("--epochs", 1)[0] == 0
    before = {file.name: file.read_bytes() for file in RUN.rglob("*.*") if file.is_file()}
    code, _, err = rnn("--epochs", 1)
    assert code == 2
    assert all(way in err for way in ("--resume", "--overwrite", "--name"))
    assert {file.name: file.read_bytes() for file in RUN.rglob("*.*") if file.is_file()} == before


def test_overwrite_starts_anew_and_deletes_only_what_a_run_consists_of(rnn):
    assert rnn("--epochs", 2)[0] == 0
    picture = Picture("filters_conv1", Drawing(np.zeros((2, 2, 3), dtype=np.uint8), b"<svg/>"), "title")
    findings = Findings("", "", [picture], [Table("filters", "", ("a",), [(1,)])])
    (RUN / "figures" / "own").mkdir()  # of a person's own pictures
    for folder in (RUN / "figures", RUN / "figures" / "own"):
        write_findings(folder, "filters", findings, {})
    write_page(RUN / "figures", [], "Inside GRU: drawn digits")
    write_first_rows(RUN / "figures")
    (RUN / "snapshots").mkdir()
    (RUN / "snapshots" / "epoch-0001.pt").write_bytes(b"")
    ours = [*RUN.glob("*"), *RUN.glob("figures/**/*.*"), *RUN.glob("snapshots/*")]
    own_pages = ("figures/filters.json", "figures/index.html")  # of these names ours are known by what is in them
    mine = ["notes.txt", "figures/notes.json", "figures/my.png", "snapshots/kept.pt", ".notes.tmp", "other.csv"]
    for name in mine:
        (RUN / name).write_text("mine")
    assert rnn("--epochs", 1, "--lr", 0.5, "--overwrite")[0] == 0
    assert len(metrics_of(RUN)) == 2
    assert config_of(RUN)["flags"]["lr"] == 0.5
    left = {path for path in RUN.rglob("*") if path.is_file()}
    assert {RUN / name for name in mine} <= left
    again = {RUN / "figures" / "confusion.csv", RUN / "figures" / "confusion.png"}  # of the new run
    assert {path for path in ours if path.parent != RUN} & left == again
    for name in own_pages:
        (RUN / name).write_text("mine")
    assert rnn("--epochs", 1, "--overwrite")[0] == 0
    assert all((RUN / name).read_text() == "mine" for name in (*mine, *own_pages))


def write_first_rows(folder: Path) -> None:
    (folder / "first_rows.csv").write_text("rows,accuracy,loss\n")


def test_temporary_file_of_the_users_stays_and_one_of_a_broken_off_write_goes(rnn):
    assert rnn("--epochs", 1)[0] == 0
    for name in (".mine.tmp", ".last.pt.0123abcd.tmp", ".config.json.0123abcd.tmp", ".mine.0123abcd.tmp"):
        (RUN / name).write_text("")
    assert rnn("--resume")[0] == 0
    assert {path.name for path in RUN.glob(".*.tmp")} == {".mine.tmp", ".mine.0123abcd.tmp"}


def test_fault_at_any_deletion_of_an_overwrite_leaves_what_resume_goes_on_from(rnn, monkeypatch):
    """With the former run, as long as its last.pt is there, else from epoch 1."""
    real = Path.unlink
    for number in range(20):
        assert rnn("--epochs", 1, "--overwrite")[0] == 0
        left = [number]

        def fail(path, missing_ok=False, left=left):
            left[0] -= path.suffix != ".tmp"  # those are what write_atomically tidies away
            if left[0] < 0:
                raise OSError(5, "Input/output error")
            real(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", fail)
            code, _, err = rnn("--epochs", 1, "--overwrite")
        if code == 0:
            break
        assert code == 2 and err.startswith("error: cannot delete ") and err.count("\n") == 1
        assert rnn("--epochs", 1, "--resume")[0] == 0
        assert config_of(RUN)["status"] == "complete" and len(metrics_of(RUN)) == 2
        assert max(Counter(logged_values(RUN)).values()) == 1
    assert number == 6  # last.pt, best.pt, metrics.csv, the confusion matrix (two files) and the events


def test_overwrite_deletes_nothing_before_the_new_run_can_begin(rnn):
    assert rnn("--epochs", 1)[0] == 0
    before = (RUN / "last.pt").read_bytes()
    assert rnn("--epochs", 1, "--overwrite", "--hidden-size", 10**9)[0] == 2
    assert (RUN / "last.pt").read_bytes() == before


def test_resume_of_nothing_starts_at_epoch_1(rnn):
    code, out, _ = rnn("--epochs", 1, "--resume")
    assert code == 0
    assert "holds no run yet: starting at epoch 1" in out
    assert len(metrics_of(RUN)) == 2


def test_resume_of_a_run_without_a_checkpoint_says_that_it_starts_at_epoch_1(rnn, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("harness.train.train_epoch", _after(0, RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            rnn("--epochs", 1)
    code, out, _ = rnn("--epochs", 1, "--resume")
    assert code == 0 and "has no last.pt, no finished epoch to continue from: starting at epoch 1\n" in out
    assert len(metrics_of(RUN)) == 2


@pytest.mark.parametrize("name", ["best.pt", "metrics.csv", "snapshots/epoch-best.pt"])
def test_resume_deletes_nothing_where_no_run_can_be_told(rnn, name):
    """Somebody's own file of such a name, or what is left of a run whose last.pt and config.json are lost."""
    (RUN / name).parent.mkdir(parents=True)
    (RUN / name).write_text("precious")
    code, _, err = rnn("--epochs", 1, "--resume")
    assert code == 2 and "neither last.pt nor config.json" in err and err.count("\n") == 1
    assert (RUN / name).read_text() == "precious"
    assert rnn("--epochs", 1, "--overwrite")[0] == 0


def test_overwrite_is_not_disturbed_by_what_only_looks_like_a_record(rnn):
    (RUN / "figures" / "x.json").mkdir(parents=True)
    (RUN / "figures" / ".#a.json").symlink_to("nowhere")
    assert rnn("--epochs", 1, "--overwrite")[0] == 0
    assert (RUN / "figures" / "x.json").is_dir()


def test_resume_of_a_complete_run_trains_nothing_and_more_epochs_train_on(rnn):
    assert rnn("--epochs", 2)[0] == 0
    before = (RUN / "last.pt").read_bytes()
    code, out, _ = rnn("--resume")
    assert code == 0
    assert "is complete" in out
    assert (RUN / "last.pt").read_bytes() == before
    seconds = config_of(RUN)["wall_seconds"]
    assert rnn("--epochs", 3, "--resume")[0] == 0
    assert [row[0] for row in metrics_of(RUN)] == ["epoch", "1", "2", "3"]
    assert config_of(RUN)["flags"]["epochs"] == 3
    assert config_of(RUN)["wall_seconds"] > 0.5 * seconds  # it goes on counting from the checkpoint's
    checkpoint = load_checkpoint(RUN / "last.pt")
    assert sum(row[5] for row in checkpoint["history"]) <= checkpoint["config"]["wall_seconds"]


def test_resumed_run_takes_the_recorded_flags_that_were_not_typed(rnn, run_main):
    assert rnn("--epochs", 1, "--lr", 0.5, "--cell", "lstm")[0] == 0
    assert run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume", "--epochs", 2)[0] == 0
    flags = config_of(RUN)["flags"]
    assert (flags["lr"], flags["cell"], flags["hidden_size"], flags["epochs"]) == (0.5, "lstm", 8, 2)


@pytest.mark.parametrize(
    "flag, value", [("--lr", "0.5"), ("--seed", "1"), ("--cell", "rnn"), ("--precision", "bf16"), ("--epochs", "1")]
)
def test_resume_refuses_another_value_and_names_the_flag(rnn, flag, value):
    assert rnn("--epochs", 2)[0] == 0
    before = (RUN / "config.json").read_bytes()
    code, _, err = rnn("--resume", flag, value)
    assert code == 2
    assert f"{flag} {value}" in err
    assert (RUN / "config.json").read_bytes() == before


def test_other_number_of_threads_is_allowed_and_said(rnn, monkeypatch):
    chosen = [1]  # the number alone matters here; threads that share one core make a test slow
    monkeypatch.setattr("torch.set_num_threads", chosen.append)
    monkeypatch.setattr("torch.get_num_threads", lambda: chosen[-1])
    assert rnn("--epochs", 1, "--threads", 1)[0] == 0
    code, out, _ = rnn("--epochs", 2, "--resume", "--threads", 2)
    assert code == 0
    assert "threads 2 instead of the recorded 1; bits may differ" in out
    _, out, _ = rnn("--epochs", 3, "--resume")
    assert config_of(RUN)["threads"] == 2  # the recorded number by default
    assert "instead of" not in out
    line = (*TINY, "--name", "run", "--epochs", "4", "--resume")
    for ranks, typed, threads in ((ALONE, (), 2), (Ranks(0, 2), (), None), (Ranks(0, 2), ("--threads", "3"), 3)):
        flags = parse_flags(rnn_mnist.make_parser(), [*line, *typed])
        resumed = RunFolder(RUN, "rnn_synthetic", flags, ranks)
        resumed.load()
        assert resumed.flags.threads == threads  # two ranks do not take all the cores each


def test_more_threads_than_cores_are_warned_of(rnn, monkeypatch):
    monkeypatch.setattr("harness.device.cores", lambda: 1)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    for threads, warning in ((1, ""), (2, "warning: 2 threads slow one another down; CPU cores: 1\n")):
        assert rnn("--epochs", 1, "--overwrite", "--threads", threads)[::2] == (0, warning)


@pytest.mark.parametrize(("threads", "ranks", "warned"), [(1, 2, False), (2, 2, True), (1, 4, False), (4, 1, False)])
def test_the_threads_of_all_ranks_share_the_cores(rnn, threads, ranks, warned, monkeypatch):
    monkeypatch.setattr("harness.device.cores", lambda: 4 if ranks == 1 else 2)
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)
    monkeypatch.setattr("harness.run.join", lambda: Ranks(local_count=ranks))
    warning = f"warning: {threads} threads of each of {ranks} ranks slow one another down; CPU cores: 2\n"
    assert rnn("--epochs", 1, "--threads", threads)[::2] == (0, warning if warned else "")


def test_more_epochs_asked_for_on_a_resume_are_remembered_when_it_dies_at_once(rnn, monkeypatch):
    assert rnn("--epochs", 1)[0] == 0

    class Killed(BaseException):
        pass

    def die(*arguments):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("harness.train.train_epoch", die)
        with pytest.raises(Killed):
            rnn("--epochs", 3, "--resume")
    assert config_of(RUN)["status"] == "running"
    assert rnn("--resume")[0] == 0
    assert len(metrics_of(RUN)) == 4


def test_checkpoint_is_the_truth_beside_a_lost_or_damaged_config_and_metrics(rnn):
    assert rnn("--epochs", 2)[0] == 0
    rows = metrics_of(RUN)
    for damage in (lambda file: file.unlink(), lambda file: file.write_text("{")):
        for name in ("config.json", "metrics.csv"):
            damage(RUN / name)
        assert rnn("--resume")[0] == 0
        assert config_of(RUN)["status"] == "complete"
        assert metrics_of(RUN) == rows


def test_resume_of_a_complete_run_writes_again_what_is_missing_or_damaged(rnn):
    assert rnn("--epochs", 1)[0] == 0
    config, rows, values = config_of(RUN), metrics_of(RUN), logged_values(RUN)
    best = load_checkpoint(RUN / "best.pt")
    damages = (
        Path.unlink,
        lambda file: os.truncate(file, 60),
        lambda file: os.truncate(file, file.stat().st_size - 10),
    )
    for damage in damages:
        for name in ("metrics.csv", "events.out.tfevents.*", "best.pt", "config.json"):
            (file,) = RUN.glob(name)  # a new events file has another second in its name
            damage(file)
            code, out, _ = rnn("--resume")
            assert code == 0 and "is complete" in out
            assert metrics_of(RUN) == rows and logged_values(RUN) == values
            assert config_of(RUN) | {"wall_seconds": 0} == config | {"wall_seconds": 0}
            assert same_bits(load_checkpoint(RUN / "best.pt") | {"config": None}, best | {"config": None})
    before = {file.name: file.read_bytes() for file in RUN.rglob("*.*") if file.is_file()}
    assert rnn("--resume")[0] == 0
    assert {file.name: file.read_bytes() for file in RUN.rglob("*.*") if file.is_file()} == before


def test_run_that_was_interrupted_while_its_files_were_written_again_is_mended_by_the_next_resume(rnn, monkeypatch):
    assert rnn("--epochs", 1)[0] == 0
    values = logged_values(RUN)
    (events,) = RUN.glob("events.out.tfevents.*")
    events.unlink()
    for error, code in ((UserError("full"), 2), (MemoryError(), 2)):
        with monkeypatch.context() as patch:
            patch.setattr("harness.publish.predict", _after(0, error))
            assert rnn("--resume")[0] == code
        assert config_of(RUN)["status"] == "interrupted"
    assert rnn("--resume")[0] == 0
    assert logged_values(RUN) == values and config_of(RUN)["status"] == "complete"


@pytest.mark.parametrize("lost", ["best.pt", "snapshots/epoch-0002.pt"])
def test_resume_writes_what_a_kill_after_last_pt_left_out(run_main, monkeypatch, lost):
    accuracies = iter((0.4, 0.5))
    monkeypatch.setattr("harness.evaluate.evaluate", lambda *_: (1.0, next(accuracies)))
    cnn = ("--data", "synthetic", "--name", "run", "--epochs", 2)
    run = Path("runs/cnn_synthetic/run")
    assert run_main("cnn_cifar10", *cnn)[0] == 0
    before = (run / lost).read_bytes()
    (run / lost).unlink()
    code, out, _ = run_main("cnn_cifar10", *cnn, "--resume")
    assert code == 0 and "lost" not in out
    assert same_bits(load_checkpoint(run / lost), torch.load(io.BytesIO(before), weights_only=True))


def test_old_checkpoint_without_the_times_of_its_epochs_is_continued(rnn):
    assert rnn("--epochs", 1)[0] == 0
    checkpoint = torch.load(RUN / "last.pt", weights_only=True)
    for times in (None, [], [1, "x"], ["now"]):
        torch.save(checkpoint | {"wall_times": times}, RUN / "last.pt")
        (events,) = RUN.glob("events.out.tfevents.*")
        events.unlink()
        before = time.time()
        assert rnn("--epochs", 2, "--resume")[0] == 0
        (events,) = RUN.glob("events.out.tfevents.*")
        assert all(before <= event.wall_time <= time.time() for event in read_events(events))
        assert load_checkpoint(RUN / "last.pt")["wall_times"][0] >= before


def test_diverged_run_gets_its_metrics_and_curves_again(rnn, monkeypatch):
    losses = iter((1.0, float("nan")))
    monkeypatch.setattr("harness.evaluate.evaluate", lambda *_: (next(losses), 0.1))
    assert rnn("--epochs", 3)[0] == 3
    (events,) = RUN.glob("events.out.tfevents.*")
    rows, values = metrics_of(RUN), logged_values(RUN)
    (RUN / "metrics.csv").unlink()
    events.unlink()
    for _ in range(2):
        code, _, err = rnn("--resume")
        assert code == 3 and "diverged in epoch 2" in err
        assert (metrics_of(RUN), logged_values(RUN), config_of(RUN)["status"]) == (rows, values, "diverged")


def test_best_model_that_cannot_be_read_at_the_moment_is_not_replaced_by_a_worse_one(rnn, monkeypatch):
    accuracies = iter((0.9, 0.5, 0.6))
    monkeypatch.setattr("harness.evaluate.evaluate", lambda *_: (1.0, next(accuracies)))
    assert rnn("--epochs", 2)[0] == 0
    read = Path.read_bytes

    def fail(path):
        if path.name == "best.pt":
            raise OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        assert rnn("--epochs", 3, "--resume")[0] == 0
    assert load_checkpoint(RUN / "best.pt")["epoch"] == 1


def test_new_run_of_a_resume_gets_no_name_that_other_systems_refuse(rnn, run_main):
    code, _, err = run_main("rnn_mnist", *TINY, "--resume", "--name=a:b")
    assert code == 2 and "cannot be the name of a folder" in err
    assert not RUN.parent.exists()


def test_events_file_is_written_again_before_training_goes_on(rnn, monkeypatch):
    assert rnn("--epochs", 3)[0] == 0
    rows, values = metrics_of(RUN), logged_values(RUN)
    with monkeypatch.context() as patch:
        patch.setattr("harness.train.train_epoch", _after(1, RuntimeError("killed")))
        with pytest.raises(RuntimeError, match="killed"):
            rnn("--epochs", 3, "--overwrite")
    (events,) = RUN.glob("events.out.tfevents.*")
    events.unlink()
    assert rnn("--resume")[0] == 0
    assert (metrics_of(RUN), logged_values(RUN)) == (rows, values)


def _after(epochs: int, error: Exception):
    """A `train_epoch` that trains so often and then fails."""
    import harness.train

    real, calls = harness.train.train_epoch, []

    def train_epoch(*arguments):
        calls.append(arguments)
        if len(calls) > epochs:
            raise error
        return real(*arguments)

    return train_epoch


def test_lost_best_model_of_an_earlier_epoch_is_told_and_only_a_better_one_takes_its_place(rnn, monkeypatch):
    accuracies = iter((0.8, 0.5, 0.6, 0.9))
    monkeypatch.setattr("harness.evaluate.evaluate", lambda *_: (1.0, next(accuracies)))
    assert rnn("--epochs", 2)[0] == 0
    assert load_checkpoint(RUN / "best.pt")["epoch"] == 1
    (RUN / "best.pt").unlink()
    for epochs in (2, 3):
        code, out, _ = rnn("--epochs", epochs, "--resume")
        assert code == 0
        assert "note: the model of epoch 1, the best so far, is lost\n" in out and "all but best.pt is in" in out
    assert not (RUN / "best.pt").exists()
    assert rnn("--epochs", 4, "--resume")[0] == 0
    assert load_checkpoint(RUN / "best.pt")["epoch"] == 4


def test_rows_of_epochs_without_a_checkpoint_are_cut_off_before_training_goes_on(rnn, monkeypatch):
    assert rnn("--epochs", 1)[0] == 0
    (RUN / "last.pt").unlink()  # as if the kill had come between metrics.csv and the first last.pt
    config = (RUN / "config.json").read_text()
    (RUN / "config.json").write_text(config.replace('"status": "complete"', '"status": "running"'))
    seen = []

    def look(*arguments):
        seen.append(len(metrics_of(RUN)))
        raise UserError("seen")

    monkeypatch.setattr("harness.train.train_epoch", look)
    assert rnn("--resume")[0] == 2
    assert seen == [1]  # the header alone


def test_results_of_a_finished_run_without_its_checkpoint_are_not_trained_over(rnn):
    assert rnn("--epochs", 1)[0] == 0
    (RUN / "last.pt").unlink()  # as in a clone of a repository that commits runs without checkpoints
    before = {path.name: path.read_bytes() for path in RUN.iterdir() if path.is_file()}
    code, _, err = rnn("--epochs", 1, "--resume")
    assert code == 2 and "no last.pt to continue from" in err and err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in RUN.iterdir() if path.is_file()} == before


def test_second_process_in_a_folder_is_refused(rnn):
    """The lock is held by an open file, so one process can stand for two."""
    assert rnn("--epochs", 1)[0] == 0
    with lock_folder(RUN):
        for way in ("--resume", "--overwrite"):
            code, _, err = rnn("--epochs", 2, way)
            assert code == 2
            assert "another process is training in" in err
    assert rnn("--epochs", 2, "--resume")[0] == 0


@pytest.mark.parametrize("way", [(), ("--resume",)])
def test_run_that_another_process_began_meanwhile_is_refused(rnn, monkeypatch, way):
    """Both saw no run; the other one was quicker while this one loaded its images."""
    import harness.data

    real = harness.data.draw_digits

    def slow():
        RUN.mkdir(parents=True)
        (RUN / "config.json").write_text("{}")
        return real()

    monkeypatch.setattr(harness.data, "draw_digits", slow)
    code, _, err = rnn("--epochs", 1, *way)
    assert code == 2
    assert "exists already: --resume continues it" in err
    assert (RUN / "config.json").read_text() == "{}"


@pytest.mark.parametrize("way", [[], ["--resume"], ["--overwrite"]])
def test_file_in_the_folder_s_place_is_refused(rnn, way):
    RUN.parent.mkdir(parents=True)
    RUN.write_text("a file")
    code, _, err = rnn(*way)
    assert code == 2
    assert str(RUN) in err
    assert RUN.read_text() == "a file"


def test_folder_that_cannot_be_made_is_one_sentence(rnn):
    Path("runs").write_text("a file")
    code, _, err = rnn("--epochs", 1)
    assert code == 2
    assert err.startswith("error: cannot ")
    assert err.count("\n") == 1


def test_file_that_cannot_be_deleted_is_one_sentence(rnn, monkeypatch):
    assert rnn("--epochs", 1)[0] == 0

    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr("harness.files.time.sleep", lambda seconds: None)
    code, _, err = rnn("--epochs", 1, "--overwrite")
    assert code == 2
    assert "config.json: Permission denied" in err


def test_dry_run_keeps_nothing(rnn):
    code, out, _ = rnn("--dry-run")
    assert code == 0
    assert "nothing was kept" in out
    assert not Path("runs").exists()


def test_dry_run_holds_no_file_open_when_its_folder_is_deleted(rnn, monkeypatch):
    """As Windows would not delete it then."""
    looked = []

    class Folder(tempfile.TemporaryDirectory):
        def __exit__(self, *error):
            with lock_folder(Path(self.name) / "run"):
                looked.append(self.name)
            super().__exit__(*error)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Folder)
    assert rnn("--dry-run")[0] == 0
    assert len(looked) == 1


def test_what_a_broken_off_overwrite_left_is_not_in_the_new_run(rnn):
    assert rnn("--epochs", 1)[0] == 0
    (RUN / "last.pt").unlink()
    config = json.loads((RUN / "config.json").read_text())
    (RUN / "config.json").write_text(json.dumps(config | {"status": "interrupted"}))
    (RUN / "snapshots").mkdir()
    (RUN / "snapshots" / "epoch-0009.pt").write_bytes(b"old")
    assert rnn("--epochs", 1, "--resume")[0] == 0
    assert not (RUN / "snapshots" / "epoch-0009.pt").exists()


@pytest.mark.skipif(os.name == "nt", reason="makes a symbolic link")
def test_overwriting_leaves_what_a_link_of_the_users_points_to(rnn, tmp_path):
    assert rnn("--epochs", 1)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.png").write_bytes(b"")
    shutil.rmtree(RUN / "figures")
    (RUN / "figures").symlink_to(tmp_path / "elsewhere")
    (RUN / "metrics.csv").rename(tmp_path / "elsewhere" / "metrics.csv")
    (RUN / "metrics.csv").symlink_to(tmp_path / "elsewhere" / "metrics.csv")
    assert rnn("--epochs", 1, "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {
        "kept.png",
        "metrics.csv",
        "confusion.csv",  # of the new run
        "confusion.png",
    }
    assert not (RUN / "metrics.csv").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder that is in use")
@pytest.mark.parametrize(("deleted", "error"), [(True, Interrupted(2)), (False, None)])
def test_run_folder_that_is_moved_or_deleted_while_training_is_not_called_whole(rnn, monkeypatch, deleted, error):
    assert rnn("--epochs", 3, "--runs-dir", "whole")[0] == 0
    elsewhere, real, epochs = Path("elsewhere"), harness.train.train_epoch, []

    def train_epoch(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            shutil.rmtree(RUN) if deleted else RUN.rename(elsewhere)
            if error:
                raise error
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("harness.train.train_epoch", train_epoch)
        patch.setattr("harness.cli.os._exit", lambda code: None)  # the tests go on
        _, _, err = rnn("--epochs", 3)
    assert f"--resume (but {RUN} was moved or deleted meanwhile: put it back first, or that starts anew)\n" in err
    assert "whole" not in err and len(epochs) == 2 and not RUN.exists()
    if not deleted:
        elsewhere.rename(RUN)
    assert rnn("--epochs", 3, "--resume")[0] == 0
    assert_same_run(RUN, "whole" / RUN.relative_to("runs"))


def test_events_file_that_is_deleted_while_training_is_written_again(rnn, monkeypatch):
    real, epochs = harness.train.train_epoch, []

    def train_epoch(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            next(RUN.glob("events.out.tfevents.*")).unlink()
        return real(*arguments)

    assert rnn("--epochs", 2)[0] == 0
    values = logged_values(RUN)
    monkeypatch.setattr("harness.train.train_epoch", train_epoch)
    assert rnn("--epochs", 2, "--overwrite")[0] == 0
    assert logged_values(RUN) == values


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, failing):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", fail) if failing == "fsync" else (Path, "replace", fail)))
    with pytest.raises(UserError, match="No space left on device"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_metrics_header_is_the_published_one():
    assert ",".join(METRICS_HEADER) == "epoch,train/loss,train/accuracy,test/loss,test/accuracy,seconds"


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_commit_is_that_of_the_projects_own_repository(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "project" / "harness" / "run_folder.py"
    module.parent.mkdir(parents=True)
    module.write_text("one")
    monkeypatch.setattr("harness.run.__file__", str(module))
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "of the folder above")
    assert _git_commit() is None
    (tmp_path / ".git").rename(tmp_path / "project" / ".git")
    git("-C", "project", "add", "-A")
    git("-C", "project", "commit", "-qm", "of the project")
    commit = git("-C", "project", "rev-parse", "HEAD")
    assert _git_commit() == commit
    module.write_text("two")
    assert _git_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", "")
    assert _git_commit() is None


MORE = {"validation_loss": 0.1, "validation_accuracy": 1 / 3}


def test_what_only_the_last_epoch_measures_leaves_the_earlier_cells_empty(tmp_path):
    file = tmp_path / "metrics.csv"
    rows = [EpochMetrics(1, 0.1, 0.5, 0.2, 0.5, 1.0), EpochMetrics(2, 0.1, 0.5, 0.2, 0.5, 1.0, tta_accuracy=0.75)]
    file.write_bytes(metrics_csv(rows))
    assert read_metrics(file) == rows
    header, first, last = file.read_text().splitlines()
    assert (header.rpartition(",")[2], first[-5:], last[-5:]) == ("tta/accuracy", ",1.0,", ",0.75")
    assert best_values(rows)[6:11] == (None, None, None, None, 0.75)


@pytest.mark.parametrize("more", [{}, MORE, {"validation_loss": 0.1}])
def test_metrics_are_read_back_to_the_bit_with_and_without_further_columns(tmp_path, more):
    file = tmp_path / "metrics.csv"
    rows = [EpochMetrics(epoch, 0.1, 1 / 7, float("inf"), 0.5, 1e-3, **more) for epoch in (1, 2)]
    file.write_bytes(metrics_csv(rows))
    assert read_metrics(file) == rows
    assert file.read_text().startswith(",".join([*METRICS_HEADER, *(name.replace("_", "/") for name in more)]) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        ("validation/loss", "flavor/loss"),
        ("validation/loss,", ""),
        ("seconds,validation/loss", "validation/loss,seconds"),
        (",1.0,0.1,", ",1.0,much,"),
        (",1.0,0.1,", ",1.0,"),
        ("1,0.1,0.5,", "1,,0.5,"),
        (",0.25\n", ",1.25\n"),
    ],
)
def test_metrics_with_columns_that_no_flag_measures_or_cells_that_fit_none_are_refused(tmp_path, change):
    file = tmp_path / "metrics.csv"
    content = metrics_csv([EpochMetrics(1, 0.1, 0.5, 0.1, 0.5, 1.0, 0.1, 0.25)]).decode()
    assert change[0] in content
    file.write_text(content.replace(*change))
    with pytest.raises(UserError, match="is not the metrics of a run"):
        read_metrics(file)


ROW = [2, 0.5, 0.25, 1.5, 1.0, 0.0]  # the epoch, two losses and accuracies, seconds


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        (ROW, True),
        ([2, float("nan"), 0.0, float("inf"), 0.0, 0.1], True),  # of an epoch that diverged
        (tuple(ROW), False),
        (ROW[:-1], False),
        ([*ROW, 0.5, 1.0], True),  # with what only some flags measure
        ([*ROW, None, None], True),
        ([*ROW, 0.5, 1.5], False),
        ([*ROW, 0.5, "1.0"], False),
        ([*ROW, *[0.5] * 99], False),
        ([*ROW[:5], None], False),
        ([2.0, *ROW[1:]], False),
        ([True, *ROW[1:]], False),
        ([3, *ROW[1:]], False),
        ([2, 1, *ROW[2:]], False),
        ([2, "0.5", *ROW[2:]], False),
        ([2, 0.5, 1.01, 1.5, 1.0, 0.0], False),
        ([2, 0.5, 0.25, 1.5, -0.01, 0.0], False),
        ([2, 0.5, float("nan"), 1.5, 1.0, 0.0], False),
        ([*ROW[:-1], -0.1], False),
        ([*ROW[:-1], 1e308], False),  # three such sum up to infinity, which is no time
    ],
)
def test_row_of_metrics_is_of_its_epoch_and_its_accuracies_are_shares(row, fits):
    assert is_metrics(row, 2) == fits


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epoch": 2}, "metrics that do not fit its epoch"),
        ({"history": []}, "metrics that do not fit its epoch"),
        ({"history": [ROW]}, "metrics that do not fit its epoch"),
        ({"epoch": True}, "no epoch to continue from"),
        ({"model": []}, "no model to continue from"),
        ({"optimizer": None}, "no optimizer to continue from"),
        ({"generator": 1}, "no generator to continue from"),
    ],
)
def test_checkpoint_without_what_a_training_needs_is_one_sentence(change, sentence):
    whole = {"model": {}, "optimizer": {}, "generator": torch.zeros(1), "epoch": 1, "history": [[1, *ROW[1:]]]}
    check_training_state(whole, Path("last.pt"))
    with pytest.raises(UserError, match=f"^last.pt has {sentence}; --overwrite starts the run anew$"):
        check_training_state(whole | change, Path("last.pt"))
