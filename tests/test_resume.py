"""A run that was killed, stopped or robbed of its disk, and resumed, against the same run left in peace."""

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from killed_runs import (
    SMALL,
    SmallRun,
    assert_same_run,
    copies_before_steps,
    make_runs_small,
    metrics_of,
    same_bits,
    weights_of,
)

import harness.train
from harness.checkpoint import load_checkpoint
from harness.cli import command_line, program
from harness.errors import Interrupted, UserError

TINY = ("--data", "synthetic", "--hidden-size", "8", "--batch-size", "16")
CNN = ("--data", "synthetic", "--batch-size", "32")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc is Linux's")


class Killed(BaseException):
    """Stands for a kill, within this process: nothing may catch it."""


@pytest.fixture(autouse=True)
def small_runs(monkeypatch, in_project):
    make_runs_small(monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug


def only_run(runs_dir: str | Path = "runs") -> Path:
    (config,) = Path(runs_dir).glob("*/*/config.json")
    return config.parent


def status_of(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["status"]


def fail_in_epoch(monkeypatch, epoch: int, error: BaseException) -> None:
    """Let `error` be raised in the middle of an epoch's training, once."""
    real = harness.train.train_batches
    calls = []

    def broken(*arguments):
        calls.append(1)
        batches = real(*arguments)
        yield next(batches)
        if len(calls) == epoch:
            raise error
        yield from batches

    monkeypatch.setattr(harness.train, "train_batches", broken)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("network", ["cnn", "rnn", "lstm", "gru"])
def test_resumed_run_equals_uninterrupted_run(monkeypatch, run_main, network, precision):
    script = "cnn_cifar10" if network == "cnn" else "rnn_mnist"
    own = [*CNN, "--augment"] if network == "cnn" else [*TINY, "--cell", network]
    flags = [*own, "--precision", precision, "--epochs", "3"]
    assert run_main(script, *flags, "--runs-dir", "whole")[0] == 0
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 2, Killed())
        with pytest.raises(Killed):
            run_main(script, *flags)
    killed = only_run()
    assert status_of(killed) == "running"
    assert len(metrics_of(killed)) == 2  # the header and epoch 1
    code, out, _ = run_main(script, *flags, "--resume")
    assert code == 0
    assert "continuing after epoch 1" in out
    assert status_of(killed) == "complete"
    assert_same_run(killed, only_run("whole"))
    shutil.rmtree("runs")
    shutil.rmtree("whole")


def test_a_run_with_held_out_images_resumes_exactly_and_with_the_same_ones(monkeypatch, run_main):
    flags = [*TINY, "--epochs", "3", "--validation", "12"]
    assert run_main("rnn_mnist", *flags, "--runs-dir", "whole")[0] == 0
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 2, Killed())
        with pytest.raises(Killed):
            run_main("rnn_mnist", *flags)
    assert run_main("rnn_mnist", *flags, "--resume")[0] == 0
    assert only_run().name == "gru-h8-adam-lr0.001-e3-synthetic-val12-b16-s0"
    assert_same_run(only_run(), only_run("whole"))
    code, _, err = run_main("rnn_mnist", *flags, "--name", only_run().name, "--validation", "13", "--resume")
    assert code == 2 and "--validation 13 differs from the recorded 12" in err


@pytest.mark.parametrize(
    ("script", "own"),
    [
        ("cnn_cifar10", [*CNN, "--model", "vgg", "--precision", "bf16", "--optimizer", "sgd"]),
        ("rnn_mnist", [*TINY, "--cell", "lstm", "--layers", "2", "--bidirectional", "--dropout", "0.5"]),
        ("rnn_mnist", [*TINY, "--dropout", "0.5"]),
    ],
)
def test_running_statistics_and_dropout_resume_exactly(monkeypatch, run_main, script, own):
    monkeypatch.setattr("models.vgg.MAPS", (4, 6, 6, 8, 8, 8, 8))
    flags, before = [*own, "--epochs", "3"], torch.get_rng_state()
    assert run_main(script, *flags, "--runs-dir", "whole")[0] == 0
    assert torch.equal(torch.get_rng_state(), before)
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 2, Killed())
        with pytest.raises(Killed):
            run_main(script, *flags)
    torch.manual_seed(7)  # as another process may be
    assert run_main(script, *flags, "--resume")[0] == 0
    assert_same_run(only_run(), only_run("whole"))
    torch.set_rng_state(before)


EVERYTHING = (
    *(
        "--optimizer",
        "sgd",
        "--lr",
        "0.05",
        "--momentum",
        "0.9",
        "--nesterov",
        "--schedule",
        "cosine",
        "--warmup",
        "0.5",
    ),
    *("--label-smoothing", "0.1", "--average-weights", "0.8", "--test-time-augmentation", "--validation", "10"),
    *("--augment", "alternate,shift:2,reflect:1,cutout:5,rotate,scale,shear", "--epochs", "3"),
)


@pytest.mark.parametrize(
    ("script", "own"),
    [
        ("rnn_mnist", TINY),
        ("rnn_mnist", (*TINY, "--cell", "lstm", "--precision", "bf16")),
        ("cnn_cifar10", (*CNN, "--model", "vgg", "--channels", "rgb")),
    ],
)
def test_a_run_with_all_that_a_recipe_may_use_resumes_exactly(monkeypatch, run_main, script, own):
    flags = [*own, *EVERYTHING, "--name", "run"]
    assert run_main(script, *flags, "--runs-dir", "whole")[0] == 0
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 3, Killed())
        with pytest.raises(Killed):
            run_main(script, *flags)
    assert "average" in load_checkpoint(only_run() / "last.pt")
    assert run_main(script, *flags, "--resume")[0] == 0
    assert_same_run(only_run(), only_run("whole"))
    code, out, err = run_main(script, "--data", "synthetic", "--name", "run", "--epochs", "4", "--resume")
    assert code == 2 and "over which the learning rate of --schedule cosine falls to 0; train a new run" in err
    code, out, _ = run_main(script, "--data", "synthetic", "--name", "run", "--resume")
    assert code == 0 and "run is complete\n" in out  # and not how to train on
    shutil.rmtree("runs")
    shutil.rmtree("whole")


@pytest.mark.parametrize("optimizer", [["adagrad"], ["adamw"], ["sgd"], ["sgd", "--momentum", "0.9"]])
def test_every_optimizer_resumes_exactly(monkeypatch, run_main, optimizer):
    flags = [*TINY, "--cell", "rnn", "--epochs", "2", "--optimizer", *optimizer]
    assert run_main("rnn_mnist", *flags, "--runs-dir", "whole")[0] == 0
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 2, Killed())
        with pytest.raises(Killed):
            run_main("rnn_mnist", *flags)
    assert run_main("rnn_mnist", *flags, "--resume")[0] == 0
    assert_same_run(only_run(), only_run("whole"))


def resume_copies(run_main, copies: Path, *command: str) -> Iterator[Path]:
    """Resume what was copied before each step, one after the other: each run once it has ended."""
    for copy in sorted(copies.iterdir()):
        assert run_main(*command, "--resume", "--runs-dir", copy)[0] == 0, copy.name
        yield only_run(copy)
        shutil.rmtree(copy)  # a CNN's is large


@needs_proc
def test_cell_killed_before_any_step_on_the_disk_resumes_exactly(tmp_path, run_main):
    """Every open, flush, rename and removal of a run of two epochs, and a kill just before each."""
    command, whole, copies = ("rnn_mnist", *TINY, "--epochs", "2"), tmp_path / "whole", tmp_path / "copies"
    with copies_before_steps(range(1, 10_000), whole, copies):
        assert run_main(*command, "--runs-dir", whole)[0] == 0
    # Config and metrics; then last, config, metrics and best (at least once) of each epoch; then the config: ten files
    # replaced, each opened, flushed, renamed and the temporary name removed; and the events, appended to twice.
    assert len(list(copies.iterdir())) > 10 * 4 + 2
    for run in resume_copies(run_main, copies, *command):
        assert_same_run(run, only_run(whole))
        assert status_of(run) == "complete"


@needs_proc
def test_resumption_killed_before_a_step_on_the_disk_resumes_exactly(tmp_path, run_main):
    command = ("rnn_mnist", *TINY, "--cell", "lstm", "--precision", "bf16", "--epochs", "2")
    whole, once, copies = tmp_path / "whole", tmp_path / "once", tmp_path / "copies"
    with copies_before_steps(range(30, 31), whole, once):
        assert run_main(*command, "--runs-dir", whole)[0] == 0
    with copies_before_steps(range(1, 10_000, 3), once / "0030", copies):
        assert run_main(*command, "--resume", "--runs-dir", once / "0030")[0] == 0
    assert len(list(copies.iterdir())) > 6  # a resumption writes config, events and metrics at least
    for run in resume_copies(run_main, copies, *command):
        assert_same_run(run, only_run(whole))
    assert_same_run(only_run(once / "0030"), only_run(whole))


@needs_proc
def test_cnn_killed_at_some_steps_on_the_disk_resumes_exactly(tmp_path, run_main):
    command, whole, copies = ("cnn_cifar10", *CNN, "--epochs", "2"), tmp_path / "whole", tmp_path / "copies"
    with copies_before_steps(range(14, 10_000, 13), whole, copies):
        assert run_main(*command, "--runs-dir", whole)[0] == 0
    assert len(list(copies.iterdir())) >= 3
    for run in resume_copies(run_main, copies, *command):
        assert_same_run(run, only_run(whole))
        assert {file.name for file in (run / "snapshots").iterdir()} == {"epoch-0001.pt", "epoch-0002.pt"}
        weights = load_checkpoint(run / "last.pt")["model"]
        kept = load_checkpoint(run / "snapshots" / "epoch-0002.pt")["weights"]
        assert kept.keys() == {f"features.conv{n}.{name}" for n in (1, 2) for name in ("weight", "bias")}
        assert all(torch.equal(value, weights[name]) for name, value in kept.items())


@needs_fork
@pytest.mark.parametrize("script, own", [("cnn_cifar10", CNN), ("rnn_mnist", (*TINY, "--cell", "lstm"))])
def test_kill_9_at_a_chance_moment_then_resume(run_main, script, own):
    flags = [*own, "--epochs", "300", "--name", "killed"]
    started = SmallRun(script, *flags, until=9)
    started.wait_for_epoch(random.randint(2, 6))  # whatever it does a moment later
    started.process.kill()
    assert started.end()[0] == -signal.SIGKILL
    run = only_run()
    assert status_of(run) == "running"
    # Only an end is missing: let the record say that one epoch more was asked for.
    checkpoint = load_checkpoint(run / "last.pt")
    epochs = checkpoint["epoch"] + 1
    checkpoint["config"]["flags"]["epochs"] = epochs
    torch.save(checkpoint, run / "last.pt")
    (run / "config.json").write_text(json.dumps(checkpoint["config"]))
    flags[flags.index("300")] = str(epochs)
    assert run_main(script, *flags, "--resume")[0] == 0
    assert run_main(script, *flags, "--runs-dir", "whole")[0] == 0
    whole = only_run("whole")
    assert metrics_of(run) == metrics_of(whole)
    assert same_bits(weights_of(run / "last.pt"), weights_of(whole / "last.pt"))
    shutil.rmtree("runs")
    shutil.rmtree("whole")


@needs_fork
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interruption_ends_at_once_with_the_command_that_continues(run_main, signum, code):
    flags = [*TINY, "--epochs", "500"]
    started = SmallRun("rnn_mnist", *flags, until=3)
    started.wait_for_epoch(2)
    run = only_run()
    if signum == signal.SIGTERM:
        refused = run_main("rnn_mnist", *flags, "--resume")
        assert refused[0] == 2
        assert "another process is training in" in refused[2]
        assert run_main("rnn_mnist", *flags, "--overwrite")[0] == 2
        assert status_of(run) == "running"
    os.kill(started.process.pid, signum)
    ended, err = started.end()
    assert (ended, status_of(run)) == (code, "interrupted")
    assert load_checkpoint(run / "last.pt")["epoch"] == 2
    python = command_line([program("python")])
    assert err.strip() == f"interrupted; continue with: {python} rnn_mnist {' '.join(flags)} --resume"


def test_interrupted_run_is_resumed_by_the_command_it_printed(monkeypatch, run_main):
    monkeypatch.setattr(sys, "argv", ["rnn_mnist.py"])
    flags = [*TINY, "--epochs", "2", "--lr", "0.01", "--overwrite"]
    with monkeypatch.context() as patch:
        fail_in_epoch(patch, 2, Interrupted(signal.SIGINT))
        _, _, err = run_main("rnn_mnist", *flags)
    assert status_of(only_run()) == "interrupted"
    command = err.strip().split("continue with: ")[1].split()
    assert command[:2] == [command_line([program("python")]), "rnn_mnist.py"]
    assert run_main("rnn_mnist", *command[2:])[0] == 0
    assert status_of(only_run()) == "complete"
    assert len(metrics_of(only_run())) == 3


def test_full_disk_at_any_write_costs_no_earlier_checkpoint(monkeypatch, run_main):
    """ENOSPC at the n-th flush to disk, for every n: one sentence, exit 2, and the run goes on when there is room."""
    flags = [*TINY, "--epochs", "2"]
    assert run_main("rnn_mnist", *flags, "--runs-dir", "whole")[0] == 0
    failures = 0
    for number in range(1, 200, 3):
        runs_dir = Path(f"full-{number}")
        left = [number]

        def full(descriptor, left=left):
            left[0] -= 1
            if left[0] <= 0:  # and it stays full
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            code, _, err = run_main("rnn_mnist", *flags, "--runs-dir", runs_dir)
        if code == 0:
            break
        failures += 1
        assert code == 2
        assert err.startswith("error: cannot write ")
        assert "No space left on device" in err
        begun = list(runs_dir.rglob("config.json"))  # the very first write may be the one that fails
        assert ("what was saved before is whole, continue with: " in err) == bool(begun)
        assert not list(runs_dir.rglob("*.tmp"))
        assert run_main("rnn_mnist", *flags, "--runs-dir", runs_dir, "--resume")[0] == 0
        assert_same_run(only_run(runs_dir), only_run("whole"))
    assert failures > 6


@needs_fork
@pytest.mark.parametrize("output", ["full disk", "closed pipe"])
def test_run_goes_on_when_standard_output_takes_no_more(output):
    flags = [*TINY, "--epochs", "4"]
    if output == "full disk":
        if not Path("/dev/full").exists():
            pytest.skip("needs /dev/full")
        started = SmallRun("rnn_mnist", *flags, stdout="/dev/full")
    else:
        started = SmallRun("rnn_mnist", *flags, until=3)
        started.wait_for_epoch(2)
        started.stdout.close()
        Path("go").touch()
    assert started.end() == (0, "")
    assert status_of(only_run()) == "complete"
    assert len(metrics_of(only_run())) == 5


def test_quota_that_ends_in_the_checkpoint_keeps_the_one_before(run_main, monkeypatch):
    """The system's own limit on a file's size, met by last.pt as more epochs are asked for."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(sys, "argv", ["rnn_mnist.py"])
    flags = [*TINY, "--epochs", "1"]
    assert run_main("rnn_mnist", *flags, "--name", "r")[0] == 0
    run = only_run()
    before = (run / "last.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) - 1000, hard))
    try:
        code, _, err = run_main("rnn_mnist", *TINY, "--epochs", "2", "--name", "r", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    assert "what was saved before is whole" in err
    assert (run / "last.pt").read_bytes() == before
    assert status_of(run) == "complete"  # what was asked for besides has not begun
    command = err.split("continue with: ")[1].split()
    assert run_main("rnn_mnist", *command[2:])[0] == 0
    assert len(metrics_of(run)) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_run_as_diverged(monkeypatch, run_main, bad):
    real = harness.train.train_epoch

    def diverging(model, *arguments):
        loss, accuracy = real(model, *arguments)
        diverging.epoch += 1
        return (bad if diverging.epoch == 2 else loss), accuracy

    diverging.epoch = 0
    monkeypatch.setattr(harness.train, "train_epoch", diverging)
    code, _, err = run_main("rnn_mnist", *TINY, "--epochs", "4")
    assert code == 3
    assert "epoch 2" in err
    run = only_run()
    assert status_of(run) == "diverged"
    assert [row[:2] for row in metrics_of(run)[2:]] == [["2", str(bad)]]
    assert run_main("rnn_mnist", *TINY, "--epochs", "4", "--resume")[0] == 3
    assert status_of(run) == "diverged"
    assert len(metrics_of(run)) == 3


def test_a_diverged_epoch_that_is_not_saved_is_trained_again(monkeypatch, run_main):
    real = harness.train.train_epoch
    monkeypatch.setattr(harness.train, "train_epoch", lambda *arguments: (float("nan"), real(*arguments)[1]))

    def full(folder, config, state):
        raise UserError("cannot write last.pt: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(harness.train, "save_last", full)
        code, _, err = run_main("rnn_mnist", *TINY, "--epochs", "2")
    assert code == 2 and "No space left on device" in err and "--resume" in err
    assert status_of(only_run()) == "interrupted"
    assert run_main("rnn_mnist", *TINY, "--epochs", "2", "--resume")[0] == 3
    assert status_of(only_run()) == "diverged"


def test_huge_learning_rate_diverges_and_says_so(run_main):
    code, _, _ = run_main("rnn_mnist", *TINY, "--optimizer", "sgd", "--lr", "1e38", "--epochs", "3")
    assert code == 3
    assert status_of(only_run()) == "diverged"


def test_sizes_of_the_small_sets_are_what_these_tests_count_on():
    from harness.data import load_images

    images = load_images("synthetic-digits", data_dir=Path("nowhere"))
    assert (len(images.train), len(images.test)) == SMALL
