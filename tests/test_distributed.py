"""One run on several ranks, against the same run in one process.

torchrun itself starts its ranks anew but once, as that takes seconds; the other jobs are forks, see small_ranks.py.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_ranks
import torch
from killed_runs import SMALL, metrics_of, same_bits, weights_of
from small_ranks import LONG, forked_torchrun

from harness.checkpoint import load_trained
from harness.cli import command_line, program
from harness.data import EpochOrder, ImageSet, Split, load_images
from harness.errors import UserError
from harness.evaluate import evaluate
from harness.ranks import ALONE, Ranks, launcher
from harness.train import train_epoch
from models import build_model

# 40 train images make batches of 19, 19 and 2; 20 test images. No share is even on 3 ranks, and the last has an empty.
# SGD, because a first step of Adam or Adagrad is ±lr even where a gradient is nothing but rounding.
SGD = ("--optimizer", "sgd", "--lr", "0.1", "--momentum", "0.9", "--clip-grad-norm", "0.5")
# The CNN draws its images, the RNN reads them from files, which every rank does for itself.
CNN = ("--data", "synthetic", "--batch-size", "19", "--augment", *SGD, "--device", "cpu")
RECIPE = ("--nesterov", "--schedule", "triangle", "--label-smoothing", "0.1", "--average-weights", "0.5")
RECIPE += ("--test-time-augmentation",)
RNN = ("--hidden-size", "6", "--batch-size", "19", "--device", "cpu", "--epochs", "2")

# The agent of PyTorch 2.6 may end before it has the exit codes of all ranks; that of 2.14 has been seen to tell all.
OLD_TORCHRUN = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)

needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this build of PyTorch has no torch.distributed with gloo",
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork and no SIGKILL")


@pytest.fixture(autouse=True)
def small_runs(monkeypatch: pytest.MonkeyPatch, in_project: Path) -> None:
    small_ranks.make_small(monkeypatch.setattr, in_project / "data")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


def only_run(runs_dir: str = "runs") -> Path:
    (config,) = Path(runs_dir).glob("*/*/config.json")
    return config.parent


def config_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))


def epoch_of(run: Path) -> int:
    return torch.load(run / "last.pt", weights_only=True)["epoch"]


def assert_close_runs(run: Path, whole: Path) -> None:
    """The metrics and weights of `run` are those of `whole` to what the order of summing up leaves."""
    (header, *rows), (header_whole, *rows_whole) = metrics_of(run), metrics_of(whole)
    assert header == header_whole
    assert len(rows) == len(rows_whole)
    for row, row_whole in zip(rows, rows_whole, strict=True):
        assert list(map(float, row)) == pytest.approx(list(map(float, row_whole)), abs=2e-5)
    weights, weights_whole = weights_of(run / "last.pt"), weights_of(whole / "last.pt")
    assert weights.keys() == weights_whole.keys()
    if "average" in (last := torch.load(run / "last.pt", weights_only=True)):
        weights = weights | {("average", name): value for name, value in last["average"].items()}
        average_whole = torch.load(whole / "last.pt", weights_only=True)["average"]
        weights_whole = weights_whole | {("average", name): value for name, value in average_whole.items()}
    for name, value in weights.items():
        torch.testing.assert_close(value, weights_whole[name], rtol=1e-4, atol=1e-5)


def resume_sentence(ranks: int, *words: str) -> str:
    again = command_line([program("torchrun"), f"--nproc-per-node={ranks}", *words, "--resume"])
    return f"interrupted; continue with: {again}"


def said(err: str) -> list[str]:
    """The lines of the ranks; torchrun itself logs some."""
    return [line for line in err.splitlines() if line and "torch/distributed/elastic" not in line]


@needs_gloo
@needs_fork
def test_three_ranks_equal_one_process(run_main: Callable) -> None:
    words = ("cnn_cifar10", *CNN, *RECIPE, "--epochs", "1", "--validation", "19")
    job = forked_torchrun(3, *words)
    assert (job.code, job.err) == (0, "")
    assert job.out.count("epoch 1/1 ") == 1
    assert "on each of 3 ranks" in job.out.splitlines()[0]
    assert run_main(*words, "--runs-dir", "one")[0] == 0
    assert (config_of(only_run())["ranks"], config_of(only_run("one"))["ranks"]) == (3, 1)
    assert_close_runs(only_run(), only_run("one"))


@needs_gloo
@needs_fork
def test_ranks_evaluate_with_the_statistics_that_the_main_rank_saves() -> None:
    """Each rank normalizes by its own part of a batch; the test metrics of all are those of the one saved network."""
    job = forked_torchrun(2, "cnn_cifar10", *CNN, "--model", "vgg", "--epochs", "1")
    assert (job.code, job.err) == (0, "")
    saved = load_trained(only_run() / "last.pt", build_model)
    images = load_images(saved.dataset, data_dir=Path("data"))
    loss, accuracy = evaluate(saved.model, images, "fp32")
    assert [loss, accuracy] == pytest.approx([float(value) for value in metrics_of(only_run())[1][3:5]], abs=1e-5)


@needs_gloo
@needs_fork
def test_killed_rank_ends_the_job_and_the_folder_resumes_on_any_number_of_ranks(run_main: Callable) -> None:
    words = ("cnn_cifar10", *CNN, "--epochs", "2", "--name", "run")
    job = forked_torchrun(2, *words, fail="1 killed")
    assert job.code != 0
    assert said(job.err) == [resume_sentence(2, *words)]
    codes = dict(re.findall(r"rank +: (\d+) .*\n +exitcode +: (-?\d+)", Path("torchrun.log").read_text("utf-8")))
    assert codes == {"1": "-9", "0": "143"} or (OLD_TORCHRUN and codes == {"1": "-9"})
    run = only_run()
    assert (config_of(run)["status"], epoch_of(run)) == ("interrupted", 1)

    job = forked_torchrun(3, *words, "--resume")
    assert (job.code, job.err) == (0, "")
    assert "continuing after epoch 1" in job.out
    assert "ranks 3 instead of the recorded 2" in job.out
    assert (config_of(run)["ranks"], config_of(run)["status"]) == (3, "complete")
    assert run_main(*words, "--runs-dir", "whole")[0] == 0
    assert_close_runs(run, only_run("whole"))


@needs_gloo
@needs_fork
def test_killed_main_rank_is_started_again_and_ends_with_the_same_bits() -> None:
    words = ("rnn_mnist", *RNN, "--precision", "bf16")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    own = [small_ranks.__file__, *words, "--runs-dir", "whole"]
    whole = subprocess.run([*torchrun, *own], capture_output=True, text=True, timeout=LONG, check=True)
    job = forked_torchrun(2, *words, "--resume", torchrun=("--max-restarts=1",), fail="0 killed")
    assert (job.code, said(job.err)) == (0, 2 * said(whole.stderr))  # on some CPUs both attempts warn of slow bf16
    assert "continuing after epoch 1" in job.out
    assert metrics_of(only_run()) == metrics_of(only_run("whole"))
    assert same_bits(weights_of(only_run() / "last.pt"), weights_of(only_run("whole") / "last.pt"))


@needs_gloo
@needs_fork
def test_a_rank_s_failure_ends_the_job_with_a_sentence_and_the_folder_resumes(run_main: Callable) -> None:
    words = ("rnn_mnist", *RNN, "--name", "run")
    interrupted = resume_sentence(2, *words)
    for fail, first, *others in (
        ("1 interrupts torchrun", interrupted),
        ("0 has a full disk", "error: cannot write "),
        ("1 lacks memory", "error: there is not enough memory for this on this machine", interrupted),
        ("1 has a bug", "[rank1]: Traceback ", "[rank1]: ZeroDivisionError: a bug", interrupted),
    ):
        job = forked_torchrun(2, *words, "--overwrite", fail=fail)
        assert job.code != 0
        lines = [line for line in said(job.err) if not line.startswith("[rank1]:  ")]
        assert lines[0].startswith(first), fail
        assert lines[1:] == others, fail
        assert epoch_of(only_run()) == 1
        assert config_of(only_run())["status"] == ("running" if "disk" in fail else "interrupted")
    assert run_main(*words, "--resume")[0] == 0
    assert run_main(*words, "--runs-dir", "whole")[0] == 0
    assert_close_runs(only_run(), only_run("whole"))


@needs_gloo
@needs_fork
def test_error_of_every_rank_is_one_sentence(run_main: Callable) -> None:
    assert run_main("rnn_mnist", *RNN, "--name", "run")[0] == 0
    before = {file: file.read_bytes() for file in only_run().rglob("*.*") if file.is_file()}
    for wrong, sentence in ((("--name", "run"), "exists already"), (("--lr", "fast"), "--lr: invalid number")):
        job = forked_torchrun(2, "rnn_mnist", *RNN, *wrong)
        (line,) = said(job.err)
        assert line.startswith("error: ") and sentence in line
        assert (job.code != 0, job.out) == (True, "")
        assert re.search(r"rank +: 0 .*\n +exitcode +: 2 ", Path("torchrun.log").read_text("utf-8"))
    assert {file: file.read_bytes() for file in only_run().rglob("*.*") if file.is_file()} == before


@needs_gloo
@needs_fork
def test_diverged_ranks_all_say_so_by_their_exit_code() -> None:
    job = forked_torchrun(3, "rnn_mnist", *RNN, "--lr", "1e38")
    assert said(job.err) == ["diverged: the loss of epoch 1 is not finite; the run stops here"]
    codes = re.findall(r"exitcode +: (-?\d+)", Path("torchrun.log").read_text("utf-8"))
    assert set(codes) <= {"3", "-15"} and "3" in codes
    assert config_of(only_run())["status"] == "diverged"


# -- without processes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("images", "batch_size"), [(40, 19), (40, 40), (5, 64), (9, 2), (1, 1)])
def test_shares_of_every_batch_cover_it_once(ranks: int, images: int, batch_size: int) -> None:
    by_rank = [list(Ranks(rank, ranks).shares(images, batch_size)) for rank in range(ranks)]
    starts = list(range(0, images, batch_size))
    seen = []
    for start, shares in zip(starts, zip(*by_rank, strict=True), strict=True):
        batch = min(batch_size, images - start)
        counts = [share.count for share in shares]
        assert sum(counts) == batch
        assert max(counts) - min(counts) <= 1
        assert sum(share.weight for share in shares) / ranks == pytest.approx(1)  # the mean that is taken over ranks
        for share in shares:
            assert share.weight == pytest.approx(share.count * ranks / batch)
            here = range(images)[share.here]
            assert len(here) == max(share.count, 1)  # never no image at all
            assert start <= here[0] and here[-1] < start + batch
            seen += here[: share.count]
    assert seen == list(range(images))


def test_weighted_gradients_average_to_the_whole_batch_s() -> None:
    inputs = torch.arange(5.0, dtype=torch.float64)
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for count in (1, 2, 3, 7):  # of seven, two have an empty share
        gradients = []
        for rank in range(count):
            share = Ranks(rank, count).share(0, 5)
            weight.grad = None
            share.backward((weight * inputs[share.here]).square().mean())
            gradients.append(weight.grad.item())
        # d/dw of the mean of (w x)² is 2 w mean(x²) = 2 · 2 · (0 + 1 + 4 + 9 + 16) / 5
        assert sum(gradients) / count == pytest.approx(24)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_image_counts_once_in_the_metrics(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    pixels = torch.from_numpy(random.integers(0, 256, (5, 1, 2, 2), dtype=np.uint8))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with torch.no_grad():
        logits = model((pixels / 255 - 0.5) / 0.25)
    right = Split(pixels, logits.argmax(dim=1))  # every answer is right: whichever is left out or counted twice shows
    images = ImageSet("five", "checksum", ("a", "b", "c"), 0.5, 0.25, right, right)
    loss = -logits.log_softmax(dim=1).max(dim=1).values.double().mean().item()
    order = EpochOrder(torch.tensor([3, 1, 4, 0, 2]))
    flags = Namespace(batch_size=3, precision="fp32", clip_grad_norm=0.0, label_smoothing=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)  # the weights stay

    summed, seen = [], []
    monkeypatch.setattr(Ranks, "sum", lambda ranks, totals: summed.append(totals) or totals)
    for rank in range(count):
        ranks = Ranks(rank, count)
        train_epoch(model, optimizer, images, order, flags, lambda images, _: seen.append(images), ranks)
        evaluate(model, images, "fp32", ranks)
    for totals in (sum(summed[::2]), sum(summed[1::2])):  # of the training passes, of the tests
        assert totals.tolist() == pytest.approx([5 * loss, 5], rel=1e-6)
    assert sum(seen) == 5


def test_one_process_has_everything_and_is_the_main_rank() -> None:
    assert [share.here for share in ALONE.shares(5, 2)] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert [(share.count, share.weight) for share in ALONE.shares(5, 2)] == [(2, 1), (2, 1), (1, 1)]
    model, totals = torch.nn.Linear(1, 1), torch.ones(2)
    assert ALONE.main and ALONE.parallel(model) is model and ALONE.sum(totals) is totals and ALONE.broadcast(7) == 7


def test_continuing_command_names_how_the_process_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launcher() == ["python"]
    torchruns = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    for name, value in torchruns.items():
        assert launcher() == ["python"]  # left over from somewhere
        monkeypatch.setenv(name, value)
    assert launcher() == ["torchrun", "--nproc-per-node=4"]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # by --local-addr, where the machine's name does not resolve
    assert launcher() == ["torchrun", "--nproc-per-node=4", "--local-addr=127.0.0.1"]


@pytest.mark.parametrize("script", ["report", "visualize"])
def test_scripts_that_do_not_train_refuse_to_be_ranks(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{script}.py does its work in one process: start it with python"):
        importlib.import_module(script).main(["best.pt"] if script == "visualize" else ["--no-train"])


def test_ranks_without_a_gpu_each_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with pytest.raises(UserError, match="3 ranks on this machine need a CUDA GPU each and there are 2"):
        Ranks(0, 3, 0, 3).own_device(torch.device("cuda"))
    with pytest.raises(UserError, match="--device cpu"):
        Ranks(0, 2, 0, 2).own_device(torch.device("mps"))
    assert chosen == []
    assert Ranks(3, 4, 1, 2).own_device(torch.device("cuda")).type == "cuda"  # the second of the second machine
    assert chosen == [1]
    assert Ranks(1, 2, 1, 2).own_device(torch.device("cpu")).type == "cpu"


def test_small_sets_have_the_last_batch_that_these_tests_need() -> None:
    assert SMALL[0] % 19 == 2
