"""The grid: what experiments.toml may say, and how a row's runs are found."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT

from harness.errors import UserError
from harness.files import lock_folder
from harness.flags import RESULT_FLAGS, parse_flags, recorded_flags, run_name
from harness.grid.rows import Row, experiment_of, load_grid, parser_of, wanted_flags
from harness.grid.runs import Problem, RowRuns, _note, _read_runs, complete_runs, find_runs, problems_of
from harness.image_sets import published_checksum
from harness.metrics import EpochMetrics, metrics_csv
from harness.report.inside import look_inside
from models import build_model

ROW = '[[row]]\nname = "a"\nscript = "rnn_mnist"\n'
HEADER = "epoch,train/loss,train/accuracy,test/loss,test/accuracy,seconds\n"


def load(text: str | bytes) -> list:
    file = Path("grid.toml")
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_grid(file)[0]


@pytest.fixture(autouse=True)
def empty_folder(in_project):
    _note.cache_clear()


def test_the_reports_grid_has_the_originals_nineteen_rows():
    rows = load_grid(PROJECT / "experiments.toml")[0]
    assert len(rows) == 19
    assert [row.script for row in rows] == ["cnn_cifar10"] * 7 + ["rnn_mnist"] * 12
    best = next(row for row in rows if row.name == "gru-adam-lr0.001")
    assert best.flags == {"cell": "gru", "optimizer": "adam", "lr": 0.001, "hidden_size": 128, "epochs": 10}
    assert best.printed == {
        "train_loss": 0.01871,
        "train_accuracy": 0.9939,
        "test_loss": 0.03123,
        "test_accuracy": 0.9906,
    }
    assert [row.name for row in rows if not row.printed] == ["rnn-adam-lr0.001-h64"]


def test_every_grid_of_the_project_can_be_read():
    grids = [file for file in PROJECT.glob("*.toml") if "[[row]]" in file.read_text()]
    assert {"demo.toml", "experiments.toml", "paper.toml", "recipes.toml"} <= {file.name for file in grids}
    for file in grids:
        assert load_grid(file)[0]


def test_row_takes_what_it_leaves_out_from_the_script():
    (row,) = load(ROW + "flags = { lr = 1, epochs = 3 }")
    assert (row.title, row.printed, row.note) == ("a", {}, "")
    assert type(row.flags["lr"]) is float
    wanted = wanted_flags(row, precision="bf16", data=None)
    assert wanted.keys() == {*RESULT_FLAGS} & vars(parser_of("rnn_mnist").parse_args([])).keys() - {"seed"}
    assert (
        wanted.items()
        >= {
            "cell": "gru",
            "hidden_size": 128,
            "optimizer": "adam",
            "lr": 1.0,
            "epochs": 3,
            "batch_size": 64,
            "momentum": 0.0,
            "weight_decay": 0.0,
            "clip_grad_norm": 0.0,
            "data": "mnist",
            "precision": "bf16",
            "validation": 0,
        }.items()
    )
    assert wanted_flags(row, precision="fp32", data="synthetic")["data"] == "synthetic"
    assert wanted_flags(row, precision="auto", data=None)["precision"] == "fp32"
    cnn = replace(row, script="cnn_cifar10", flags={})
    assert wanted_flags(cnn, precision="auto", data=None)["precision"] == "bf16"


@pytest.mark.parametrize(
    "text, sentence",
    [
        (ROW + "flags = {}\ncolour = 1", "row 'a': unknown key 'colour'; a row has name, script, flags, title,"),
        (ROW, "row 'a': it has no flags"),
        ('[[row]]\nscript = "rnn_mnist"\nflags = {}', "row 1: it has no name"),
        (ROW + 'flags = {}\n[[row]]\nname = "b"\nflags = { lr = 1 }', "row 'b': it has no script"),
        (ROW + "flags = 3", "row 'a': flags must be a table such as { … }, not 3"),
        ('[[row]]\nname = 7\nscript = "rnn_mnist"\nflags = {}', "row 1: name must be text in quotes, not 7"),
        (ROW.replace("rnn_mnist", "rnn") + "flags = {}", "row 'a': script must be one of cnn_cifar10, rnn_mnist, not"),
        (ROW + 'flags = {}\ntitle = "x\\ny"', "row 'a': title must be one line of text"),
        (
            ROW + "flags = {}\ndata = 'cifar10'",
            "row 'a': data must be one of mnist, fashion-mnist, kmnist, synthetic, not",
        ),
        (
            ROW.replace("rnn_mnist", "cnn_cifar10") + "flags = { channels = 'rgb' }\ndata = 'kmnist'",
            "row 'a': channels rgb needs color images, and kmnist has none",
        ),
        (ROW + "flags = { channels = 'rgb' }", "row 'a': rnn_mnist.py has no flag 'channels'"),
        (ROW + "flags = { batch-size = 3 }", "row 'a': rnn_mnist.py has no flag 'batch-size'"),
        (ROW + "flags = { lr = '0.1' }", "row 'a': lr must be a number, not '0.1'"),
        (ROW + "flags = { epochs = 2.0 }", "row 'a': epochs must be a whole number, not 2.0"),
        (ROW + "flags = { epochs = true }", "row 'a': epochs must be a whole number, not True"),
        (ROW + "flags = { epochs = 0 }", "row 'a': argument --epochs: 0 is not a whole number of at least 1"),
        (ROW + "flags = { lr = nan }", "row 'a': argument --lr: nan is not a number above 0"),
        (ROW + "flags = { cell = 'transformer' }", "row 'a': argument --cell: invalid choice: 'transformer'"),
        (ROW + "flags = { momentum = 0.9 }", "row 'a': --momentum is a flag of --optimizer sgd"),
        (
            ROW.replace("rnn_mnist", "cnn_cifar10") + "flags = { augment = 1 }",
            "row 'a': augment must be true or false, or text in quotes, not 1",
        ),
        (ROW + "flags = {}\nprinted = { accuracy = 0.9 }", "row 'a': unknown key 'accuracy' in printed; it may have"),
        (ROW + "flags = {}\nprinted = { test_loss = nan }", "row 'a': printed test_loss must be a loss of at least 0"),
        (ROW + "flags = {}\nprinted = { test_loss = -inf }", "row 'a': printed test_loss must be a loss of at least 0"),
        (ROW + "flags = {}\nprinted = { test_loss = true }", "row 'a': printed test_loss must be a loss of at least 0"),
        (
            ROW + "flags = {}\nprinted = { test_accuracy = 71.7 }",
            "row 'a': printed test_accuracy must be a loss of at least 0, or an accuracy up to 1, not 71.7",
        ),
    ],
)
def test_bad_row_is_one_sentence_that_names_file_and_row(text, sentence):
    with pytest.raises(UserError) as caught:
        load(text)
    assert str(caught.value).startswith(f"grid.toml, {sentence}")
    assert "\n" not in str(caught.value)
    assert "--help" not in str(caught.value)


@pytest.mark.parametrize(
    ("comparison", "sentence"),
    [
        ("comparison = 1\n", "comparison: it must be a table with one key, flags"),
        ("[comparison]\n", "comparison: it must be a table with one key, flags"),
        ("[comparison]\nflags = 1\n", "comparison: flags must be a table such as { … }, not 1"),
        ('[comparison]\nflags = {}\nname = "b"\n', "comparison: it must be a table with one key, flags"),
        ('[comparison]\nflags = { channels = "rgb" }\n', "comparison: channels rgb needs color images"),
        ('[comparison]\nflags = { cell = "rnn" }\n', "comparison: cnn_cifar10.py has no flag 'cell'"),
    ],
)
def test_bad_comparison_is_one_sentence(comparison, sentence):
    with pytest.raises(UserError) as caught:
        load(comparison + ROW + "flags = {}")
    assert str(caught.value).startswith(f"grid.toml, {sentence}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "flag", ["seed", "precision", "threads", "device", "data", "data_dir", "mirror", "runs_dir", "name", "resume"]
)
def test_flag_of_the_report_is_not_a_rows(flag):
    with pytest.raises(UserError, match=rf"^grid.toml, row 'a': {flag} is not a row's business; a row may set cell, "):
        load(ROW + f"flags = {{ {flag} = 1 }}")


@pytest.mark.parametrize("name", ["", "a/b", "..", "-a", "a:b", "a\\nb", "a ", "a.", "a,b", "cnn", "x" * 300])
def test_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(UserError, match=r"^grid.toml, row .*(name|folder)"):
        load(f'[[row]]\nname = "{name}"\nscript = "rnn_mnist"\nflags = {{}}')


@pytest.mark.parametrize("second", ["a", "A"])  # the same folder, on some systems
def test_second_row_of_a_name_is_refused(second):
    text = ROW + "flags = {}\n" + ROW.replace('"a"', f'"{second}"') + "flags = { lr = 0.5 }"
    with pytest.raises(UserError, match=f"^grid.toml, row '{second}': another row has the same name"):
        load(text)


def test_row_may_name_its_images():
    text = ROW + "flags = {}\n" + ROW.replace('"a"', '"b"') + "flags = {}\ndata = 'kmnist'"
    own, other = load(text)
    assert own.data is None and other.data == "kmnist"
    flags = wanted_flags(other, precision="auto", data=None)
    assert flags["data"] == "kmnist" and experiment_of(other, flags) == "rnn_kmnist"


def test_second_row_of_a_setting_is_refused_even_where_it_spells_out_a_default():
    text = ROW + "flags = {}\n" + ROW.replace('"a"', '"b"') + "flags = { lr = 1e-3, cell = 'gru' }"
    with pytest.raises(UserError, match=r"^grid.toml, row 'b': it is the same setting as row 'a'"):
        load(text)
    assert len(load(text.replace("rnn_mnist", "cnn_cifar10", 1))) == 2  # another script's defaults are other settings


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("row = [", "grid.toml is not valid TOML: "),
        (b"name = '\xff'", "grid.toml is not valid TOML: "),
        ("a = " + "[" * 100_000, "grid.toml is not valid TOML: "),
        ("", "grid.toml must consist of [[row]] tables, at least one"),
        ("row = []", "grid.toml must consist of [[row]] tables"),
        ("row = 3", "grid.toml must consist of [[row]] tables"),
        ("row = [1]", "grid.toml, row 1: it must be a table, under a line [[row]]"),
        ("[[rows]]\nname = 'a'", "grid.toml must consist of [[row]] tables"),
    ],
)
def test_bad_file_is_one_sentence_that_names_it(text, sentence):
    with pytest.raises(UserError) as caught:
        load(text)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_is_one_sentence():
    with pytest.raises(UserError, match=r"^cannot read none.toml: No such file"):
        load_grid(Path("none.toml"))
    with pytest.raises(UserError, match=r"^cannot read \.: "):
        load_grid(Path())


# Finding runs

ROWS_TEXT = ROW + "flags = { epochs = 2 }\n" + ROW.replace('"a"', '"b"') + "flags = { epochs = 2, lr = 0.5 }\n"


def make_run(
    folder: str, *, seed: int = 0, status: str = "complete", written: int = 2, changes: dict | None = None, **flags
) -> Path:
    """A run folder of row `a` (2 epochs of the GRU on MNIST) with `written` epochs, or what the rest makes of it."""
    path = Path("runs") / "rnn_mnist" / folder
    path.mkdir(parents=True)
    own = recorded_flags(parser_of("rnn_mnist").parse_args(["--precision=bf16", "--epochs=2", f"--seed={seed}"]))
    config = {
        "experiment": "rnn_mnist",
        "flags": own | {"threads": 3, "new_in_a_later_version": 1} | flags,
        "dataset": {"name": "mnist", "checksum": published_checksum("mnist")},
        "model": {"name": "RecurrentClassifier"},
        **{"device": "cpu", "threads": 3, "torch": "2.0", "python": "3.11"},
        "status": status,
    }
    (path / "config.json").write_text(json.dumps(config | (changes or {})))
    lines = [f"{epoch},0.5,0.25,{0.5 / epoch},0.75,1.5\n" for epoch in range(1, written + 1)]
    (path / "metrics.csv").write_text(HEADER + "".join(lines))
    return path


def find(seeds=(0,), rows: str = ROWS_TEXT, **options):
    options = {"precision": "bf16", "data": None} | options
    return find_runs(load(rows), Path("runs"), seeds=seeds, **options)


def test_published_checksum_is_that_of_the_committed_reference_runs():
    for config in (PROJECT / "report" / "runs").glob("*/*/config.json"):
        dataset = json.loads(config.read_text())["dataset"]
        assert dataset["checksum"] == published_checksum(dataset["name"])
    assert published_checksum("synthetic-digits") is None


def test_folder_of_runs_that_cannot_be_read_is_one_sentence():
    assert find()[0].runs == {}
    Path("runs").mkdir()
    Path("runs/rnn_mnist").touch()
    with pytest.raises(UserError, match=r"^cannot read runs/rnn_mnist: "):
        find()


def test_run_is_found_by_its_config_whatever_its_folder_is_called(capsys):
    make_run("gru-h128-adam-lr0.5-e2-bf16-s0", snapshot_epochs="3")  # the name of row b's
    path = make_run("mine", lr=0.5)
    a, b = find()
    assert a.runs[0].path.name == "gru-h128-adam-lr0.5-e2-bf16-s0"
    assert b.runs[0].path == path
    assert a.runs[0].status == "complete"
    assert [metrics[:6] for metrics in a.runs[0].history] == [
        (1, 0.5, 0.25, 0.5, 0.75, 1.5),
        (2, 0.5, 0.25, 0.25, 0.75, 1.5),
    ]
    assert a.runs[0].config["flags"]["threads"] == 3
    assert a.runs[0].config["flags"]["new_in_a_later_version"] == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "flags",
    [
        *({"lr": 0.002}, {"epochs": 3}, {"precision": "fp32"}, {"cell": "rnn"}, {"hidden_size": 64}),
        *({"optimizer": "adamw"}, {"batch_size": 65}, {"momentum": 0.1}, {"weight_decay": 0.1}),
        *({"clip_grad_norm": 1.0}, {"data": "synthetic"}),
    ],
)
def test_run_with_any_other_result_changing_flag_is_not_the_rows(flags):
    make_run("gru-h128-adam-lr0.001-e2-bf16-s0", written=flags.get("epochs", 2), **flags)
    assert [result.runs for result in find()] == [{}, {}]


def test_run_with_other_precision_is_found_when_that_is_asked_for():
    make_run("x", precision="fp32")
    assert find(precision="fp32")[0].runs[0].path.name == "x"


def test_of_several_runs_with_a_seed_the_complete_one_counts_else_the_longest():
    make_run("a-long", status="interrupted", written=2)
    make_run("b-complete")
    make_run("c-long", status="running", written=2)
    make_run("a-short", seed=1, status="interrupted", written=0)
    make_run("b-longer", seed=1, status="running", written=1)
    make_run("c-short", seed=1, status="running", written=0)
    runs = find(seeds=(0, 1))[0].runs
    assert {seed: run.path.name for seed, run in runs.items()} == {0: "b-complete", 1: "b-longer"}


def test_finished_runs_of_more_seeds_than_asked_for_are_there_in_order():
    for seed in (10, 2, 0):
        make_run(f"s{seed}", seed=seed)
    make_run("s3", seed=3, status="running", written=1)
    result = find(seeds=(0, 1))[0]
    assert list(result.runs) == [0, 2, 10]
    assert result.seeds == (0, 1)
    assert [run.seed for run in result.complete] == [0, 2, 10]


def test_run_killed_before_its_first_metrics_is_found():
    (make_run("x", status="running", written=0) / "metrics.csv").unlink()
    run = find()[0].runs[0]
    assert (run.status, run.history) == ("running", [])


def test_diverged_run_is_found_with_its_infinite_loss():
    path = make_run("x", status="diverged", written=1)
    (path / "metrics.csv").write_text(HEADER + "1,nan,0.1,inf,0.1,1.0\n")
    (metrics,) = find()[0].runs[0].history
    assert metrics.test_loss == float("inf")


@pytest.mark.parametrize(
    "spoil, note",
    [
        (lambda path: (path / "config.json").write_text("{"), "config.json is not valid JSON"),
        (lambda path: (path / "config.json").write_text("[" * 200_000), "left out"),
        (lambda path: (path / "config.json").write_text("{}"), "config.json is not the config of a run"),
        (lambda path: (path / "metrics.csv").unlink(), "metrics.csv: No such file"),
        (lambda path: (path / "metrics.csv").write_text(""), "metrics.csv is not the metrics of a run"),
        (lambda path: (path / "metrics.csv").write_bytes(b"\xff"), "metrics.csv is not the metrics of a run"),
        (
            lambda path: (path / "metrics.csv").write_text(HEADER),
            "metrics.csv does not hold the 2 epochs of a complete",
        ),
        (
            lambda path: (path / "metrics.csv").write_text(HEADER + "1,1.0,0.5,1.0,0.5,1.0\n3,1.0,0.5,1.0,0.5,1.0\n"),
            "metrics.csv is not the metrics of a run",
        ),
        (
            lambda path: (path / "metrics.csv").write_text(HEADER + "1,1.0,0.5,1.0,0.5,1.0\n2,nan,0.5,1.0,0.5,1.0\n"),
            "metrics.csv does not hold the 2 epochs of a complete run",
        ),
    ],
)
def test_damaged_folder_is_left_out_with_one_note(capsys, spoil, note):
    spoil(make_run("x"))
    make_run("y", seed=1)
    assert list(find(seeds=(0, 1))[0].runs) == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: ") and note in line and line.endswith("the folder is left out")
    find()  # as after training
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"name": "mnist", "checksum": "0" * 32}},
        {"dataset": {"name": "synthetic-digits", "checksum": published_checksum("mnist")}},
        {"dataset": "mnist"},
        {"experiment": "cnn_mnist"},
        {"status": "finished"},
    ],
)
def test_run_of_other_images_or_another_experiment_is_left_out_with_a_note(capsys, changes):
    make_run("x", changes=changes)
    assert find()[0].runs == {}
    assert capsys.readouterr().err.startswith("note: runs")


def listed(run_main, *flags: str) -> tuple[list[str], str]:
    code, out, err = run_main("report", "--list", *flags)
    assert code == 0
    return out.splitlines(), err


def test_list_shows_every_run_with_its_epochs_and_its_best_and_last_metrics(run_main, monkeypatch):
    make_run("gru-h128-adam-lr0.001-e2-bf16-s0")
    make_run("gru-h128-adam-lr0.001-e2-bf16-s1", seed=1, status="running", written=1)
    make_run("gru-h128-adam-lr0.001-e2-bf16-s2", seed=2, status="running", written=0)
    diverged = make_run("gru-h128-adam-lr0.5-e2-bf16-s0", lr=0.5, status="diverged")
    (diverged / "metrics.csv").write_text(HEADER + "1,0.5,0.25,2e30,0.875,1.5\n2,nan,0.1,nan,0.1,1.0\n")
    own = Path("runs/own/try")
    own.parent.mkdir()
    make_run("try", changes={"experiment": "own"}).rename(own)
    Path("runs/seeds/a").mkdir(parents=True)
    with lock_folder(Path("runs/rnn_mnist/gru-h128-adam-lr0.001-e2-bf16-s2")):  # the other was killed
        lines, err = listed(run_main)
    assert err == ""
    assert lines == [
        "",
        "runs/own: 1 run",
        "",
        "                     test/accuracy      test/loss",
        "run  status   epoch    best   last    best   last",
        "try  complete   2/2  0.7500 0.7500  0.2500 0.2500",
        "",
        "runs/rnn_mnist: 4 runs",
        "",
        "                                                     test/accuracy      test/loss",
        "run                               status      epoch    best   last    best   last",
        "gru-h128-adam-lr0.001-e2-bf16-s0  complete      2/2  0.7500 0.7500  0.2500 0.2500",
        "gru-h128-adam-lr0.001-e2-bf16-s1  interrupted   1/2  0.7500 0.7500  0.5000 0.5000",
        "gru-h128-adam-lr0.001-e2-bf16-s2  running       0/2       –      –       –      –",
        "gru-h128-adam-lr0.5-e2-bf16-s0    diverged      2/2  0.8750 0.1000   2e+30    nan",
    ]
    for column, order in (("test/accuracy", "3 0 1 2"), ("test/loss", "0 1 3 2"), ("status", "0 3 1 2")):
        names = [line.split()[0] for line in listed(run_main, "--sort", column)[0][-4:]]
        assert names == [lines[-4:][int(number)].split()[0] for number in order.split()], column
    assert listed(run_main, "--runs-dir", "nowhere") == (["no runs in nowhere"], "")


def test_list_has_a_column_for_each_setting_that_differs_where_a_name_does_not_say_it(run_main):
    make_run("gru-h128-adam-lr0.001-e2-bf16-s0")
    make_run("mine", lr=0.5, cell="rnn")
    assert listed(run_main)[0][-3:] == [
        "run                               cell  lr     status   epoch    best   last    best   last",
        "gru-h128-adam-lr0.001-e2-bf16-s0  gru   0.001  complete   2/2  0.7500 0.7500  0.2500 0.2500",
        "mine                              rnn   0.5    complete   2/2  0.7500 0.7500  0.2500 0.2500",
    ]


def test_list_shows_averaged_weights_and_test_time_augmentation_where_a_run_has_them(run_main):
    make_run("gru-h128-adam-lr0.001-e2-bf16-s0")
    own = make_run("gru-h128-adam-lr0.001-e2-average0.9-bf16-s0", average_weights=0.9)
    more = "1,0.5,0.25,0.5,0.5,1.5,0.625,\n2,0.5,0.1,0.5,0.5,1.0,0.75,0.8\n"
    (own / "metrics.csv").write_text(HEADER.rstrip() + ",average/accuracy,tta/accuracy\n" + more)
    assert listed(run_main)[0][-6:] == [
        f"{'test/accuracy':>48}      test/loss",
        "  status   epoch    best   last  average     tta    best   last",
        "gru-h128-adam-lr0.001-e2-average0.9-bf16-s0",  # too long to stand beside the rest
        "  complete   2/2  0.5000 0.5000   0.7500  0.8000  0.5000 0.5000",
        "gru-h128-adam-lr0.001-e2-bf16-s0",
        "  complete   2/2  0.7500 0.7500        –       –  0.2500 0.2500",
    ]


def test_list_leaves_out_what_is_damaged_with_a_note_and_shows_the_rest(run_main):
    for number, (name, content) in enumerate(
        (("config.json", "{"), ("config.json", "[" * 200_000), ("metrics.csv", "x"), ("config.json", None))
    ):
        path = make_run(f"damaged-{number}") / name
        path.unlink() if content is None else path.write_text(content)
    foreign = {"flags": {"epochs": "\x1b[2J", "parser": 1, "lr": None}, "status": "\n"}
    make_run("foreign", changes=foreign)
    make_run("whole")
    lines, err = listed(run_main)
    assert [line.split()[0] for line in lines[-2:]] == ["foreign", "whole"]
    assert lines[-2].count("\\x1b[2J") == 1 and "\\n" in lines[-2]
    assert len(err.splitlines()) == 4 and all(line.startswith("note: ") for line in err.splitlines())


def test_list_of_the_reference_runs_fits_80_columns(run_main):
    lines, err = listed(run_main, "--runs-dir", str(PROJECT / "report" / "runs"))
    assert err == "" and max(len(line) for line in lines if not line.startswith(str(PROJECT))) == 80


def test_list_puts_long_names_on_lines_of_their_own(run_main):
    augment = ["--augment", "alternate,shift:2,cutout", "--weight-decay", "0.0005", "--label-smoothing", "0.1"]
    flags = parse_flags(parser_of("rnn_mnist"), [*augment, "--epochs", "1"])
    config = {"experiment": "rnn_mnist", "flags": recorded_flags(flags), "status": "complete"}
    folder = Path("runs/rnn_mnist") / run_name(flags)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.csv").write_bytes(metrics_csv([EpochMetrics(1, 0.5, 0.8, 0.4, 0.9, 1.0)]))
    lines, err = listed(run_main)
    assert err == "" and folder.name in lines
    assert max(len(line) for line in lines if line != folder.name) <= 80
    assert lines[lines.index(folder.name) + 1].split() == ["complete", "1/1", *["0.9000"] * 2, *["0.4000"] * 2]


def test_only_runs_that_are_not_complete_are_problems():
    make_run("s0")
    make_run("s1", seed=1, status="running", written=1)
    make_run("s2", seed=2, status="interrupted", written=1)
    diverged = make_run("s3", seed=3, status="diverged", written=1)
    (diverged / "metrics.csv").write_text(HEADER + "1,1.0,0.1,1.0,0.1,1.0\n2,nan,0.1,nan,0.1,1.0\n")
    results = find(seeds=range(5), rows=ROW + "flags = { epochs = 2 }")
    assert problems_of(results, {("a", 2): "disk full", ("a", 0): "it was complete all the same"}) == [
        Problem("a", 1, "missing", "1 of 2 epochs trained"),
        Problem("a", 2, "failed", "disk full"),
        Problem("a", 3, "diverged", "the loss became NaN or infinite in epoch 2"),
        Problem("a", 4, "missing", "not trained"),
    ]


@pytest.mark.parametrize(
    ("status", "epochs", "there"),
    [("complete", 2, True), ("complete", 3, False), ("interrupted", 3, True), ("interrupted", 1, False)],
)
def test_epochs_of_damaged_metrics_are_those_of_a_checkpoint_that_fits(status, epochs, there, monkeypatch, capsys):
    rows = [[n, 0.5, 0.25, 1.5, 1.0, 0.1] for n in (1, 2)]
    monkeypatch.setattr("harness.grid.runs.load_checkpoint", lambda _: {"history": rows})
    monkeypatch.setattr("harness.grid.runs.check_training_state", lambda *_: None)
    path = make_run("x", status=status, epochs=epochs)
    (path / "metrics.csv").write_text("damaged")
    (path / "last.pt").touch()
    runs = find(rows=ROW + f"flags = {{ epochs = {epochs} }}")[0].runs
    note = capsys.readouterr().err
    if there:
        assert [list(row[:6]) for row in runs[0].history] == rows and "taken from last.pt" in note
    else:
        assert not runs and note.endswith("; the folder is left out\n")


REAL_RUNS = ("runs/cnn_mnist/adam-lr0.001-e10-mnist-bf16-s0", "runs/rnn_mnist/gru-h128-adam-lr0.001-e10-s0")


@pytest.mark.parametrize("value", [0, None, "missing", [1], "x", 10**400, math.inf], ids=lambda value: f"{value!s:.9}")
def test_value_of_a_config_that_cannot_be_used_costs_that_run_and_never_the_report(value, run_main, capfd):
    """Each value of two real configs is replaced by itself, then at once all those with which the run is still read."""

    def replace_value(config: dict, *path: str) -> None:
        part = config if len(path) == 1 else config[path[0]]
        part[path[-1]] = value
        if value == "missing":
            del part[path[-1]]

    for folder in map(Path, REAL_RUNS):
        folder.mkdir(parents=True)
        shutil.copy(PROJECT / "report" / folder / "metrics.csv", folder)
        text = (PROJECT / "report" / folder / "config.json").read_text()
        config, merged, read = json.loads(text), json.loads(text), set()
        paths = [(name,) for name in config]
        paths += [(part, name) for part in ("flags", "dataset", "model") for name in config[part]]
        for path in paths:
            changed = json.loads(text)
            replace_value(changed, *path)
            (folder / "config.json").write_text(json.dumps(changed))
            _note.cache_clear()
            if _read_runs(folder.parent, lambda model: build_model({"model": dict(model)})):
                read.add(path[-1])
                replace_value(merged, *path)
            else:
                assert capfd.readouterr().err.startswith(f"note: {folder}/")
        assert not read & {"experiment", "status", "flags", "precision", "epochs", "optimizer", "dataset", "checksum"}
        assert not read & {"model", "cell", "channels", "input_size", "classes"}
        (folder / "config.json").write_text(json.dumps(merged))
    comparison = "[comparison]\nflags = { optimizer = 'adam', lr = 0.001, epochs = 10 }\n"
    Path("grid.toml").write_text(f"{comparison}{ROW}flags = {{}}")
    code, _, err = run_main("report", "--no-train", "--grid", "grid.toml")
    assert code in (0, 1) and Path("runs/report/README.md").is_file(), err


@pytest.mark.parametrize("part", ["no heading", "words that are none", "a cell too many"])
def test_a_damaged_record_is_left_out_of_the_look_inside(part):
    folder = Path("runs/cnn_cifar10/adagrad-lr0.01-e20-bf16-s0")
    shutil.copytree(PROJECT / "report" / folder, folder)
    (run,) = complete_runs(folder.parent)
    of_row = RowRuns(Row("a", "cnn_cifar10", {}, "a"), {0: run}, (0,))
    assert look_inside([of_row]).left_out == []
    file = folder / "figures" / "activations.json"
    record = json.loads(file.read_text())
    if part == "no heading":
        del record["heading"]
    elif part == "words that are none":
        record["text"] = ["a", "list"]
    else:
        record["tables"][0]["rows"][0].append(1)
    file.write_text(json.dumps(record))
    inside = look_inside([of_row])
    assert inside.left_out == ["activations"] and "occlusion" in inside.analyses
