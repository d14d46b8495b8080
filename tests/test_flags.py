"""The command line: every flag with its default and help, the run's name, what is refused, what --resume may change."""

import argparse
import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

from harness.cli import command_line, program
from harness.errors import UserError
from harness.flags import (
    Parser,
    add_flags,
    flag_label,
    flag_words,
    hparams,
    parse_row_flags,
    recorded_flags,
    resume_command,
    resumed_flags,
    run_name,
    snapshot_epochs,
)

SHARED_DEFAULTS = {
    "classes": "",
    "validation": 0,
    "data_dir": Path("data"),
    "mirror": None,
    "augment": False,
    "test_time_augmentation": False,
    "average_weights": 0.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip_grad_norm": 0.0,
    "nesterov": False,
    "schedule": "constant",
    "warmup": 0.0,
    "label_smoothing": 0.0,
    "seed": 0,
    "device": "auto",
    "precision": "fp32",
    "threads": None,
    "compile": False,
    "runs_dir": Path("runs"),
    "name": None,
    "resume": False,
    "overwrite": False,
    "dry_run": False,
}
DEFAULTS = {
    "cnn_cifar10": SHARED_DEFAULTS
    | {"data": "cifar10", "optimizer": "adagrad", "lr": 0.01, "epochs": 20, "batch_size": 256}
    | {"model": "lenet5", "channels": "gray", "fc_activation": "tanh", "kernel_size": 5, "stride": 1}
    | {"conv1_maps": 32, "conv2_maps": 64, "fc_units": 1024, "max_filter_rms": 0.0}
    | {"snapshot_epochs": "1,2,5,10,20,50,100"},
    "rnn_mnist": SHARED_DEFAULTS
    | {"data": "mnist", "optimizer": "adam", "lr": 0.001, "epochs": 10, "batch_size": 64}
    | {"cell": "gru", "hidden_size": 128, "layers": 1, "bidirectional": False, "dropout": 0.0},
}
SCRIPTS = list(DEFAULTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_has_exactly_these_flags_with_these_defaults(script: str, read_flags: Callable) -> None:
    flags = vars(read_flags(script))
    assert {name: value for name, value in flags.items() if name not in ("given", "parser", "command")} == DEFAULTS[
        script
    ]
    assert flags["given"] == frozenset()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_tells_every_flag_with_its_default(
    script: str, read_flags: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # one line a flag
    parser = read_flags(script).parser
    lines = [line.strip() for line in parser.format_help().splitlines()]
    for name, default in DEFAULTS[script].items():
        option = f"--{name.replace('_', '-')}"
        [number] = [number for number, line in enumerate(lines) if line.split(" ")[0] == option]
        told = lines[number].partition("  ")[2] or lines[number + 1]  # beside the flag, or below it if that is long
        assert told and not told.startswith("-"), f"{option} has no help"
        if type(default) is float and default == 0:
            assert told.endswith("0, the default, is off")
        elif default not in (None, False):
            assert told.endswith(f"(default: {default or 'all'})")
    for group in ("data:", "model:", "augmentation:", "optimization:", "machine:", "run folder:"):
        assert group in lines


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_wrong_flags_are_answered_without_importing_torch(script: str) -> None:
    for argument, code in (("--help", 0), ("--epochs=0", 2)):
        command = [sys.executable, "-X", "importtime", str(PROJECT / f"{script}.py"), argument]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert ended.returncode == code
        imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if "import time:" in line}
        assert "argparse" in imported and "harness.flags" in imported  # the list is what we take it for
        assert not imported & {"torch", "torchvision", "numpy", "matplotlib", "tensorboard"}
        said = [line for line in ended.stderr.splitlines() if "import time:" not in line]
        if code:
            assert ended.stdout == ""
            assert said == ["error: argument --epochs: 0 is not a whole number of at least 1 (--help lists every flag)"]
        else:
            assert ended.stdout.startswith("usage: ") and said == []


@pytest.mark.parametrize("script", [*SCRIPTS, "visualize", "report"])
def test_help_ends_with_three_examples_that_the_script_takes(
    script: str, read_flags: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    module = importlib.import_module(script)
    shown = module.make_parser().format_help()
    assert max(map(len, shown.splitlines())) <= 80
    assert "\n".join(["examples:", *(f"  {line}" for line in module.EXAMPLES)]) in shown
    assert len(module.EXAMPLES) == 3
    for line in module.EXAMPLES:
        python, file, *words = shlex.split(line, comments=True)
        assert (python, file) == ("python", f"{script}.py")
        read_flags(script, *words) if script in SCRIPTS else module.make_parser().parse_args(words)


# -- the run's name ----------------------------------------------------------------------------------------------------

NAMES = [
    ("cnn_cifar10", "", "adagrad-lr0.01-e20-s0"),
    ("rnn_mnist", "", "gru-h128-adam-lr0.001-e10-s0"),
    ("cnn_cifar10", "--channels rgb --batch-size 128 --precision bf16", "adagrad-lr0.01-e20-rgb-b128-bf16-s0"),
    ("rnn_mnist", "--batch-size 256 --precision bf16", "gru-h128-adam-lr0.001-e10-b256-bf16-s0"),
    (
        "cnn_cifar10",
        "--data synthetic --fc-activation relu --augment --optimizer sgd --momentum .9 --weight-decay 5e-4 --seed 7",
        "sgd-lr0.01-e20-synthetic-relu-augment-momentum0.9-wd0.0005-s7",
    ),
    (
        "rnn_mnist",
        "--cell lstm --hidden-size 64 --optimizer adamw --lr 1e-5 --epochs 3 --clip-grad-norm 1 --seed 2",
        "lstm-h64-adamw-lr1e-05-e3-clip1-s2",
    ),
    (
        "rnn_mnist",
        "--optimizer sgd --momentum .9 --nesterov --schedule triangle --warmup 1.5 --label-smoothing 0.1 "
        "--average-weights 0.99 --test-time-augmentation",
        "gru-h128-sgd-lr0.001-e10-tta-momentum0.9-nesterov-triangle-warmup1.5-smooth0.1-average0.99-s0",
    ),
    (
        "cnn_cifar10",
        "--augment=shift:2,Alternate,cutout:12,rotate:5.5 --epochs 3",
        "adagrad-lr0.01-e3-alternate+shift2+cutout+rotate5.5-s0",
    ),
    ("rnn_mnist", "--augment", "gru-h128-adam-lr0.001-e10-augment-s0"),
    ("rnn_mnist", "--lr 0.123456789", "gru-h128-adam-lr0.123456789-e10-s0"),  # no digit is lost
    ("cnn_cifar10", "--device cpu --threads 2 --data-dir x --runs-dir y --mirror z", "adagrad-lr0.01-e20-s0"),
    ("cnn_cifar10", "--snapshot-epochs 1 --lr 1e-2 --channels gray", "adagrad-lr0.01-e20-s0"),
]


@pytest.mark.parametrize(("script", "line", "name"), NAMES)
def test_run_is_named_after_the_flags_that_change_its_result(
    script: str, line: str, name: str, read_flags: Callable
) -> None:
    assert run_name(read_flags(script, *line.split())) == name


@pytest.mark.parametrize("script", SCRIPTS)
def test_any_change_of_a_result_flag_makes_another_name(script: str, read_flags: Callable) -> None:
    changes = ["--data synthetic", "--optimizer adamw", "--lr 0.5", "--epochs 1", "--batch-size 1", "--seed 1"]
    changes += ["--weight-decay 1", "--clip-grad-norm 1", "--precision bf16", "--optimizer sgd"]
    changes += ["--optimizer sgd --momentum .5", "--optimizer sgd --momentum .5 --nesterov", ""]
    changes += ["--augment", "--augment mirror", "--augment shift", "--augment shift:2", "--augment rotate,cutout:2"]
    changes += ["--schedule cosine", "--schedule triangle", "--warmup 0.5", "--label-smoothing .5"]
    changes += ["--average-weights 0.5", "--test-time-augmentation"]
    own = {
        "cnn_cifar10": ["--data mnist", "--channels rgb", "--fc-activation relu"],
        "rnn_mnist": ["--cell rnn", "--cell lstm", "--hidden-size 1"],
    }
    lines = changes + own[script]
    assert len({run_name(read_flags(script, *line.split())) for line in lines}) == len(lines)


# -- what was typed ----------------------------------------------------------------------------------------------------


def test_typed_flags_are_told_from_defaults_even_at_the_same_value(read_flags: Callable) -> None:
    flags = read_flags("cnn_cifar10", "--lr", "0.01", "--batch-size=64", "--augment", "--snapshot-epochs", "")
    assert flags.given == {"lr", "batch_size", "augment", "snapshot_epochs"}
    assert (flags.lr, flags.epochs, flags.augment) == (0.01, 20, True)


def test_record_of_the_flags_is_json_of_every_flag(read_flags: Callable) -> None:
    flags = read_flags("rnn_mnist", "--data-dir", "some/where", "--lr", "0.1")
    record = recorded_flags(flags)
    assert json.loads(json.dumps(record)) == record
    assert record == DEFAULTS["rnn_mnist"] | {"data_dir": str(Path("some/where")), "lr": 0.1, "runs_dir": "runs"}


@pytest.mark.parametrize(("text", "epochs"), [("", []), ("3", [3]), ("1,2,5", [1, 2, 5])])
def test_snapshot_epochs_are_a_list_that_may_be_empty(text: str, epochs: list[int], read_flags: Callable) -> None:
    assert snapshot_epochs(read_flags("cnn_cifar10", "--snapshot-epochs", text)) == set(epochs)
    assert snapshot_epochs(read_flags("rnn_mnist")) == set()


# -- refusals ----------------------------------------------------------------------------------------------------------

WRONG = [
    ("cnn_cifar10", "--bogus", "unrecognized arguments: --bogus"),
    ("cnn_cifar10", "extra", "unrecognized arguments: extra"),
    ("cnn_cifar10", "--epoch 3", "unrecognized arguments: --epoch 3"),  # no abbreviations: they break with new flags
    ("rnn_mnist", "--channels rgb", "unrecognized arguments: --channels rgb"),
    ("rnn_mnist", "--data cifar10", "--data: invalid choice: 'cifar10'"),
    ("cnn_cifar10", "--data", "--data: expected one argument"),
    ("cnn_cifar10", "--channels rgb --data mnist", "--channels rgb needs color images, and MNIST has none"),
    ("cnn_cifar10", "--lr 0", "--lr: 0 is not a number above 0"),
    ("cnn_cifar10", "--lr -1", "--lr: -1 is not a number above 0"),
    ("cnn_cifar10", "--lr nan", "--lr: nan is not"),
    ("cnn_cifar10", "--lr inf", "--lr: inf is not"),
    ("cnn_cifar10", "--lr fast", "--lr: invalid number value: 'fast'"),
    ("cnn_cifar10", "--momentum 0.9", "--momentum is a flag of --optimizer sgd"),
    ("cnn_cifar10", "--optimizer sgd --nesterov", "--nesterov needs --momentum"),
    ("rnn_mnist", "--nesterov --momentum 0.9", "--momentum is a flag of --optimizer sgd"),
    ("rnn_mnist", "--warmup 3 --epochs 3", "--warmup 3 leaves none of the 3 --epochs after it"),
    ("rnn_mnist", "--label-smoothing 1", "--label-smoothing: 1 is not a number from 0 to below 1"),
    ("rnn_mnist", "--schedule onecycle", "--schedule: invalid choice: 'onecycle'"),
    (
        "cnn_cifar10",
        "--augment shft",
        "--augment: 'shft' is none of mirror, alternate, shift, reflect, cutout, rotate, ",
    ),
    ("cnn_cifar10", "--kernel-size 4", "--kernel-size: 4 is not an odd number from 1 to 15"),
    ("cnn_cifar10", "--stride 0", "--stride: 0 is not a whole number from 1 to 8"),
    ("cnn_cifar10", "--conv1-maps -1", "--conv1-maps: -1 is not a whole number from 0 to 4096"),
    ("cnn_cifar10", "--max-filter-rms -1", "--max-filter-rms: -1 is not a number of at least 0"),
    ("cnn_cifar10", "--model vgg --stride 2", "--stride is a flag of --model lenet5"),
    ("cnn_cifar10", "--model vgg --max-filter-rms 0.1", "--max-filter-rms is a flag of --model lenet5"),
    ("cnn_cifar10", "--augment mirror:3", "--augment: 'mirror:3' is none of mirror, "),
    ("cnn_cifar10", "--augment shift,", "--augment: '' is none of mirror, "),
    ("rnn_mnist", "--augment shift:2.5", "--augment: invalid augmentation value: 'shift:2.5'"),
    ("rnn_mnist", "--augment shift:99", "--augment: 99 is not a whole number from 1 to 27"),
    ("rnn_mnist", "--augment scale:1", "--augment: 1 is not a number from 0 to below 1"),
    ("cnn_cifar10", "--momentum 1 --optimizer sgd", "--momentum: 1 is not a number from 0 to below 1"),
    ("cnn_cifar10", "--weight-decay -1", "--weight-decay: -1 is not a number of at least 0"),
    ("cnn_cifar10", "--clip-grad-norm nan", "--clip-grad-norm: nan is not"),
    ("cnn_cifar10", "--epochs 2.5", "--epochs: invalid whole number value: '2.5'"),
    ("cnn_cifar10", "--batch-size 0", "--batch-size: 0 is not a whole number of at least 1"),
    ("rnn_mnist", "--hidden-size 0", "--hidden-size: 0 is not"),
    ("cnn_cifar10", "--seed -1", "--seed: -1 is not a whole number from 0"),
    ("cnn_cifar10", "--seed 4294967296", "--seed: 4294967296 is not"),
    ("cnn_cifar10", "--threads 0", "--threads: 0 is not a whole number from 1 to 1024"),
    ("cnn_cifar10", "--threads 99999999999", "--threads: 99999999999 is not"),
    ("cnn_cifar10", "--precision fp16", "--precision: invalid choice: 'fp16'"),
    ("cnn_cifar10", "--device tpu", "--device: invalid choice: 'tpu'"),
    ("cnn_cifar10", "--snapshot-epochs 1,x", "--snapshot-epochs: 1,x is not a list of epochs such as 1,2,5"),
    ("cnn_cifar10", "--snapshot-epochs 1,,2", "--snapshot-epochs: 1,,2 is not a list of epochs"),
    ("cnn_cifar10", "--snapshot-epochs 0", "--snapshot-epochs: 0 is not a list of epochs"),
    ("cnn_cifar10", "--resume --overwrite", "not allowed with argument --resume"),
    ("cnn_cifar10", "--resume --dry-run", "not allowed with argument --resume"),
    *(
        ("cnn_cifar10", f"--name {name}", "cannot be the name of a folder")
        for name in ("..", "a/b", "a\\b", "c:d", "a\0")
    ),
]


@pytest.mark.parametrize(("script", "line", "message"), WRONG)
def test_wrong_flag_is_one_sentence_and_exit_code_2(
    script: str, line: str, message: str, run_main: Callable, in_project: Path
) -> None:
    code, out, err = run_main(script, *line.split(" "))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err
    assert err.count("\n") == 1
    assert list(in_project.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "line", "meant"),
    [
        ("rnn_mnist", "--lrr 0.1", "--lr"),
        ("rnn_mnist", "--LR=0.1", "--lr"),
        ("rnn_mnist", "--hidden 64", "--hidden-size"),
        ("rnn_mnist", "--batch_size 64", "--batch-size"),
        ("rnn_mnist", "--cell LSMT", "lstm"),
        ("rnn_mnist", "--channels rgb", None),  # `--cell` is near only by its dashes
        ("cnn_cifar10", "--optimizer adamm", "adam"),
        ("cnn_cifar10", "--optimizer rmsprop", None),
        ("cnn_cifar10", "-5", None),
        ("report", "--sede 3", "--seeds"),
        ("report", "--list --sort test/acuracy", "test/accuracy"),
        ("visualize", "best.pt --imags 3", "--images"),
    ],
)
def test_mistyped_flag_or_choice_gets_the_one_that_was_meant(
    script: str, line: str, meant: str | None, run_main: Callable
) -> None:
    code, _, err = run_main(script, *line.split())
    assert code == 2
    assert f"; did you mean {meant}? (--help" in err if meant else "did you mean" not in err


def test_choices_are_read_in_any_case(read_flags: Callable) -> None:
    flags = read_flags("rnn_mnist", "--optimizer", "Adam", "--cell=LSTM", "--precision", "BF16", "--data", "MNIST")
    assert (flags.optimizer, flags.cell, flags.precision, flags.data) == ("adam", "lstm", "bf16", "mnist")
    assert run_name(flags) == "lstm-h128-adam-lr0.001-e10-bf16-s0"


@pytest.mark.parametrize("script", [*SCRIPTS, "visualize", "report"])
def test_lone_dashes_are_no_value_of_any_flag(script: str, run_main: Callable, in_project: Path) -> None:
    """Python 3.11 would take an empty list instead, which neither the flag's type nor its choices have seen."""
    positional = ["best.pt"] if script == "visualize" else []
    actions = importlib.import_module(script).make_parser()._actions
    for name in (action.option_strings[-1] for action in actions if action.option_strings):
        code, out, err = run_main(script, *positional, f"{name}=--")
        assert (code, out, err) == (2, "", f"error: argument {name}: -- is no value (--help lists every flag)\n")
    assert list(in_project.iterdir()) == []


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [*SCRIPTS, "visualize", "report"])
def test_every_path_may_lie_in_the_home_folder(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The shell replaces a ~ that begins a word, and leaves that of --runs-dir=~/x to the program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    parser = importlib.import_module(script).make_parser()
    positional = ["~/best.pt"] if script == "visualize" else []
    names = {"data_dir", "mirror", "runs_dir", "out", "grid"} & {action.dest for action in parser._actions}
    flags = vars(parser.parse_args([*positional, *(f"--{name.replace('_', '-')}=~/a b" for name in names)]))
    assert {name: Path(flags[name]) for name in names} == dict.fromkeys(names, tmp_path / "a b") and len(names) >= 3
    assert flags.get("checkpoint", tmp_path / "best.pt") == tmp_path / "best.pt"
    paths = {name for name, value in flags.items() if isinstance(value, Path)} | {"mirror"} & names
    assert paths == names | {"checkpoint"} & flags.keys()  # there is no other


@pytest.mark.parametrize(
    ("typed", "mirror"),
    [
        ("http://host/~me/a%20b/", "http://host/~me/a%20b/"),
        ("file:///tmp/a%20b.tar.gz", "/tmp/a b.tar.gz"),
        ("FILE://localhost/tmp/a/", "/tmp/a/"),
        ("~no-such-user/a.tar.gz", "~no-such-user/a.tar.gz"),
        ("a.tar.gz", "a.tar.gz"),
    ],
)
def test_mirror_is_a_url_or_a_path(typed: str, mirror: str, read_flags: Callable) -> None:
    assert read_flags("rnn_mnist", "--mirror", typed).mirror == mirror


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def resume(read_flags: Callable) -> Callable[..., argparse.Namespace]:
    """resume(recorded command line, typed command line, changes to the record) -> the flags to continue with."""

    def call(recorded: str, typed: str, **changes: object) -> argparse.Namespace:
        record = json.loads(json.dumps(recorded_flags(read_flags("cnn_cifar10", *recorded.split()))))
        return resumed_flags(read_flags("cnn_cifar10", *typed.split(), "--resume"), record | changes)

    return call


def test_flags_not_typed_keep_their_recorded_values(resume: Callable) -> None:
    line = "--optimizer sgd --momentum 0.9 --lr 0.3 --batch-size 256 --augment --channels rgb --seed 5 --epochs 40"
    flags = resume(f"{line} --device cpu --threads 3 --snapshot-epochs 4", "")
    assert (flags.optimizer, flags.momentum, flags.lr, flags.batch_size) == ("sgd", 0.9, 0.3, 256)
    assert (flags.augment, flags.channels, flags.seed, flags.epochs) == (True, "rgb", 5, 40)
    assert (flags.device, flags.threads, flags.snapshot_epochs, flags.resume) == ("cpu", 3, "4", True)


def test_typed_flag_equal_to_the_record_is_no_change(resume: Callable) -> None:
    assert resume("--lr 0.5 --augment", "--lr 5e-1 --augment").lr == 0.5
    assert resume("--augment mirror,shift:3", "--augment shift:3,mirror").augment == "mirror,shift:3"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--lr 0.02", "--lr 0.02 differs from the recorded 0.5"),
        ("--lr 0.01", "--lr 0.01 differs from the recorded 0.5"),  # typed at its default is typed
        ("--batch-size 128", "--batch-size 128 differs from the recorded 256"),
        ("--augment", "--augment True differs from the recorded False"),
        ("--augment mirror", "--augment mirror differs from the recorded False"),
        ("--precision bf16", "--precision bf16 differs"),
        ("--seed 1", "--seed 1 differs"),
        ("--snapshot-epochs 3", "--snapshot-epochs 3 differs"),
    ],
)
def test_typed_flag_that_differs_from_the_record_is_refused_by_name(resume: Callable, typed: str, told: str) -> None:
    with pytest.raises(UserError) as refusal:
        resume("--lr 0.5", typed)
    assert told in str(refusal.value)


def test_epochs_may_grow_and_not_shrink(resume: Callable) -> None:
    assert resume("--epochs 3", "--epochs 5").epochs == 5
    assert resume("--epochs 3", "--epochs 3").epochs == 3
    with pytest.raises(UserError, match=r"--epochs 2 is less than the recorded 3; it may only grow"):
        resume("--epochs 3", "--epochs 2")


@pytest.mark.parametrize("schedule", ["cosine", "triangle"])
def test_epochs_may_not_grow_where_the_schedule_ends_with_them(schedule: str, resume: Callable) -> None:
    line = f"--schedule {schedule} --epochs 3"
    assert resume(line, "--epochs 3").epochs == 3
    told = f"--epochs 5 is more than the recorded 3, over which the learning rate of --schedule {schedule} falls to 0"
    for typed in ("--epochs 5", f"--epochs 5 --schedule {schedule}"):
        with pytest.raises(UserError, match=told):
            resume(line, typed)
    assert resume("--warmup 2 --epochs 3", "--epochs 5").epochs == 5


def test_device_and_threads_may_change(resume: Callable) -> None:
    flags = resume("--device cuda --threads 8", "--device cpu --threads 2")
    assert (flags.device, flags.threads) == ("cpu", 2)


def test_places_are_those_typed_now_not_those_recorded(resume: Callable) -> None:
    flags = resume("--data-dir old --runs-dir old --mirror old --name old", "--data-dir new --name new")
    assert (flags.data_dir, flags.runs_dir, flags.mirror, flags.name) == (Path("new"), Path("runs"), None, "new")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("lr", value) for value in ("; rm -rf .", None, False, True, [0.1], "nan")),
        *(("augment", value) for value in ("yes", None, 1)),
        *{"epochs": 0, "optimizer": "eval", "batch_size": 1.5, "seed": -1, "threads": 10**12}.items(),
        *{"snapshot_epochs": "0", "channels": {"a": 1}, "device": None}.items(),
    ],
)
def test_record_with_a_value_that_cannot_be_typed_is_refused(resume: Callable, name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
        resume("", "", **{name: value})


def test_record_that_lacks_a_flag_is_refused_by_name(read_flags: Callable) -> None:
    record = recorded_flags(read_flags("rnn_mnist"))
    del record["hidden_size"]
    with pytest.raises(UserError, match="its record lacks --hidden-size; another version made it"):
        resumed_flags(read_flags("rnn_mnist", "--resume"), record)


def test_run_of_before_a_flag_was_added_is_resumed_with_its_default(read_flags: Callable) -> None:
    record = recorded_flags(read_flags("rnn_mnist"))
    for name in ("compile", "augment", "schedule"):
        del record[name]
    resumed = resumed_flags(read_flags("rnn_mnist", "--resume"), record)
    assert (resumed.compile, resumed.augment, resumed.schedule) == (False, False, "constant")
    with pytest.raises(UserError, match="--compile True differs from the recorded False"):
        resumed_flags(read_flags("rnn_mnist", "--resume", "--compile"), record)


def test_resume_command_repeats_the_flags_and_asks_to_resume_once(read_flags: Callable) -> None:
    for way in ("--overwrite", "--resume"):
        flags = read_flags("rnn_mnist", "--runs-dir", "my runs", way, "--lr", "0.5")
        assert resume_command(flags).startswith(f"{command_line([program('python')])} ")
        assert resume_command(flags).endswith(f" {command_line(['--runs-dir', 'my runs'])} --lr 0.5 --resume")


# -- what else is derived from the table -------------------------------------------------------------------------------


def test_every_committed_run_lies_in_the_folder_that_its_flags_name(read_flags: Callable) -> None:
    configs = [*PROJECT.glob("report/**/runs/*/*/config.json")]
    assert len(configs) >= 250
    for config in configs:
        recorded = json.loads(config.read_text())["flags"]
        script = {"cnn": "cnn_cifar10", "rnn": "rnn_mnist"}[config.parent.parent.name[:3]]
        flags = resumed_flags(read_flags(script, "--resume"), recorded)
        assert config.parent.name.removesuffix("-former") in (recorded["name"], run_name(flags))


def test_both_scripts_have_the_same_hyper_parameters_and_epochs_is_none_of_them(read_flags: Callable) -> None:
    cnn, rnn = (hparams(recorded_flags(read_flags(script)), script) for script in SCRIPTS)
    assert list(cnn) == list(rnn)
    shared = {
        "classes": "",
        "validation": 0,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip_grad_norm": 0.0,
        **{"augment": "no", "nesterov": "no", "schedule": "constant", "warmup": 0.0, "label_smoothing": 0.0},
        **{"test_time_augmentation": "no", "average_weights": 0.0},
        "precision": "fp32",
        "seed": 0,
    }
    assert cnn == shared | {
        **{"experiment": "cnn_cifar10", "data": "cifar10", "optimizer": "adagrad", "lr": 0.01, "batch_size": 256},
        **{"channels": "gray", "fc_activation": "tanh", "cell": "-", "hidden_size": "-"},
        **{"model": "lenet5", "layers": "-", "bidirectional": "-", "dropout": "-"},
        **{"kernel_size": "5", "stride": "1", "conv1_maps": "32", "conv2_maps": "64", "fc_units": "1024"},
        "max_filter_rms": "0.0",
    }
    assert rnn == shared | {
        **{"experiment": "rnn_mnist", "data": "mnist", "optimizer": "adam", "lr": 0.001, "batch_size": 64},
        **{"channels": "-", "fc_activation": "-", "cell": "gru", "hidden_size": "128"},
        **{"model": "-", "layers": "1", "bidirectional": "no", "dropout": "0.0"},
        **dict.fromkeys(("kernel_size", "stride", "conv1_maps", "conv2_maps", "fc_units", "max_filter_rms"), "-"),
    }


def test_rows_flags_are_read_by_the_scripts_own_parser(read_flags: Callable) -> None:
    parser = read_flags("cnn_cifar10").parser
    row = parse_row_flags(parser, {"lr": 1, "augment": True, "channels": "RGB", "epochs": 3})
    assert row == {"lr": 1.0, "augment": True, "channels": "rgb", "epochs": 3} and type(row["lr"]) is float
    assert parse_row_flags(parser, {"augment": False}) == {"augment": False}
    assert parse_row_flags(parser, {"augment": "shift:4,alternate"}) == {"augment": "alternate,shift"}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"cell": "gru"}, "cnn_cifar10.py has no flag 'cell'"),
        ({"batch-size": 3}, "cnn_cifar10.py has no flag 'batch-size'; did you mean batch_size?"),
        ({"seed": 1}, "seed is not a row's business; a row may set optimizer, lr, epochs, classes, "),
        *(({name: "x"}, f"{name} is not a row's business") for name in ("data", "precision", "device", "runs_dir")),
        ({"snapshot_epochs": "1"}, "snapshot_epochs is not a row's business"),
        ({"lr": "0.1"}, "lr must be a number, not '0.1'"),
        ({"epochs": 2.0}, "epochs must be a whole number, not 2.0"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"augment": 1}, "augment must be true or false, or text in quotes, not 1"),
        ({"channels": "x" * 100}, "argument --channels: invalid choice: 'xxx"),
        ({"lr": -1}, "argument --lr: -1 is not a number above 0"),
        ({"momentum": 0.9}, "--momentum is a flag of --optimizer sgd"),
    ],
)
def test_row_with_a_wrong_flag_or_value_is_refused_by_name(row: dict, told: str, read_flags: Callable) -> None:
    with pytest.raises(UserError) as refusal:
        parse_row_flags(read_flags("cnn_cifar10").parser, row)
    assert str(refusal.value).startswith(told)
    assert "--help" not in str(refusal.value)  # which of report.py's user nobody has typed


def test_words_of_a_command_line_are_read_back_as_the_same_flags(read_flags: Callable) -> None:
    kinds = {"augment": "mirror,shift:2"}
    assert kinds.items() <= vars(read_flags("rnn_mnist", *flag_words(kinds))).items()
    given = {"optimizer": "sgd", "momentum": 0.5, "augment": True, "resume": False, "data_dir": Path("x y")}
    words = flag_words(given)
    assert words == ["--optimizer=sgd", "--momentum=0.5", "--augment", "--data-dir=x y"]
    assert given.items() <= vars(read_flags("cnn_cifar10", *words)).items()


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (("lr",), "learning rate"),
        (("hidden_size",), "hidden size"),
        (("clip_grad_norm",), "largest gradient norm"),
        (("optimizer", "adagrad"), "Adagrad"),
        (("cell", "gru"), "GRU"),
        (("data", "synthetic"), "synthetic images"),
        (("augment", True), "yes"),
        (("lr", 1e-05), "1e-05"),
        (("lr", 0.123456789), "0.123456789"),
        (("lr", None), "default"),
        (("channels", ["foreign"]), "['foreign']"),
        (("of_another_version", 3), "3"),
    ],
)
def test_report_calls_flags_and_values_by_their_labels(arguments: tuple, label: str) -> None:
    assert flag_label(*arguments) == label


def test_figures_call_a_flag_with_its_value_by_a_few_letters() -> None:
    values = {"lr": 0.01, "hidden_size": 64, "optimizer": "adam", "channels": "rgb", "epochs": 20}
    assert [flag_label(name, value, short=True) for name, value in values.items()] == [
        *("lr 0.01", "h64", "Adam", "rgb", "20 epochs")
    ]
    assert flag_label("epochs", 1, short=True) == "1 epoch"
    assert flag_label("batch_size", 64, short=True) == "batch size 64"


def test_other_scripts_take_flags_of_the_table_with_changes_of_their_own() -> None:
    parser = Parser(description="another script")
    add_flags(parser, "data_dir", "device")
    add_flags(parser, "seed", help="of the choice")
    assert vars(parser.parse_args(["--seed", "3"])) == {"data_dir": Path("data"), "device": "auto", "seed": 3}
    assert "of the choice (default: 0)" in parser.format_help()
    with pytest.raises(UserError, match="--device: invalid choice"):
        parser.parse_args(["--device", "tpu"])
