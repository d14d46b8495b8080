"""Damaged files, grids and command lines: one sentence and exit code 2, or the same result; no other number, no bug.

Hypothesis varies them: a few inputs of every kind, the same in each run. soak.py tries as many as it is asked for.
"""

import importlib
import json
import re
import shutil
import tomllib
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import PROJECT
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from killed_runs import make_runs_small, same_bits
from mutations import (
    ODD_VALUES,
    ODD_WORDS,
    check_told,
    damaged_archive,
    damaged_bytes,
    damaged_table,
    damaged_value,
    outcome,
)

from harness.checkpoint import load_checkpoint, load_trained
from harness.errors import EXIT_DIVERGED, UserError
from harness.flags import FLAGS, flag_words, parse_flags, recorded_flags, resumed_flags
from harness.grid.rows import load_grid
from harness.metrics import metrics_csv, read_metrics
from harness.report import charts
from models import build_model

SCRIPTS = ("rnn_mnist", "cnn_cifar10", "report", "visualize")
ALL_PARSERS = {name: importlib.import_module(name).make_parser() for name in SCRIPTS}
PARSERS = {name: ALL_PARSERS[name] for name in SCRIPTS[:2]}  # of the training scripts


def examples(count: int) -> Callable:
    """So many inputs, the same ones in each run. Nothing is kept on the disk, and a failure is not made smaller."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


randoms = st.randoms(use_true_random=False, note_method_calls=True)


@pytest.fixture(scope="module", autouse=True)
def small_runs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_runs_small(patch.setattr)
        patch.setattr("os.fsync", lambda _: None)  # nobody pulls the plug
        for name in ("curve_chart", "dot_chart", "lines_chart"):
            patch.setattr(charts, name, lambda *_: b'<svg xmlns="http://www.w3.org/2000/svg"/>')
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, which tests copy."""
    runs_dir = tmp_path_factory.mktemp("whole")
    code, _, err = train("--epochs=2", f"--runs-dir={runs_dir}")
    assert (code, err) == (0, "")
    return runs_dir / RUN


RUN = Path("rnn_synthetic", "run")
PARTS = ("last.pt", "best.pt", "config.json", "metrics.csv", "events.out.tfevents.*")


def train(*words: str) -> tuple[int, str, str]:
    tiny = ("--data=synthetic", "--hidden-size=4", "--batch-size=20", "--name=run")
    return outcome(lambda: importlib.import_module("rnn_mnist").main([*tiny, *words]))


def copy_of(run: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run, folder / RUN)
    return folder / RUN


def damaged(path: Path, content: bytes, random: Random) -> bytes:
    """The content of a run's file, damaged in a way that its format knows or in any way."""
    if random.random() < 0.3:
        return damaged_bytes(content, random)
    if path.suffix == ".pt":
        return damaged_archive(content, random)
    if path.suffix == ".json":
        return json.dumps(damaged_value(json.loads(content), random)).encode()
    if path.suffix == ".csv":
        return damaged_table(content.decode(), random).encode("utf-8", "surrogateescape")
    return damaged_bytes(content, random)


# -- files of a run ----------------------------------------------------------------------------------------------------


@examples(120)
@given(random=randoms)
def test_damaged_checkpoint_is_refused_or_holds_the_same(random: Random, whole: Path, tmp_path: Path) -> None:
    damaged_file = tmp_path / "last.pt"
    damaged_file.write_bytes(damaged(damaged_file, (whole / "last.pt").read_bytes(), random))
    contents = []
    code, _, err = outcome(lambda: contents.append(load_checkpoint(damaged_file)) or 0)
    check_told(code, err)
    same = contents and same_bits(contents[0], torch.load(whole / "last.pt", weights_only=True))
    assert code == 2 or same


@examples(30)
@given(part=st.sampled_from(PARTS), random=randoms)
def test_run_with_a_damaged_file_resumes_to_the_same_or_is_refused(
    part: str, random: Random, whole: Path, tmp_path: Path
) -> None:
    run = copy_of(whole, tmp_path / "runs")
    (file,) = run.glob(part)
    content = damaged(file, file.read_bytes(), random)
    file.write_bytes(content)
    code, _, err = train("--epochs=2", f"--runs-dir={tmp_path / 'runs'}", "--resume")
    check_told(code, err)
    if code == 2:
        assert part == "last.pt"  # which is all that a run needs
        assert file.read_bytes() == content
    else:
        assert_same_numbers(run, whole)


def assert_same_numbers(run: Path, whole: Path) -> None:
    """What cannot be lost while last.pt is whole."""
    same = same_bits(*(torch.load(folder / "last.pt", weights_only=True) for folder in (run, whole)))
    assert same
    for name in ("config.json", "metrics.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


TENSORS = (torch.zeros(2), torch.ones(()), torch.zeros(0), torch.zeros(1).expand(2**40), torch.full((3,), float("nan")))


@examples(30)
@given(random=randoms, last=st.booleans())
def test_strange_value_in_what_is_resumed_is_no_bug(random: Random, last: bool, whole: Path, tmp_path: Path) -> None:
    """In last.pt, or in config.json, from which a run without last.pt begins anew."""
    run = copy_of(whole, tmp_path / "runs")
    if last:
        content = damaged_value(load_checkpoint(run / "last.pt"), random, (*ODD_VALUES, *TENSORS))
        torch.save(content, run / "last.pt")
    else:
        (run / "last.pt").unlink()
        config = json.loads((run / "config.json").read_bytes()) | {"status": "running"}
        (run / "config.json").write_text(json.dumps(damaged_value(config, random)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.train.train_epoch", lambda *_: (1.0, 0.5))  # epochs may be very many
        patch.setattr("harness.evaluate.evaluate", stopped)
        code, _, err = train(f"--runs-dir={tmp_path / 'runs'}", "--resume")
    check_told(code, err)


@examples(60)
@given(random=randoms)
def test_network_of_a_strange_checkpoint_is_refused_or_computes(random: Random, whole: Path, tmp_path: Path) -> None:
    """What visualize.py and the report load."""
    file, found = tmp_path / "best.pt", []
    content = damaged_value(load_checkpoint(whole / "best.pt"), random, (*ODD_VALUES, *TENSORS))
    torch.save(content, file)
    code, _, err = outcome(lambda: found.append(load_trained(file, build_model)) or 0)
    check_told(code, err)
    assert code == 2 or found[0].model(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def stopped(*_: object) -> None:
    raise UserError("training goes on")


@examples(100)
@given(random=randoms)
def test_damaged_metrics_are_refused_or_whole(random: Random, whole: Path, tmp_path: Path) -> None:
    file, rows = tmp_path / "metrics.csv", []
    file.write_bytes(damaged(file, (whole / "metrics.csv").read_bytes(), random))
    code, _, err = outcome(lambda: rows.extend(read_metrics(file)) or 0)
    check_told(code, err)
    file.write_bytes(metrics_csv(rows))
    assert same_rows(read_metrics(file), rows)


def same_rows(first: list, second: list) -> bool:
    return list(map(repr, first)) == list(map(repr, second))  # NaN is not equal to itself


GRID = """
[comparison]
flags = { optimizer = "adam", lr = 0.001, epochs = 10 }

[[row]]
name = "cnn-a"
script = "cnn_cifar10"
flags = { optimizer = "adam", lr = 0.001, epochs = 10 }
printed = { test_accuracy = 0.6423 }

[[row]]
name = "gru-a"
script = "rnn_mnist"
flags = { cell = "gru", optimizer = "adam", lr = 0.001, epochs = 10 }
"""
RUNS_OF_GRID = (
    *("cnn_cifar10/adam-lr0.001-e10-bf16-s0", "cnn_mnist/adam-lr0.001-e10-mnist-bf16-s0"),
    *("rnn_mnist/gru-h128-adam-lr0.001-e10-s0", "rnn_mnist/gru-h128-adam-lr0.001-e10-s1"),
)


@examples(20)
@given(random=randoms)
def test_report_is_written_whatever_its_runs_hold(random: Random, tmp_path: Path) -> None:
    """Committed runs, each second one with a damaged config.json or metrics.csv; the others are in the report."""
    for each in RUNS_OF_GRID:
        shutil.copytree(PROJECT / "report" / "runs" / each, tmp_path / "runs" / each, dirs_exist_ok=True)
    whole = len(RUNS_OF_GRID)
    for each in RUNS_OF_GRID:
        if random.random() < 0.5:
            file = tmp_path / "runs" / each / random.choice(["config.json", "config.json", "metrics.csv"])
            file.write_bytes(damaged(file, file.read_bytes(), random))
            whole -= 1
    (tmp_path / "grid.toml").write_text(GRID)
    words = [f"--grid={tmp_path / 'grid.toml'}", f"--runs-dir={tmp_path / 'runs'}", f"--out={tmp_path / 'report'}"]
    code, out, err = outcome(lambda: importlib.import_module("report").main(["--no-train", "--seeds=2", *words]))
    assert code in (0, 1), err
    (complete,) = re.findall("runs complete: (.*) of ", out + err)
    assert int(complete) >= whole - 1  # without the comparison


# -- grids -------------------------------------------------------------------------------------------------------------


def toml(value: object) -> str:
    """A value in TOML's inline form."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return str(value)
    return "'''nothing'''" if value is None else json.dumps(value)


@examples(100)
@given(random=randoms)
def test_damaged_grid_is_refused_or_has_rows_that_can_be_trained(random: Random, tmp_path: Path) -> None:
    text, file = (PROJECT / "experiments.toml").read_text(), tmp_path / "grid.toml"
    if random.random() < 0.5:
        content = damaged_bytes(text.encode(), random)
    else:
        content = toml_lines(damaged_value(tomllib.loads(text), random)).encode("utf-8", "surrogatepass")
    file.write_bytes(content)
    rows = []
    code, _, err = outcome(lambda: rows.extend(load_grid(file)[0]) or 0)
    check_told(code, err)
    for row in rows:
        assert row.flags.items() <= vars(parse_flags(PARSERS[row.script], flag_words(row.flags))).items()
    assert len({row.name for row in rows}) == len(rows)


def toml_lines(content: object) -> str:
    return "".join(f"{json.dumps(key)} = {toml(each)}\n" for key, each in content.items())


# -- command lines -----------------------------------------------------------------------------------------------------

OPTIONS = {  # of each script, without --help
    name: [action for action in parser._actions if action.option_strings and action.dest != "help"]
    for name, parser in ALL_PARSERS.items()
}


def read(script: str, words: list[str]) -> tuple[int, Namespace | None]:
    """Exit code of reading a command line, and its flags."""
    found = []

    def main() -> int:
        own = ALL_PARSERS[script]
        found.append(parse_flags(own, words) if script in PARSERS else own.parse_args([*CHECKPOINT[script], *words]))
        return 0

    code, _, err = outcome(main)
    check_told(code, err)
    return code, found[0] if found else None


CHECKPOINT = {"report": [], "visualize": ["best.pt"]}


def check_flags(script: str, words: list[str]) -> None:
    """A command line is refused in one sentence, or read as its flags' types say; and a record of it reads the same."""
    code, flags = read(script, words)
    if code == 2:
        return
    for action in OPTIONS[script]:
        value = getattr(flags, action.dest)
        assert value != [], f"{words}: no value of {action.dest}"
        assert action.choices is None or value is None or value in action.choices
        assert not (isinstance(value, Path) and value.parts[:1] == ("~",)), f"{words}: a folder with the name ~"
    if script in PARSERS:
        recorded = json.loads(json.dumps(recorded_flags(flags)))
        again = resumed_flags(parse_flags(PARSERS[script], ["--resume"]), recorded)
        kept = [name for name in recorded if FLAGS[name].of_run]
        assert [getattr(again, name) for name in kept] == [getattr(flags, name) for name in kept]


@pytest.mark.parametrize("script", ALL_PARSERS)
def test_no_flag_takes_an_odd_word_wrongly(script: str) -> None:
    for action in OPTIONS[script]:
        for word in ODD_WORDS:
            check_flags(script, [f"{action.option_strings[0]}={word}"])


values = (
    st.sampled_from(ODD_WORDS)
    | st.text("aZ09-_=.,:/\\~ \n\t\ré\u0663\u2028\udc80", max_size=8)
    | st.integers().map(str)
    | st.floats().map(str)
)


@examples(150)
@given(st.data())
def test_no_command_line_is_read_wrongly(data: st.DataObject) -> None:
    script = data.draw(st.sampled_from(list(ALL_PARSERS)))
    words = []
    for action in data.draw(st.lists(st.sampled_from(OPTIONS[script]), max_size=4)):
        option, value = action.option_strings[0], data.draw(values)
        words += data.draw(st.sampled_from([[option], [value], [option, value], [f"{option}={value}"]]))
    if not any(word.startswith(("-h", "--h")) for word in words):
        check_flags(script, words)


@examples(16)
@given(data=st.data())
def test_no_flag_that_is_read_ends_in_a_bug(data: st.DataObject, tmp_path: Path) -> None:
    """A training of a few batches with it."""
    script = data.draw(st.sampled_from(list(PARSERS)))
    action = data.draw(st.sampled_from([each for each in OPTIONS[script] if each.nargs is None]))
    choices = st.sampled_from(action.choices) if action.choices else values
    words = [f"{action.option_strings[0]}={data.draw(choices)}", "--dry-run"]
    if read(script, words)[0] == 0 and action.dest not in ("data", "data_dir", "runs_dir"):
        tiny = ["--data=synthetic", f"--runs-dir={tmp_path}"]
        code, _, err = outcome(lambda: importlib.import_module(script).main([*tiny, *words]))
        assert code in (0, 2, EXIT_DIVERGED), err
