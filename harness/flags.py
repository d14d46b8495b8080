"""The training scripts' command line: the flags both share, which of them change a run's result, and a run's name.

Imports nothing heavy, so that --help and a wrong flag answer at once. `training_parser` makes the parser, a script adds
its own flags with `add_argument`, `parse_flags` reads the command line.
"""

import argparse
import contextlib
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import UserError
from harness.ranks import launcher

DEFAULT_SNAPSHOTS = "1,2,5,10,20,50,100"

# The flags that change a run's result, in the order in which they stand in a run's name, each with how it is written
# there. The first five always stand there, the others when they differ from their default; `seed` comes last.
_ALWAYS_NAMED = {"cell": "{}", "hidden_size": "h{}", "optimizer": "{}", "lr": "lr{}", "epochs": "e{}"}
_NAMED_IF_CHANGED = {
    "data": "{}",
    "channels": "{}",
    "fc_activation": "{}",
    "augment": "augment",
    "batch_size": "b{}",
    "momentum": "momentum{}",
    "weight_decay": "wd{}",
    "clip_grad_norm": "clip{}",
    "precision": "{}",
}
RESULT_FLAGS = (*_ALWAYS_NAMED, *_NAMED_IF_CHANGED, "seed")

# A resumed run keeps every recorded flag but these. The first group may be given anew; the others say where things
# lie on this machine or what to do, and change nothing in the run.
MAY_CHANGE = ("epochs", "device", "threads")
_NOT_OF_THE_RUN = ("data_dir", "mirror", "runs_dir", "name", "resume", "overwrite", "dry_run")
_ADDED_LATER = ("compile",)  # older runs do not record these: they ran with the default


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong flag gets one sentence instead of the whole usage."""

    def error(self, message: str) -> None:
        raise UserError(f"{message} (--help lists every flag)")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Each flag's default after its help, where it has one worth telling."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False or "off" in action.help:
            return action.help
        return super()._get_help_string(action)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of a flag that takes the whole numbers from `least` to `most`, both included."""
    allowed = f"of at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text} is not a whole number {allowed}")
        return value

    parse.__name__ = "whole number"  # argparse names the type in "invalid ... value"
    return parse


positive_int = whole_number(1)
up_to_1024 = whole_number(1, 1024)
seed_number = whole_number(0, 2**32 - 1)


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def non_negative_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def below_one_float(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to below 1")
    return value


def gpu_share(text: str) -> float:
    value = float(text)
    if not (value == 0 or 0.01 <= value <= 1):
        raise argparse.ArgumentTypeError(f"{text} is neither 0 nor a number from 0.01 to 1")
    return round(value, 4)  # finer shares Ray does not know


def epoch_list(text: str) -> str:
    """A list of epochs such as 1,2,5, kept as text; empty for none."""
    if any(int(part) < 1 for part in text.split(",") if text):
        raise argparse.ArgumentTypeError(f"{text} is not a list of epochs such as 1,2,5")
    return text


def map_numbers(text: str) -> tuple[str, list[int]]:
    """`conv1:3,7` to ("conv1", [3, 7]); without a layer its name is empty."""
    layer, _, numbers = text.rpartition(":")
    try:
        return layer, [int(number) for number in numbers.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a list of maps such as 3,17 or conv1:3,17") from None


def folder_name(text: str) -> str:
    """A name for a new folder: one that it can have on every system, and that no command line takes for a flag."""
    special = any(character in text for character in '/\\:*?"<>|') or not text.isprintable()
    if special or existing_folder_name(text)[0] == "-":
        raise _no_name(text)
    return text


def existing_folder_name(text: str) -> str:
    """A name that a folder can have on this system."""
    if text in ("", ".", "..") or not {*text}.isdisjoint("/\\:\0" if os.name == "nt" else "/\0"):
        raise _no_name(text)
    return text


def _no_name(text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{text!r} cannot be the name of a folder")


positive_float.__name__ = non_negative_float.__name__ = below_one_float.__name__ = gpu_share.__name__ = "number"
epoch_list.__name__ = "list of epochs"


def training_parser(
    description: str, *, data: Sequence[str], optimizer: str, lr: float, epochs: int, batch_size: int
) -> argparse.ArgumentParser:
    """The parser with every flag that both scripts have.

    `data` lists the choices of --data, the default first; the other arguments are defaults. The returned parser's
    attribute `model_group` is the argument group for the script's own flags.
    """
    parser = Parser(description=description, formatter_class=Help, allow_abbrev=False)

    group = parser.add_argument_group("data")
    group.add_argument("--data", choices=data, default=data[0], help="image set to train and test on")
    group.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the image sets, filled if empty")
    group.add_argument("--mirror", help="URL, or local path, of the archive(s), tried before the known sources")

    parser.model_group = parser.add_argument_group("model")

    group = parser.add_argument_group("optimization")
    choices = ("adam", "adagrad", "adamw", "sgd")
    group.add_argument("--optimizer", choices=choices, default=optimizer, help="PyTorch's, other settings as there")
    group.add_argument("--lr", type=positive_float, default=lr, help="learning rate")
    group.add_argument("--momentum", type=below_one_float, default=0.0, help="of sgd; 0, the default, is off")
    group.add_argument("--weight-decay", type=non_negative_float, default=0.0, help="0, the default, is off")
    group.add_argument(
        "--clip-grad-norm", type=non_negative_float, default=0.0, help="largest gradient norm; 0, the default, is off"
    )
    group.add_argument("--batch-size", type=positive_int, default=batch_size, help="images a step")
    group.add_argument("--epochs", type=positive_int, default=epochs, help="passes over the training images")
    group.add_argument("--seed", type=seed_number, default=0, help="of the first weights and the order of the images")

    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: cuda, mps or cpu"
    )
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="bf16: autocast to bfloat16")
    group.add_argument(
        "--threads",
        type=up_to_1024,
        help="CPU threads (default: as PyTorch has it; same bits need same)",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the CNN (torch.compile; on CUDA into CUDA graphs)"
    )

    group = parser.add_argument_group("run folder")
    group.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of all runs")
    group.add_argument("--name", type=existing_folder_name, help="of this run's folder (default: made from the flags)")
    ways = group.add_mutually_exclusive_group()
    ways.add_argument("--resume", action="store_true", help="continue the run that the flags or --name select")
    ways.add_argument("--overwrite", action="store_true", help="delete that run and start anew")
    ways.add_argument("--dry-run", action="store_true", help="a couple of batches through everything, nothing kept")
    return parser


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line (default: the process's own) and check what argparse cannot.

    Beside the flags the namespace has `given` (names of the flags that were typed), `parser` and `command` (the command
    as typed). Raises UserError on a wrong flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = parser.parse_args(argv)
    if flags.momentum and flags.optimizer != "sgd":
        parser.error("--momentum is a flag of --optimizer sgd")
    absent = object()  # parsing into a namespace that has every flag already shows which ones were typed
    typed = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(flags), absent)))
    flags.given = frozenset(name for name, value in vars(typed).items() if value is not absent)
    flags.parser = parser
    if not flags.resume:
        check_new_name(flags)
    first, *rest = launcher()
    flags.command = [program(first), *rest, sys.argv[0], *argv]
    return flags


def check_new_name(flags: argparse.Namespace) -> None:
    """UserError if --name is not fit for a new folder."""
    if flags.name:
        try:
            folder_name(flags.name)
        except argparse.ArgumentTypeError as error:
            flags.parser.error(f"argument --name: {error}")


def recorded_flags(flags: argparse.Namespace) -> dict:
    """What config.json records: every argparse value by its argparse name, as JSON has it."""
    own = ("given", "parser", "command")
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(flags).items() if name not in own
    }


def run_name(flags: argparse.Namespace) -> str:
    """The run folder's name: the experiment's main flags, every other result-changing flag off its default, the seed.

    For example `adagrad-lr0.01-e20-s0` or `gru-h128-adam-lr0.001-e10-b256-bf16-s0`.
    """
    values = vars(flags)
    parts = [form.format(_short(values[name])) for name, form in _ALWAYS_NAMED.items() if name in values]
    for name, form in _NAMED_IF_CHANGED.items():
        if name in values and values[name] != flags.parser.get_default(name):
            parts.append(form.format(_short(values[name])))
    return "-".join([*parts, f"s{flags.seed}"])


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def resumed_flags(flags: argparse.Namespace, recorded: dict) -> argparse.Namespace:
    """The flags to continue a run with: those recorded, but for what may change and was typed.

    The record may come from a stranger's file, so it goes through the same parser as a command line. Raises UserError
    with a sentence that names the flag if a typed flag differs from the recorded one and may not, or if the record
    lacks a flag or has a value that could not have been typed.
    """
    run_flags = [name for name in recorded_flags(flags) if name not in _NOT_OF_THE_RUN]
    recorded = {name: flags.parser.get_default(name) for name in _ADDED_LATER} | recorded
    missing = [option(name) for name in run_flags if name not in recorded]
    if missing:
        raise UserError(f"its record lacks {', '.join(missing)}; another version made it")
    argv = []
    for name in run_flags:
        if recorded[name] is True:
            argv.append(option(name))
        elif recorded[name] is not flags.parser.get_default(name):  # a flag left alone is recorded as None or False
            argv.append(f"{option(name)}={recorded[name]}")
    was = flags.parser.parse_args(argv)
    resumed = argparse.Namespace(**vars(flags))
    for name in run_flags:
        typed, before = getattr(flags, name), getattr(was, name)
        if name not in flags.given:
            setattr(resumed, name, before)
        elif name == "epochs" and typed < before:
            raise UserError(f"--epochs {typed} is less than the recorded {before}; it may only grow")
        elif name not in MAY_CHANGE and typed != before:
            raise UserError(
                f"{option(name)} {typed} differs from the recorded {before}; "
                "only --epochs, --device and --threads may change on --resume"
            )
    return resumed


def option(name: str) -> str:
    """`batch_size` as it is typed: `--batch-size`."""
    return "--" + name.replace("_", "-")


def resume_command(flags: argparse.Namespace) -> str:
    """The command line that continues this run, ready to be pasted into a shell."""
    kept = [word for word in flags.command if word not in ("--overwrite", "--resume")]
    return command_line([*kept, "--resume"])


def command_line(words: Sequence[str], *, windows: bool = os.name == "nt") -> str:
    """The words as they are typed, quoted for this system's shell: on Windows cmd.exe knows double quotes only."""
    return subprocess.list2cmdline(words) if windows else shlex.join(words)


def typed_path(path: Path | str) -> str:
    """A path as a word of a command line, where one that begins with a dash would be taken for a flag."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def program(name: str) -> str:
    """How a program of this Python's environment is typed: its name if a shell finds it by that, else its path.

    The environment of the Python that runs may not be the active one: `.venv/bin/python rnn_mnist.py` is enough.
    """
    if not sys.executable:  # Python does not know
        return name
    python = Path(sys.executable)
    own = python if name == "python" else python.with_name(f"{name}.exe" if os.name == "nt" else name)
    with contextlib.suppress(OSError, TypeError):  # TypeError: there is none on the PATH
        found = Path(shutil.which(name))
        if found.parent.samefile(own.parent) and found.samefile(own):
            return name
    if not own.exists():
        return name
    typed = own.with_suffix("") if os.name == "nt" else own
    with contextlib.suppress(OSError):  # the current folder may be gone
        here = Path.cwd()
        typed = typed.relative_to(here) if here in typed.parents[1:] else typed
    if os.name == "nt" and " " in str(typed):
        return name  # PowerShell takes a program in quotes for a text
    return str(typed)


def snapshot_epochs(flags: argparse.Namespace) -> frozenset[int]:
    """The epochs after which --snapshot-epochs asks for the convolution weights; none for a script without the flag."""
    text = getattr(flags, "snapshot_epochs", "")
    return frozenset(int(part) for part in text.split(",") if part)
