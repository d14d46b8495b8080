"""report.py from end to end on a few images: it trains, is killed, continues, and tells what is not complete.

The scripts are the real ones, on sets made small. They run in this process, as starting PyTorch takes longer than all
they do, but where a report is killed or interrupted: there each is a process of its own. What the report itself looks
like is tested elsewhere, here its writer only notes what it was given.
"""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import killed_runs
import numpy as np
import pytest
import torch
from conftest import PROJECT

import report
from harness.analyses import OF_CNN, ON_REQUEST
from harness.analyses.findings import Findings, Picture, write_findings
from harness.checkpoint import load_checkpoint
from harness.cli import command_line, program, run_script
from harness.errors import UserError
from harness.files import is_locked, lock_folder
from harness.grid.local import Ended, Job, ThisMachine, command, failure_of
from harness.grid.runs import _note
from harness.image_sets import CNN, RNN
from harness.pictures import Drawing

SMALL_SCRIPT = f"""
import sys, time
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "tests")!r}]
import harness.train
import killed_runs
from harness.cli import run_script
killed_runs.make_runs_small()
train_epoch, begun = harness.train.train_epoch, []
def held(*arguments, **others):
    begun.append(1)
    while {{held}} and len(begun) > 2:
        time.sleep(0.01)
    return train_epoch(*arguments, **others)
harness.train.train_epoch = held
import {{name}}
sys.exit(run_script({{name}}.main))
"""
SMALL_REPORT = f"""
import sys
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "tests")!r}]
from pathlib import Path
import report
from harness.cli import run_script
import harness.device
report.PROJECT, harness.device.cores = Path("scripts").resolve(), lambda: 1
sys.exit(run_script(report.main))
"""
FLAGS = ("--grid", "grid.toml", "--data", "synthetic", "--precision", "fp32", "--device", "cpu")
# Nothing is drawn of a network in two directions: Matplotlib would take longer than all else.
TINY = 'cell = "rnn", hidden_size = 8, batch_size = 20, bidirectional = true'
posix = pytest.mark.skipif(os.name == "nt", reason="sends signals")


def small_script(name: str, *, held: bool = False) -> str:
    """A training script of few images; `held` it trains two epochs and then waits for its end."""
    return SMALL_SCRIPT.format(name=name, held=held)


@pytest.fixture(autouse=True)
def small_project(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_project / "scripts").mkdir()
    for name in (CNN, RNN):
        (in_project / "scripts" / f"{name}.py").write_text(small_script(name))
    monkeypatch.setattr(report, "PROJECT", in_project / "scripts")
    monkeypatch.setattr("harness.device.cores", lambda: 1)  # a second thread is waited for on a busy machine
    _note.cache_clear()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts that this process's report starts run in it, each to its end before the next one starts."""

    def start(machine: ThisMachine, job: Job) -> SimpleNamespace:
        words, errors = command(job, machine.settings, machine.threads)[2:], io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            code = run_script(lambda: importlib.import_module(job.row.script).main(words))
        ended = Ended(code, failure_of(code, errors.getvalue()))
        return SimpleNamespace(started=True, poll=lambda: ended)

    killed_runs.make_runs_small(monkeypatch.setattr)
    monkeypatch.setattr(ThisMachine, "start", start)
    monkeypatch.setattr("harness.grid.schedule.POLL", 0)


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> list:
    """What the writer of the report was given, call by call: its results and its other arguments."""
    calls = []
    monkeypatch.setattr("harness.report.write_report", lambda results, **others: calls.append((results, others)))
    return calls


def write_grid(**rows: str) -> None:
    """A grid of rows by their names, each given by its flags beside TINY."""
    tables = [
        f'[[row]]\nname = "{name}"\nscript = "rnn_mnist"\nflags = {{ {TINY}, {flags} }}\n'
        for name, flags in rows.items()
    ]
    Path("grid.toml").write_text("".join(tables))


def runs() -> list[Path]:
    return sorted(file.parent for file in Path("runs").glob("rnn_synthetic/*/config.json"))


def status_of(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["status"]


def metrics_of(run: Path) -> list[str]:
    file = run / "metrics.csv"
    return file.read_text().splitlines()[1:] if file.exists() else []


def without_seconds(rows: list[str]) -> list[str]:
    return [row.rpartition(",")[0] for row in rows]


def state_of(run: Path) -> dict[str, tuple]:
    """What changes if anyone trains in the folder."""
    files = [file for file in run.iterdir() if file.name != ".lock"]
    return {file.name: (file.stat().st_mtime_ns, file.stat().st_ino, file.stat().st_size) for file in files}


def start_report_and_wait_for_two_epochs() -> tuple[subprocess.Popen, Path]:
    """Start report.py as its own process; return it, and the run that it trains, held when that has two epochs."""
    Path("scripts/rnn_mnist.py").write_text(small_script("rnn_mnist", held=True))
    words = [sys.executable, "-c", SMALL_REPORT, *FLAGS, "--only", "long"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("long, seed 0: epoch 2/4 "):
            return process, next(run for run in runs() if status_of(run) == "running")
    pytest.fail(process.stderr.read())


@posix
def test_killed_report_continues_and_finishes_nothing_twice(run_main, written, in_process):
    write_grid(short="epochs = 1", long="epochs = 4")
    code, out, err = run_main("report", *FLAGS, "--only", "short")
    assert (code, err) == (0, "")
    assert "short, seed 0: epoch 1/1" in out and "runs complete: 1 of 1\n" in out
    (short,) = runs()
    before = state_of(short)

    process, long = start_report_and_wait_for_two_epochs()
    process.kill()
    process.communicate()
    with lock_folder(long, wait=True):  # its script does not train on without it
        assert status_of(long) == "interrupted"
        epochs = metrics_of(long)
        assert len(epochs) == 2
    long = long.rename(long.with_name("renamed"))  # a run is found by its config

    code, out, err = run_main("report", *FLAGS)
    assert (code, err) == (0, "")
    assert "long, seed 0: epoch 3/4 " in out
    assert "epoch 2/4 " not in out and "short" not in out
    assert "runs complete: 2 of 2\n" in out
    assert state_of(short) == before
    assert runs() == sorted((short, long))
    assert without_seconds(metrics_of(long))[: len(epochs)] == without_seconds(epochs)
    assert len(metrics_of(long)) == 4

    results, others = written[-1]
    assert [(result.row.name, [run.path for run in result.complete]) for result in results] == [
        ("short", [short]),
        ("long", [long]),
    ]
    assert others["problems"] == []
    assert (others["grid"], others["out"]) == (Path("grid.toml"), Path("runs/report"))
    assert (others["precision"], others["data"]) == ("fp32", "synthetic")
    assert others["command"].endswith("--data synthetic --precision fp32 --device cpu")

    shutil.rmtree(short)
    after = state_of(long)
    code, out, err = run_main("report", *FLAGS, "--no-train")
    assert code == 1
    assert err == "runs complete: 1 of 2\n  short, seed 0: missing: not trained\n"
    assert f"the report is in {Path('runs/report')}" in out
    assert runs() == [long] and state_of(long) == after


def fake_findings(folder: Path, names: list[str], epoch: int, dataset: dict) -> None:
    """What draw_analyses leaves, of one dot an analysis."""
    for name in names:
        dot = Picture(name, Drawing(np.zeros((1, 1, 3), dtype=np.uint8), b"<svg/>"), name)
        write_findings(folder, name, Findings(name, "", [dot], []), {"epoch": epoch, "dataset": dataset})


def test_report_is_written_without_pictures_that_cannot_be_drawn(run_main, written, monkeypatch, in_process):
    Path("grid.toml").write_text(
        '[[row]]\nname = "images"\nscript = "cnn_cifar10"\nflags = { epochs = 1, batch_size = 20 }\n'
    )

    def fail(checkpoint: Path, _: Callable, *, device: str, **others: object) -> None:
        assert device == "cpu"
        raise UserError("best.pt is damaged")

    monkeypatch.setattr("harness.analyses.draw_analyses", fail)
    code, _, err = run_main("report", *FLAGS)
    assert (code, len(written)) == (0, 1), err
    assert err.startswith("warning: cannot draw the pictures that the report lacks of ") and err.endswith(
        ": best.pt is damaged\n"
    )


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("", ["reading", "gates", "memory"]),
        (", cell = 'rnn'", ["reading", "memory"]),
        (", layers = 2", None),
        (", bidirectional = true", None),
    ],
)
def test_of_a_recurrent_network_is_drawn_what_can_be(run_main, monkeypatch, in_process, flags: str, names: list | None):
    table = f"[[row]]\nname = 'digits'\nscript = 'rnn_mnist'\nflags = {{ epochs = 1, hidden_size = 4{flags} }}\n"
    Path("grid.toml").write_text(table)
    asked = []
    monkeypatch.setattr("harness.analyses.draw_analyses", lambda *_, names, **others: asked.append(names))
    assert run_main("report", *FLAGS)[0] == 0
    assert asked == ([names] if names else [])


def test_the_best_run_is_looked_into_until_its_pictures_are_whole_and_of_its_best_model(
    run_main, monkeypatch, in_process
):
    table = '[[row]]\nname = "{0}"\nscript = "cnn_cifar10"\nflags = {{ epochs = {1}, batch_size = 20 }}\n'
    Path("grid.toml").write_text(table.format("short", 1) + table.format("long", 2))
    folders = []

    def report_again(stop: str | None = None) -> list[str]:
        """The analyses that are drawn; as if an interruption came before the one named `stop`."""

        def draw(checkpoint: Path, _: Callable, *, names: list[str], **others: object) -> None:
            drawn.extend(names)
            folders.append(checkpoint.parent)
            figures = checkpoint.parent / "figures"
            figures.mkdir(exist_ok=True)
            content = load_checkpoint(checkpoint)
            whole = names[: names.index(stop)] if stop else names
            fake_findings(figures, whole, content["epoch"], content["config"]["dataset"])

        drawn = []
        monkeypatch.setattr("harness.analyses.draw_analyses", draw)
        code, _, err = run_main("report", *FLAGS)
        assert (code, err) == (0, "")
        return drawn

    drawn = [name for name in OF_CNN if name not in ON_REQUEST]
    assert report_again(stop="invariance") == drawn
    run = folders[0]
    assert "e2-" in run.name  # most epochs first, as the report chooses what it shows
    assert report_again() == ["invariance", "occlusion", "correspondence", "depth"]
    assert report_again() == []
    (run / "figures" / "activations.png").unlink()
    (run / "figures" / "occlusion.png").write_bytes(b"")
    (run / "figures" / "deconvnet.json").write_text("{")
    assert report_again() == ["activations", "deconvnet", "occlusion"]

    best = load_checkpoint(run / "best.pt")
    epoch, dataset = best["epoch"], best["config"]["dataset"]
    fake_findings(run / "figures", ["occlusion"], epoch, {"name": "cifar10", "checksum": "0"})
    fake_findings(run / "figures", ["filters"], epoch + 1, dataset)  # of another epoch's model
    assert report_again() == ["filters", "occlusion"]

    torch.save(best | {"epoch": 3 - epoch}, run / "best.pt")  # another epoch is the best now
    shutil.rmtree(run / "snapshots")
    assert report_again() == [name for name in drawn if name != "evolution"]
    assert report_again() == []
    torch.save(best | {"epoch": torch.tensor([1, 2])}, run / "best.pt")
    assert run_main("report", *FLAGS)[::2] == (
        0,
        f"warning: cannot draw the pictures that the report lacks of {run}: {run}/best.pt holds no whole network; "
        "name a run's best.pt or last.pt\n",
    )
    (run / "best.pt").unlink()
    (run / "figures" / "occlusion.json").unlink()
    assert report_again() == []


def test_first_rows_that_cannot_be_tested_are_one_warning_and_the_others_are_kept(run_main, written, monkeypatch):
    folders = [Path("runs") / name for name in ("cnn", "damaged", "kept", "checked-out")]
    for folder in folders:
        folder.mkdir(parents=True)
        if folder.name != "checked-out":
            (folder / "best.pt").write_bytes(b"")
    (folders[2] / "figures").mkdir()
    (folders[2] / "figures" / "first_rows.csv").write_text("")
    config = {"flags": {"optimizer": "adam", "lr": 0.001, "epochs": 10}}
    cnn, *cells = [
        SimpleNamespace(row=SimpleNamespace(script="rnn_mnist"), complete=[SimpleNamespace(path=folder, config=config)])
        for folder in folders
    ]
    tested = []

    def keep(folder: Path, images: object, build_model: Callable) -> None:
        tested.append(folder)
        if folder.name == "damaged":
            raise UserError("best.pt is damaged")

    monkeypatch.setattr("harness.analyses.first_rows.keep_first_rows", keep)
    monkeypatch.setattr("harness.data.load_images", lambda *_, **__: None)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        report.keep_first_rows_of(cnn, cells, SimpleNamespace(data_dir=Path("data")))
    assert tested == folders[:2]
    (folders[0] / "best.pt").unlink()
    (folders[1] / "best.pt").unlink()
    monkeypatch.setattr("harness.data.load_images", None)  # of no use then
    report.keep_first_rows_of(cnn, cells, SimpleNamespace(data_dir=Path("data")))
    assert errors.getvalue() == (
        f"warning: the report goes without the first rows of {folders[1]}: best.pt is damaged\n"
    )


def test_comparison_that_failed_is_told_and_in_the_exit_code(run_main, written, monkeypatch):
    Path("grid.toml").write_text(
        "[comparison]\nflags = { epochs = 1 }\n"
        f'[[row]]\nname = "short"\nscript = "rnn_mnist"\nflags = {{ {TINY}, epochs = 1 }}\n'
    )
    trained = []

    def train(results, flags):
        trained.extend(each.row.name for each in results)
        return {("cnn-mnist", 0): "the disk is full"}

    tested = []
    monkeypatch.setattr("report.train_missing", train)
    monkeypatch.setattr("report.keep_first_rows_of", lambda compared, *_: tested.append(compared.row.name))
    code, _, err = run_main("report", "--grid", "grid.toml", "--device", "cpu")
    assert tested == ["cnn-mnist"]
    assert code == report.EXIT_INCOMPLETE
    assert trained == ["short", "cnn-mnist"] and "  cnn-mnist, seed 0: failed: the disk is full\n" in err
    assert err.startswith("runs complete: 0 of 2\n")


@posix
def test_interrupted_report_leaves_runs_that_continue():
    write_grid(long="epochs = 4")
    process, long = start_report_and_wait_for_two_epochs()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.strip().startswith(f"interrupted; nothing is lost, continue with: {command_line([program('python')])} ")
    assert err.strip().endswith("--only long")
    assert not is_locked(long)
    assert status_of(long) == "interrupted"
    assert (long / "last.pt").exists()


def test_failing_and_diverging_runs_are_told_and_the_others_go_on(run_main, written, in_process):
    write_grid(good="epochs = 1", broken="epochs = 1, lr = 0.5", diverging='epochs = 2, optimizer = "sgd", lr = 1e38')
    code, *_ = run_main("report", *FLAGS, "--only", "good,broken")
    assert code == 0
    good, broken = sorted(runs(), key=lambda run: "lr0.5" in run.name)
    shutil.rmtree(good)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"status": "interrupted"}))
    (broken / "last.pt").write_bytes(b"PK\x03\x04 and no more")

    code, out, err = run_main("report", *FLAGS)
    assert code == 1
    assert status_of(good) == "complete"
    problems = [(problem.row, problem.seed, problem.status) for problem in written[-1][1]["problems"]]
    assert problems == [("broken", 0, "failed"), ("diverging", 0, "diverged")]
    first, second, third = err.splitlines()
    assert first == "runs complete: 1 of 3"
    assert second.startswith(f"  broken, seed 0: failed: {broken / 'last.pt'} cannot be trusted: ")
    assert third == "  diverging, seed 0: diverged: the loss became NaN or infinite in epoch 1"
    assert "diverging, seed 0: diverged in epoch 1" in out
    (diverging,) = set(runs()) - {good, broken}
    before = state_of(diverging), state_of(good)

    shutil.rmtree(broken)  # as if its user had mended it; the diverged run is final
    code, out, err = run_main("report", *FLAGS, "--only", "diverging")
    assert (code, err) == (1, "runs complete: 0 of 1\n" + third + "\n")
    assert (state_of(diverging), state_of(good)) == before


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--seeds", "0"], "argument --seeds: 0 is not a whole number from 1 to 1024"),
        (["--jobs", "x"], "argument --jobs: invalid whole number value: 'x'"),
        (["--precision", "fp16"], "argument --precision: invalid choice: 'fp16'"),
        (["--onyl", "cnn"], "unrecognized arguments: --onyl cnn"),
        (["--only", "cnn"], "--only cnn: grid.toml has no such row; it has good"),
        (["--only", "good,bad"], "--only bad: grid.toml has no such row; it has good"),
        (["--only", "goood"], "--only goood: grid.toml has no such row; it has good; did you mean good?"),
        (["--grid", "none.toml"], "cannot read none.toml: No such file"),
        (["--address", "head:6379"], "--address is for --engine ray"),
        (["--cpus-per-run", "2"], "--cpus-per-run is for --engine ray"),
        (["--gpus-per-run", "0"], "--gpus-per-run is for --engine ray"),
        (["--engine", "ray", "--gpus-per-run", "2"], "--gpus-per-run: 2 is neither 0 nor a number from 0.01 to 1"),
        (["--engine", "slurm"], "argument --engine: invalid choice: 'slurm'"),
        (["--engine", "ray"], "--engine ray needs Ray: pip install -r requirements-ray.txt"),
        (["--out", "grid.toml"], "--out grid.toml: grid.toml is a file, and must be a folder"),
        (["--out", "grid.toml/report"], f"--out {Path('grid.toml/report')}: grid.toml is a file"),
        (["--runs-dir", "grid.toml"], "--runs-dir grid.toml: grid.toml is a file, and must be a folder"),
        (["--out", "own"], f"{Path('own/README.md')} was not written by report.py and would be replaced"),
        (["--data", "real", "--data-dir", "grid.toml"], "grid.toml"),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_is_trained(run_main, written, monkeypatch, flags, sentence):
    monkeypatch.setattr("harness.download._obtain", lambda *_: pytest.fail("no test goes to the network"))
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    write_grid(good="epochs = 1")
    Path("own").mkdir()
    Path("own/README.md").write_text("# My own")
    code, out, err = run_main("report", *FLAGS, *flags)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1
    assert not Path("runs").exists() and written == []


def test_curves_over_seeds_that_cannot_be_written_are_one_warning(run_main, written, monkeypatch, in_process):
    def fail(*_: object, **__: object) -> None:
        raise UserError("cannot make the folder runs/seeds: Permission denied")

    monkeypatch.setattr("harness.report.seeds.write_seed_aggregates", fail)
    write_grid(good="epochs = 1")
    code, out, err = run_main("report", *FLAGS)
    assert (code, len(written)) == (0, 1) and f"the report is in {Path('runs/report')}" in out
    assert err.startswith("warning: ") and "Permission denied" in err and err.count("\n") == 1


@posix
def test_unfinished_run_in_a_renamed_folder_goes_on_there(run_main, in_process):
    write_grid(good="epochs = 2")
    assert run_main("report", *FLAGS)[0] == 0
    (run,) = runs()
    run = run.rename(run.with_name("-my: first?"))
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"complete"', '"interrupted"'))
    code, _, err = run_main("report", *FLAGS)
    assert (code, err, runs()) == (0, "", [run])
    assert status_of(run) == "complete"


def test_lost_config_is_written_again_and_nothing_is_trained(run_main, in_process):
    write_grid(good="epochs = 2")
    assert run_main("report", *FLAGS)[0] == 0
    (run,) = runs()
    before, trained = json.loads((run / "config.json").read_bytes()), (run / "last.pt").read_bytes()
    (run / "config.json").unlink()
    code, _, err = run_main("report", *FLAGS, "--compile")  # which the run keeps as it was begun
    assert code == 0 and err.startswith("note: ") and err.count("\n") == 1
    assert (runs(), (run / "last.pt").read_bytes()) == ([run], trained)
    after = json.loads((run / "config.json").read_bytes())
    assert before | {"wall_seconds": 0} == after | {"wall_seconds": 0}


def test_lost_metrics_are_those_of_the_checkpoint(run_main, written, in_process):
    write_grid(good="epochs = 2")
    assert run_main("report", *FLAGS)[0] == 0
    (run,) = runs()
    (history,) = [each.history for each in written[-1][0][0].complete]
    for damage in (lambda file: file.write_text("epoch,"), Path.unlink):
        damage(run / "metrics.csv")
        _note.cache_clear()  # as in a process of its own
        code, _, err = run_main("report", *FLAGS, "--no-train")
        assert code == 0 and err.startswith("note: ") and err.count("\n") == 1
        assert [each.history for each in written[-1][0][0].complete] == [history]


def test_runs_folder_that_cannot_be_written_in_is_found_before_training(run_main, written, monkeypatch):
    def refuse(folder: Path) -> None:
        if folder == Path("shared"):
            raise UserError("cannot write in shared: Permission denied")

    Path("shared").mkdir()
    monkeypatch.setattr("harness.files.check_writable", refuse)
    monkeypatch.setattr("harness.grid.schedule.train_jobs", lambda *_: pytest.fail("nothing is to be trained"))
    write_grid(good="epochs = 1")
    code, _, err = run_main("report", *FLAGS, "--runs-dir", "shared/runs")
    assert (code, err, written) == (2, "error: cannot write in shared: Permission denied\n", [])


def test_images_are_loaded_once_before_any_run_starts(run_main, monkeypatch):
    loaded = []

    def load(name: str, **options: object) -> None:
        loaded.append((name, options["data_dir"]))
        assert not Path("runs").exists()

    monkeypatch.setattr("harness.data.load_images", load)
    monkeypatch.setattr(
        "harness.grid.schedule.train_jobs", lambda jobs, settings: {("good", 0): "the test has no time"}
    )
    write_grid(good="epochs = 1", other="epochs = 2")
    code, _, err = run_main("report", *FLAGS, "--data", "real", "--data-dir", "elsewhere")
    assert code == 1
    assert loaded == [("mnist", Path("elsewhere"))]
    assert "good, seed 0: failed: the test has no time" in err and "other, seed 0: missing: not trained" in err


def test_only_chooses_rows_by_script_or_name(run_main, written):
    for only, count in (("cnn", 7), ("rnn", 12), ("gru-adam-lr0.001", 1), ("cnn, rnn-adam-lr0.01", 8)):
        shutil.copy(PROJECT / "experiments.toml", "grid.toml")
        code, _, err = run_main("report", *FLAGS, "--no-train", "--seeds", "2", "--only", only)
        assert code == 1
        results, others = written[-1]
        assert len(results) == 19  # the report is always of the whole grid
        assert len(others["problems"]) == 2 * 19
        assert f"runs complete: 0 of {2 * count}\n" in err


def test_slow_precision_is_warned_of(run_main, monkeypatch):
    monkeypatch.setattr("harness.grid.schedule.train_jobs", lambda jobs, settings: {})
    write_grid(good="epochs = 1")
    for has_bf16, warnings in ((True, 0), (False, 1)):
        monkeypatch.setattr("harness.device.cpu_has_bf16", lambda has_bf16=has_bf16: has_bf16)
        monkeypatch.setattr("harness.device._product_seconds", lambda dtype: 1.0)
        _, _, err = run_main("report", *FLAGS, "--precision", "bf16")
        assert err.count("warning: this CPU has no bf16 arithmetic") == warnings


def test_help_and_wrong_flags_are_answered_without_importing_torch():
    for argument, code in (("--help", 0), ("--seeds=0", 2)):
        command = [sys.executable, "-X", "importtime", str(PROJECT / "report.py"), argument]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == code
        imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if "import time:" in line}
        assert "harness.flags" in imported
        assert not imported & {"torch", "torchvision", "numpy", "matplotlib", "tensorboard"}
        assert code or "exit code: 0 if every wanted run" in ended.stdout
