"""Training what a grid lacks: the plan, the command lines, and runs side by side, with a stand-in for the script.

The stand-in needs no PyTorch and starts at once; tests/test_report_run.py does the same with the real scripts.
"""

import contextlib
import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tqdm.utils import disp_len

import harness.grid.schedule
from harness.device import quota_of_cores
from harness.errors import EXIT_BAD_INPUT, Interrupted
from harness.files import lock_folder
from harness.flags import parse_flags, run_name
from harness.grid.live_table import LiveTable, table_lines, time_left
from harness.grid.local import Ended, Job, Settings, ThisMachine, command
from harness.grid.rows import Row, parser_of
from harness.grid.runs import find_runs
from harness.grid.schedule import Schedule, plan_jobs, train_jobs
from harness.metrics import EpochMetrics, read_metrics

RNN = Row("small", "rnn_mnist", {"cell": "rnn", "epochs": 2}, "small")
CNN = Row("cnn-row", "cnn_cifar10", {"epochs": 1, "augment": True}, "cnn")

# Does, by its seed, what a script can do; writes its arguments and environment where the test finds them.
STAND_IN = """
import json, os, sys
from pathlib import Path
words = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = Path(words["runs-dir"], "rnn_synthetic", words.get("name", "run-" + words["seed"]))
folder.mkdir(parents=True, exist_ok=True)
record = {"argv": sys.argv[1:], "omp": os.environ["OMP_NUM_THREADS"]}
def write_epochs(last):
    rows = [f"{n},0.5,0.25,{0.5 / n},0.75,1.5" for n in range(1, last + 1)]
    text = "\\n".join(["epoch,train/loss,train/accuracy,test/loss,test/accuracy,seconds", *rows, ""])
    (folder / "metrics.tmp").write_text(text)
    (folder / "metrics.tmp").replace(folder / "metrics.csv")
seed = int(words["seed"])
(folder / f"started-{os.getpid()}").write_text(json.dumps(record))
if seed == 1:
    sys.exit("Traceback\\n  somewhere\\nerror: the disk is full\\n\\n")
if seed == 2:
    write_epochs(1)
    print("diverged: the loss of epoch 1 is not finite; the run stops here", file=sys.stderr)
    sys.exit(3)
if seed == 3:
    os.kill(os.getpid(), 9)
if seed == 4:
    sys.exit(7)
if seed == 5 and len(list(folder.glob("started-*"))) == 1:  # finds its folder locked
    sys.exit(2)
if seed == 7:  # as C's abort() ends a process on Windows
    sys.exit(3)
if seed == 6:  # trains until its standard input ends
    write_epochs(1)
    sys.stdin.read()
    (folder / "stopped").touch()
    sys.exit(143)
write_epochs(2)
"""


@pytest.fixture(autouse=True)
def quick(in_project, monkeypatch):
    monkeypatch.setattr(harness.grid.schedule, "POLL", 0.02)
    monkeypatch.setattr("harness.device.cores", lambda: 4)


@pytest.fixture
def settings(in_project) -> Settings:
    (in_project / "rnn_mnist.py").write_text(STAND_IN)
    return Settings(in_project, Path("runs"), Path("data"), jobs=4)


def plan(settings: Settings, *rows: Row, seeds=(0,), precision: str = "fp32") -> list:
    options = {"seeds": seeds, "precision": precision, "data": "synthetic"}
    return plan_jobs(find_runs(rows, settings.runs_dir, **options), settings)


def named(jobs: list) -> list:
    """The jobs with the folders that the stand-in writes."""
    for job in jobs:
        job.name = f"run-{job.seed}"
        job.folder = job.folder.with_name(job.name)
    return jobs


def make_folder(settings: Settings, name: str, row: Row, *, seed: int = 0, status: str, epochs: int = 0) -> Path:
    """A run folder as the script leaves it on synthetic digits."""
    path = settings.runs_dir / "rnn_synthetic" / name
    path.mkdir(parents=True)
    flags = vars(parser_of("rnn_mnist").parse_args([])) | row.flags | {"data": "synthetic", "seed": seed}
    flags |= {"data_dir": "data", "runs_dir": "runs"}
    dataset = {"name": "synthetic-digits", "checksum": "0"}
    config = {"experiment": "rnn_synthetic", "flags": flags, "dataset": dataset, "status": status}
    config |= {"model": {"name": "RecurrentClassifier"}, "device": "cpu", "threads": 1, "torch": "2", "python": "3"}
    (path / "config.json").write_text(json.dumps(config))
    make_metrics(path, epochs)
    return path


def make_metrics(folder: Path, epochs: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{epoch},0.5,0.25,0.5,0.75,1.5\n" for epoch in range(1, epochs + 1)]
    (folder / "metrics.csv").write_text(
        "epoch,train/loss,train/accuracy,test/loss,test/accuracy,seconds\n" + "".join(lines)
    )
    return folder / "metrics.csv"


# The plan


def test_each_missing_run_is_planned_once_the_longest_first(settings):
    long = replace(RNN, name="long", flags=RNN.flags | {"epochs": 20})
    jobs = plan(settings, RNN, long, CNN, seeds=(0, 1))
    assert [(job.row.name, job.seed) for job in jobs] == [
        *(("cnn-row", 0), ("cnn-row", 1)),
        *(("long", 0), ("long", 1)),
        *(("small", 0), ("small", 1)),
    ]
    assert len({job.folder for job in jobs}) == 6


def test_of_recurrent_runs_those_with_more_gates_and_units_come_first(settings):
    sizes = {"rnn-128": ("rnn", 128), "gru-64": ("gru", 64), "lstm-128": ("lstm", 128)}
    rows = [
        replace(RNN, name=name, flags=RNN.flags | {"cell": cell, "hidden_size": size})
        for name, (cell, size) in sizes.items()
    ]
    assert [job.row.name for job in plan(settings, *rows)] == ["lstm-128", "gru-64", "rnn-128"]


def test_a_new_run_lies_where_the_script_itself_would_put_it(settings):
    for row in (RNN, CNN):
        (job,) = plan(settings, row, seeds=(3,))
        flags = parse_flags(parser_of(row.script), command(job, settings, 1)[2:])
        assert job.name is None
        assert job.folder.name == run_name(flags)
        assert {name: getattr(flags, name) for name in job.flags} == job.flags
        assert job.folder.parent.name == f"{row.script[:3]}_synthetic"


def test_finished_runs_are_not_planned(settings):
    make_folder(settings, "x", RNN, status="complete", epochs=2)
    make_folder(settings, "y", RNN, seed=1, status="diverged", epochs=1)
    assert [job.seed for job in plan(settings, RNN, seeds=(0, 1, 2))] == [2]


def test_unfinished_run_is_continued_in_its_own_folder_with_its_own_threads(settings):
    path = make_folder(settings, "mine", RNN, status="interrupted", epochs=1)
    (job,) = plan(settings, RNN)
    assert (job.folder, job.name, job.history) == (path, "mine", [])
    words = command(job, settings, 2)
    assert {"--resume", "--name=mine", "--threads=2"} <= set(words)  # nothing to continue from: begun anew
    (path / "last.pt").touch()
    (job,) = plan(settings, RNN)
    assert len(job.history) == 1
    words = command(job, settings, 2)
    assert {"--resume", "--name=mine"} <= set(words)
    assert not any(word.startswith("--threads") for word in words)


def test_folder_of_another_run_is_left_alone(settings):
    (job,) = plan(settings, RNN)
    usual = job.folder.name
    other = replace(RNN, flags=RNN.flags | {"lr": 0.5})
    make_folder(settings, usual, other, status="complete", epochs=2)
    (job,) = plan(settings, RNN)
    assert (job.folder.name, job.name) == (f"{usual}-2", f"{usual}-2")
    make_folder(settings, f"{usual}-2", other, status="running")
    assert plan(settings, RNN)[0].name == f"{usual}-3"


def test_folder_that_a_kill_left_without_a_run_is_used(settings):
    (job,) = plan(settings, RNN)
    job.folder.mkdir(parents=True)
    (job.folder / ".config.json.tmp").touch()
    assert plan(settings, RNN)[0].folder == job.folder


def test_flags_of_the_report_reach_the_script(settings):
    settings = replace(settings, device="cuda", compile=True)
    (job,) = plan(settings, CNN, seeds=(7,), precision="bf16")
    words = command(job, settings, 3)
    assert words[:2] == [sys.executable, str(settings.scripts / "cnn_cifar10.py")]
    assert set(words[2:]) >= {
        *("--epochs=1", "--augment", "--seed=7", "--precision=bf16", "--data=synthetic", "--device=cuda", "--resume"),
        *("--compile", "--runs-dir=runs", "--data-dir=data", "--threads=3"),
    }
    parser = parser_of("cnn_cifar10")
    flags = parse_flags(parser, words[2:])  # what else is there is as the script has it by itself
    assert all(getattr(flags, name) == parser.get_default(name) for name in ("lr", "optimizer", "name"))


def test_run_that_has_begun_keeps_what_it_records_of_compile(settings):
    make_folder(settings, "begun", RNN, status="interrupted")
    (job,) = plan(settings, RNN)
    assert job.folder.name == "begun" and not job.resumes
    words = command(job, replace(settings, compile=True), 3)
    assert "--compile" not in words and "--threads=3" in words


# Training


def train(jobs: list, settings: Settings) -> dict:
    return train_jobs(jobs, ThisMachine(settings, len(jobs)))


def records(settings: Settings) -> list[dict]:
    return [json.loads(file.read_text()) for file in settings.runs_dir.glob("*/*/started-*")]


def test_every_way_to_fail_is_told_and_the_others_go_on(settings, capsys):
    failures = train(named(plan(settings, RNN, seeds=(*range(5), 7))), settings)
    assert failures.keys() == {("small", 1), ("small", 3), ("small", 4), ("small", 7)}
    assert failures["small", 1] == "the disk is full"
    killed = "killed by signal 9 (Killed, perhaps because the memory ran out)"
    assert failures["small", 3] == ("ended with exit code 9" if os.name == "nt" else killed)
    assert failures["small", 4] == "ended with exit code 7"
    assert failures["small", 7] == "ended with exit code 3"
    out = capsys.readouterr().out
    assert "\x1b" not in out  # no terminal, no table
    assert "small, seed 0: epoch 2/2   test loss   0.2500  accuracy 0.7500      1.5 s\n" in out
    assert "small, seed 0: done: 2 epochs in 00:03, test loss 0.2500, accuracy 0.7500\n" in out
    assert "small, seed 1: failed: the disk is full\n" in out
    assert "small, seed 2: diverged in epoch 1\n" in out


class LockedTwice:
    """This machine, but another process takes the folder of the first script as it starts, and keeps it for three looks
    at the folder after that script has ended."""

    slots = 1

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self.lock, self.looks = ThisMachine(settings, 1), contextlib.ExitStack(), []
        real = harness.grid.schedule.is_locked

        def look(folder: Path) -> bool:
            self.looks.append(real(folder))
            if self.looks[-3:] == [True, True, True]:
                self.lock.close()
            return self.looks[-1]

        monkeypatch.setattr(harness.grid.schedule, "is_locked", look)

    def start(self, job: Job) -> object:
        if len(self.looks) == 1:
            job.folder.mkdir(parents=True)
            self.lock.enter_context(lock_folder(job.folder))
        return self.machine.start(job)


def test_run_that_another_process_trains_in_is_waited_for_and_tried_again(settings, monkeypatch, capsys):
    engine = LockedTwice(settings, monkeypatch)
    assert train_jobs(named(plan(settings, RNN, seeds=(5,))), engine) == {}
    assert engine.looks == [False, True, True, True, False]
    assert len(records(settings)) == 2
    out = capsys.readouterr().out
    assert "failed" not in out
    assert out.count("small, seed 5: waiting: another process is training it\n") == 1


def test_wrong_input_is_a_failure_where_nobody_else_trains(settings):
    jobs = named(plan(settings, RNN, seeds=(5,)))
    jobs[0].folder.mkdir(parents=True)
    (jobs[0].folder / ".lock").touch()  # as every training leaves it
    assert train(jobs, settings) == {("small", 5): f"ended with exit code {EXIT_BAD_INPUT}"}


@pytest.mark.parametrize("side_by_side, runs, threads", [(4, 4, 1), (2, 3, 2), (4, 1, 4), (8, 3, 1), (1, 2, 4)])
def test_cores_are_divided_among_the_runs_side_by_side(settings, side_by_side, runs, threads):
    row = replace(RNN, name="many")
    seeds = [0, *range(10, 9 + runs)]
    train(named(plan(settings, row, seeds=seeds)), replace(settings, jobs=side_by_side))
    started = records(settings)
    assert len(started) == runs
    assert {record["omp"] for record in started} == {str(threads)}
    assert all(f"--threads={threads}" in record["argv"] for record in started)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({"docker/a/cpu.max": "max 100000\n"}, math.inf),
        *(({"docker/a/cpu.max": odd}, math.inf) for odd in ("", "max", "100000", "0 0", "a b")),
        ({"docker/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"docker/a/cpu.max": "400000 100000\n", "docker/cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 0.5),  # as it looks from within a container
    ],
)
def test_container_s_quota_of_cores_is_read(tmp_path, files, quota):
    (tmp_path / "own").write_text("1:cpu:/\n0::/docker/a\n")
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert quota_of_cores(tmp_path / "groups", tmp_path / "own") == quota


def test_no_more_runs_side_by_side_than_asked_for(settings, monkeypatch):
    most = []
    monkeypatch.setattr(harness.grid.schedule, "table_lines", lambda running, *_: most.append(len(running)) or [])
    train(named(plan(settings, RNN, seeds=(0, 7, 8, 9, 10))), replace(settings, jobs=2))
    assert max(most) == 2


@pytest.mark.skipif(os.name == "nt", reason="sends itself a signal")
def test_interruption_lets_every_script_stop_by_itself_and_waits_for_it(settings, monkeypatch):
    jobs = named(plan(settings, RNN, seeds=(0, 6)))

    def interrupt(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    def interrupt_once_trained(running: list[Job], *_: object) -> list[str]:
        if jobs[1].history:
            os.kill(os.getpid(), signal.SIGTERM)
        return []

    monkeypatch.setattr(harness.grid.schedule, "table_lines", interrupt_once_trained)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(Interrupted):
            train(jobs, settings)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (jobs[1].folder / "stopped").exists()
    assert jobs[1].process.poll() == Ended(143, "ended with exit code 143")


class Losing:
    """An engine whose scripts are lost with their nodes, each after the next of these numbers of epochs."""

    slots = 1

    def __init__(self, *epochs: int) -> None:
        self.epochs, self.starts = list(epochs), []

    def start(self, job: Job) -> SimpleNamespace:
        self.starts.append(job.seed)
        epochs = self.epochs.pop(0) if self.epochs else None
        ended = Ended(0) if epochs is None else Ended(1, "its node was lost (reason)", node_lost=True)
        job.history = read_metrics(make_metrics(job.folder, epochs or 0))
        return SimpleNamespace(started=True, poll=lambda: ended)


def test_run_that_another_process_has_completed_is_told_with_all_its_epochs(settings, capsys):
    (job,) = plan(settings, RNN)
    job.history = read_metrics(make_metrics(job.folder, 1))
    make_metrics(job.folder, 2)
    process = SimpleNamespace(started=True, poll=lambda: Ended(0))
    assert train_jobs([job], SimpleNamespace(slots=1, start=lambda job: process)) == {}
    assert "small, seed 0: done: 2 epochs in 00:03" in capsys.readouterr().out


def test_script_that_the_system_does_not_start_is_a_failure(settings, monkeypatch):
    def start(job: Job) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    failures = train_jobs(plan(settings, RNN), SimpleNamespace(slots=1, start=start))
    assert failures["small", 0].startswith("cannot start rnn_mnist.py: ")


def test_run_whose_node_is_lost_comes_first_and_goes_on(settings, capsys):
    jobs = plan(settings, RNN, seeds=(0, 1))
    engine = Losing(0, 0, 1, 1, 2)  # each epoch may be lost twice
    assert train_jobs(jobs, engine) == {}
    assert engine.starts == [0, 0, 0, 0, 0, 0, 1]
    out = capsys.readouterr().out
    assert out.startswith("small, seed 0: its node was lost (reason) after epoch 0; to be continued on another\n")


def test_run_that_loses_three_nodes_at_one_epoch_fails(settings):
    jobs = plan(settings, RNN, seeds=(0, 1))
    engine = Losing(0, 1, 1, 1)
    assert train_jobs(jobs, engine) == {("small", 0): "its node was lost (reason)"}
    assert engine.starts == [0, 0, 0, 0, 1]


# The table


def test_time_left_is_known_when_an_epoch_of_the_kind_is_measured(settings):
    gru = replace(RNN, name="gru", flags={"cell": "gru", "epochs": 3})
    first, second, other = sorted(plan(settings, RNN, gru, seeds=(0, 1)), key=lambda job: job.row.name != "small")[:3]
    assert time_left([], [first, second, other], [], 1) == "time left not known before an epoch is measured"
    first.history = read_metrics(make_folder(settings, "x", RNN, status="running", epochs=2) / "metrics.csv")[:1]
    # 1.5 seconds an epoch: 1 + 2 epochs are left of the two
    assert time_left([], [first, second], [], 1) == "about 00:04 left"
    assert time_left([], [first, second], [], 2) == "about 00:03 left"  # the longer of the two
    assert time_left([], [first, other], [], 1) == "about 00:01 left, without 1 of a kind not measured yet"
    ended = SimpleNamespace(history=[], overhead=4.0, row=other.row, flags=other.flags)  # to start and to end a script
    assert time_left([], [first, second], [ended], 1) == "about 00:12 left"


def test_an_ended_run_has_the_seconds_that_its_script_took_beside_its_epochs(settings, monkeypatch):
    (job,) = plan(settings, RNN)
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    def start(job: Job) -> SimpleNamespace:
        nonlocal now
        now += 5.0
        make_metrics(job.folder, 2)
        return SimpleNamespace(started=True, poll=lambda: Ended(0))

    train_jobs([job], SimpleNamespace(slots=1, start=start))
    assert len(job.history) == 2 and job.overhead == 5.0 - 2 * 1.5
    train_jobs([job], SimpleNamespace(slots=1, start=start))
    assert job.overhead == 5.0  # nothing was trained


def test_the_table_ends_without_a_time_and_fits_80_columns(settings):
    (job,) = plan(settings, replace(RNN, name="x" * 40, flags=RNN.flags | {"epochs": 2000}))
    job.process = SimpleNamespace(started=True)
    header, line, _ = table_lines([job], [], [], 2)
    assert len(header) == len(line) == 79 and "    0/2000  " in line
    job.ended = Ended(0)
    assert table_lines([], [], [job], 2)[-1] == "1 of 1 runs done"


def test_table_shows_each_run_and_is_redrawn_in_place(settings, monkeypatch, capsys):
    first, second = plan(settings, RNN, seeds=(0, 1))
    first.history = read_metrics(make_folder(settings, "x", RNN, status="running", epochs=1) / "metrics.csv")
    first.process = SimpleNamespace(started=True)
    header, a, b, footer = table_lines([first], [second], [], 2)
    assert header.split() == ["seed", "epoch", "test", "loss", "accuracy", "s/epoch", "left"]
    assert a.split()[:7] == ["small", "0", "1/2", "0.5000", "0.7500", "1.5", "00:00"]
    assert b.startswith("small     1        0/2") and b.endswith("waiting: another process is training it")
    assert footer.startswith("0 of 2 runs done; about ")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 5)))
    table = LiveTable()
    table.draw([header, a, b, footer])
    table.log("done")
    table.draw(["x"])
    table.draw([])
    drawn = "".join(f"{line[:19]}\n" for line in (header, a, footer))  # three lines fit above the prompt
    assert capsys.readouterr().out == f"{drawn}\x1b[3A\x1b[Jdone\nx\n\x1b[1A\x1b[J"


def test_epochs_are_lines_only_where_no_table_is_seen(settings, monkeypatch, capsys):
    (job,) = plan(settings, RNN)
    epoch = EpochMetrics(1, 0.5, 0.5, 0.25, 0.75, 1.5)
    monkeypatch.setattr(job, "new_epochs", lambda: [epoch])
    job.process = SimpleNamespace(started=True, poll=lambda: None)
    for terminal, lines in ((False, 1), (True, 0)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        schedule = Schedule([], SimpleNamespace(slots=1))
        schedule.look_at(job)
        assert capsys.readouterr().out.count("epoch 1/2   test loss   0.2500  accuracy 0.7500      1.5 s\n") == lines


def test_long_names_leave_room_for_the_numbers_and_wide_letters_are_counted_as_wide(settings, monkeypatch, capsys):
    rows = [replace(RNN, name="x" * 200), replace(RNN, name="名" * 20, flags=RNN.flags | {"lr": 0.5})]
    jobs = plan(settings, *rows)
    for job in jobs:
        job.process = SimpleNamespace(started=True)
    header, a, b, _ = table_lines(jobs, [], [], 2)
    assert [disp_len(line[: line.index("0/2")]) for line in (a, b)] == [36, 36]
    assert header.index("  seed") == 22
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 5)))
    LiveTable().draw(["名" * 15])
    assert capsys.readouterr().out == "名" * 9 + "\n"
