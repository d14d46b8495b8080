"""The flags of the training scripts: one table, GROUPS, from which all that concerns flags is derived.

A flag is one entry of the table and its use in the code. From the entry come the parser and its --help, the run's name,
what --resume checks, TensorBoard's hyper-parameters, what a grid's row may set and what the report calls it. Imports
nothing heavy, so that --help and a wrong flag answer at once. `training_parser` makes a script's parser, `parse_flags`
reads the command line; report.py and visualize.py take single entries by `add_flags`.
"""

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness import image_sets
from harness.cli import command_line, program
from harness.errors import FlagError, UserError
from harness.image_sets import CNN, RNN
from harness.optimizers import OPTIMIZERS
from harness.ranks import launcher


@dataclass(frozen=True)
class Flag:
    """One flag, as the table has it."""

    help: str
    default: object = None  # False makes it a switch; a dict has it for each script that has the flag
    may_stand_alone: bool = False  # a switch that may also be given a value, of this type
    type: Callable[[str], object] | None = None
    choices: Sequence[str] | Mapping[str, str] = ()  # a mapping says what the report calls each
    # A flag that changes the result stands in the run's name, in this form; "" says that it changes nothing.
    in_name: str = ""
    always: bool = False  # in the name also at its default
    set_by_report: bool = False  # report.py gives it to every run of a grid, so that a row may not
    of_run: bool = True  # False: it says where things lie or what to do, and every command line says it anew
    may_change: bool = False  # on --resume
    added_later: bool = False  # older runs do not record it: they ran with its default
    label: str = ""  # what the report calls it; without one, its name
    short: str = ""  # label and value in a few letters, for a figure; without one, both


# -- types of flags ----------------------------------------------------------------------------------------------------


def checked(kind: Callable, name: str, refusal: str, is_allowed: Callable) -> Callable[[str], object]:
    """A flag's type: `kind` reads its text, `is_allowed` judges the value, and `refusal` says no ({} is the text).

    `name` is what argparse calls a text that `kind` cannot read: "invalid <name> value".
    """

    def parse(text: str) -> object:
        value = kind(text)
        if not is_allowed(value):
            raise argparse.ArgumentTypeError(refusal.format(text))
        return value

    parse.__name__ = name
    return parse


def whole_number(least: int, most: float = math.inf) -> Callable[[str], int]:
    """The type of a flag that takes the whole numbers from `least` to `most`, both included."""
    allowed = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
    return checked(int, "whole number", f"{{}} is not a whole number {allowed}", lambda n: least <= n <= most)


def is_folder_name(text: str) -> bool:
    """Whether a folder can have this name on this system, as a run's that was renamed."""
    return text not in ("", ".", "..") and {*text}.isdisjoint("/\\:\0" if os.name == "nt" else "/\0")


def is_new_folder_name(text: str) -> bool:
    """Whether a folder can have this name on every system, and no command line takes it for a flag."""
    return is_folder_name(text) and text.isprintable() and not re.search(r'^-|[/\\:*?"<>|]', text)


def map_numbers(text: str) -> tuple[str, list[int]]:
    """`conv1:3,7` to ("conv1", [3, 7]); without a layer its name is empty."""
    if not re.fullmatch(r"(.*:)?-?\d+(,-?\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text} is not a list of maps such as 3,17 or conv1:3,17")
    layer, _, numbers = text.rpartition(":")
    return layer, [int(number) for number in numbers.split(",")]


def path(text: str) -> Path:
    """A path as typed; of `--runs-dir=~/x`, for example, the shell leaves it to the program to find the home folder."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - as in a shell, ~ of a user who is not there is a name


def path_or_url(text: str) -> str:
    """A URL as it is, but for file:///…, which is a path."""
    if text.lower().startswith("file:"):
        from urllib.request import url2pathname  # takes longer to import than all other modules of --help

        text = url2pathname(urlsplit(text).path)
    return os.path.expanduser(text)  # noqa: PTH111 - Path would take a slash from a URL


positive_int = whole_number(1)
up_to_1024 = whole_number(1, 1024)
odd_int = checked(int, "odd number", "{} is not an odd number from 1 to 15", lambda n: n % 2 == 1 and 1 <= n <= 15)
seed_number = whole_number(0, 2**32 - 1)
positive_float = checked(float, "number", "{} is not a number above 0", lambda x: 0 < x < math.inf)
non_negative_float = checked(float, "number", "{} is not a number of at least 0", lambda x: 0 <= x < math.inf)
below_one_float = checked(float, "number", "{} is not a number from 0 to below 1", lambda x: 0 <= x < 1)
_SHARE = "{} is neither 0 nor a number from 0.01 to 1"
gpu_share = checked(lambda text: round(float(text), 4), "number", _SHARE, lambda x: x == 0 or 0.01 <= x <= 1)
folder_name = checked(str, "name", "{!r} cannot be the name of a folder", is_folder_name)


def is_class_list(text: str) -> bool:
    """Whether it is empty or names two classes or more, in rising order: `0,1,2`."""
    numbers = {*map(int, text.split(","))} if re.fullmatch(r"\d{1,4}(,\d{1,4})+", text) else ()
    return text == ",".join(map(str, sorted(numbers)))


class_list = checked(str, "list", "{} is not two classes or more in rising order, such as 0,1,2", is_class_list)
_EPOCHS = re.compile(r"(0*[1-9]\d{0,8}(,0*[1-9]\d{0,8})*)?")
epoch_list = checked(str, "list", "{} is not a list of epochs such as 1,2,5", _EPOCHS.fullmatch)  # kept as text


# What --augment may do to a training image: the usual size of each kind, if it has one, and that size's type.
AUGMENTATIONS: dict[str, tuple | None] = {
    "mirror": None,
    "alternate": None,
    "shift": (4, whole_number(1, 27)),
    "reflect": (4, whole_number(1, 27)),
    "cutout": (12, positive_int),
    "rotate": (12.0, positive_float),
    "scale": (0.12, below_one_float),
    "shear": (0.2, positive_float),
}


def augmentations(value: str | bool) -> dict[str, float]:
    """The kinds in a value of --augment, in the table's order, each with its size, or 0 if it has none."""
    given = {}
    for word in value.casefold().split(",") if isinstance(value, str) else ["mirror", "shift"] * value:
        kind, colon, size = word.partition(":")
        if kind not in AUGMENTATIONS or (colon and not AUGMENTATIONS[kind]):
            meant = did_you_mean(word, AUGMENTATIONS)
            raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(AUGMENTATIONS)}{meant}")
        usual, type_of_size = AUGMENTATIONS[kind] or (0, None)
        given[kind] = type_of_size(size) if colon else usual
    return {kind: given[kind] for kind in AUGMENTATIONS if kind in given}


def augmentation(text: str) -> str:
    """A value of --augment as everybody writes it: the kinds in the table's order, sizes only where not the usual."""
    usual = {kind: size[0] for kind, size in AUGMENTATIONS.items() if size}
    sizes = augmentations(text).items()
    return ",".join(f"{kind}:{_short_number(size)}" * (size != usual.get(kind, 0)) or kind for kind, size in sizes)


# -- the table ---------------------------------------------------------------------------------------------------------

_CELLS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}
_OPTIMIZERS = {name: entry.title for name, entry in OPTIMIZERS.items()}
_OFF = "%(default)g, the default, is off"
_WITHOUT = "0: without it"
_TORCHRUN = """On several devices: torchrun --nproc-per-node=2 {}.py, then the flags. Where this machine's name does not
resolve torchrun hangs, unless --local-addr=127.0.0.1 stands before the script."""

# By the groups of --help. Their order is also that of a run's name, where what is always named comes first.
GROUPS: dict[str, dict[str, Flag]] = {
    "data": {
        "data": Flag("image set to train and test on", choices=image_sets.titles(), in_name="{}", set_by_report=True),
        "classes": Flag("train and test on these classes only, as 0,1,2,3,4 (default: all)", "", type=class_list,
                        in_name="classes{}", added_later=True),
        "validation": Flag(f"training images to hold out, as many of each class, and choose best.pt by; {_OFF}", 0,
                           type=whole_number(0), in_name="val{}", added_later=True,
                           label="images held out for validation", short="{} held out"),
        "data_dir": Flag("folder of the image sets, filled if empty", Path("data"), type=path, of_run=False),
        "mirror": Flag("URL, or local path, of the archive(s), tried before the known sources", type=path_or_url,
                       of_run=False),
    },
    "model": {
        "model": Flag("LeNet5, or VGG: seven convolutions with batch normalization", {CNN: "lenet5"},
                      choices={"lenet5": "LeNet5", "vgg": "VGG"}, in_name="{}", added_later=True, label="network",
                      short="{}"),
        "cell": Flag("kind of recurrent layer", {RNN: "gru"}, choices=_CELLS, in_name="{}", always=True),
        "hidden_size": Flag("hidden units of the recurrent layer", {RNN: 128}, type=positive_int,
                            in_name="h{}", always=True, short="h{}"),
        "layers": Flag("recurrent layers, each on the outputs of the one before", {RNN: 1}, type=positive_int,
                       in_name="layers{}", added_later=True, label="recurrent layers", short="{} layers"),
        "bidirectional": Flag("read the rows from both ends", {RNN: False}, in_name="bidirectional",
                              added_later=True),
        "dropout": Flag(f"share of units dropped between layers and before the linear one; {_OFF}", {RNN: 0.0},
                        type=below_one_float, in_name="dropout{}", added_later=True),
        "channels": Flag("channels of the images", {CNN: "gray"}, choices=("gray", "rgb"),
                         in_name="{}", short="{}"),
        "fc_activation": Flag("activation between LeNet5's linear layers", {CNN: "tanh"}, choices=("tanh", "relu"),
                              in_name="{}", label="activation between the linear layers"),
        "kernel_size": Flag("rows and columns of LeNet5's first filters", {CNN: 5}, type=odd_int, in_name="k{}",
                            added_later=True, label="first filters' size"),
        "stride": Flag("of LeNet5's first convolution", {CNN: 1}, type=whole_number(1, 8), in_name="stride{}",
                       added_later=True, label="first stride"),
        "conv1_maps": Flag(f"maps of LeNet5's first convolution; {_WITHOUT}", {CNN: 32}, type=whole_number(0, 4096),
                           in_name="conv1x{}", added_later=True, label="maps of conv1"),
        "conv2_maps": Flag(f"maps of LeNet5's second convolution; {_WITHOUT}", {CNN: 64}, type=whole_number(0, 4096),
                           in_name="conv2x{}", added_later=True, label="maps of conv2"),
        "fc_units": Flag(f"units of LeNet5's hidden linear layer; {_WITHOUT}", {CNN: 1024},
                         type=whole_number(0, 65_536), in_name="fc{}", added_later=True, label="hidden linear units"),
        "snapshot_epochs": Flag("keep these epochs' filters", {CNN: "1,2,5,10,20,50,100"}, type=epoch_list),
    },
    "augmentation": {
        "augment": Flag(f"""change the training images at random: {', '.join(AUGMENTATIONS)}, as a list such as
                        alternate,shift:2 (docs/recipes.md); alone it means shift and, but for digits, mirror""",
                        False, may_stand_alone=True, type=augmentation, in_name="{}", added_later=True,
                        label="augmentation"),
        "test_time_augmentation": Flag("after the last epoch, measure the accuracy of the mean answer to an image and "
                                       "its shifted and mirrored views, too", False, in_name="tta", added_later=True),
    },
    "optimization": {
        "optimizer": Flag("PyTorch's, other settings as there", {CNN: "adagrad", RNN: "adam"}, choices=_OPTIMIZERS,
                          in_name="{}", always=True, short="{}"),
        "lr": Flag("learning rate", {CNN: 0.01, RNN: 0.001}, type=positive_float,
                   in_name="lr{}", always=True, label="learning rate", short="lr {}"),
        "epochs": Flag("passes over the training images", {CNN: 20, RNN: 10}, type=positive_int,
                       in_name="e{}", always=True, may_change=True, short="{} epochs"),
        "batch_size": Flag("images a step", {CNN: 256, RNN: 64}, type=positive_int, in_name="b{}"),
        "momentum": Flag(f"momentum of sgd; {_OFF}", 0.0, type=below_one_float, in_name="momentum{}"),
        "nesterov": Flag("Nesterov's momentum", False, in_name="nesterov", added_later=True),
        "weight_decay": Flag(f"weight decay; {_OFF}", 0.0, type=non_negative_float, in_name="wd{}"),
        "clip_grad_norm": Flag(f"largest gradient norm; {_OFF}", 0.0, type=non_negative_float,
                               in_name="clip{}", label="largest gradient norm"),
        "max_filter_rms": Flag(f"largest root mean square of a filter of LeNet5's; {_OFF}",
                               {CNN: 0.0}, type=non_negative_float, in_name="rms{}", added_later=True,
                               label="largest filter RMS"),
        "schedule": Flag("of the learning rate, step by step; cosine falls to 0; triangle rises, for the --warmup or a "
                         "fifth of the steps, then falls to 0", "constant",
                         choices=("constant", "cosine", "triangle"), in_name="{}", added_later=True),
        "warmup": Flag(f"epochs, or parts of one, over which the learning rate rises from 0; {_OFF}", 0.0,
                       type=non_negative_float, in_name="warmup{}", added_later=True, label="epochs of warmup"),
        "label_smoothing": Flag(f"share of each target that all classes get, in train/loss only; {_OFF}", 0.0,
                                type=below_one_float, in_name="smooth{}", added_later=True),
        "average_weights": Flag(f"keep an exponential average of the weights, with this decay a step, and evaluate it "
                                f"beside them; {_OFF}", 0.0, type=below_one_float, in_name="average{}",
                                added_later=True, label="decay of the averaged weights"),
        "seed": Flag("of the first weights, of the images' order and of what --validation holds out", 0,
                     type=seed_number, in_name="s{}", always=True, set_by_report=True),
    },
    "machine": {
        "device": Flag("auto: cuda, mps or cpu", "auto", choices=("auto", "cpu", "cuda", "mps"), may_change=True),
        "precision": Flag("bf16: autocast to bfloat16", "fp32", choices=("fp32", "bf16"),
                          in_name="{}", set_by_report=True),
        "threads": Flag("CPU threads (default: as PyTorch has it; same bits need same)", type=up_to_1024,
                        may_change=True),
        "compile": Flag("compile the CNN (torch.compile; on CUDA into CUDA graphs)", False, added_later=True),
    },
    "run folder": {
        "runs_dir": Flag("folder of all runs", Path("runs"), type=path, of_run=False),
        "name": Flag("of this run's folder (default: made from the flags)", type=folder_name, of_run=False),
        "resume": Flag("continue the run that the flags or --name select", False, of_run=False),
        "overwrite": Flag("delete that run and start anew", False, of_run=False),
        "dry_run": Flag("a couple of batches through everything, nothing kept", False, of_run=False),
    },
}  # fmt: skip
FLAGS = {name: flag for group in GROUPS.values() for name, flag in group.items()}

# The flags that change a run's result, in the order in which they stand in its name; the seed comes last.
RESULT_FLAGS = tuple(
    sorted((n for n, flag in FLAGS.items() if flag.in_name), key=lambda n: (n == "seed", not FLAGS[n].always))
)
ROW_FLAGS = tuple(name for name in RESULT_FLAGS if not FLAGS[name].set_by_report)  # those that a grid's row may set


# -- the parser --------------------------------------------------------------------------------------------------------


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Each flag's default after its help, where it has one worth telling and its help does not tell it already.

    Above and below the flags each paragraph is filled by itself; one with indented lines, as examples, stays as it is.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(each if "\n  " in each else fill(each, width, indent) for each in paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str:
        nothing_to_tell = action.default is None or action.default is False or action.default == ""
        return action.help if nothing_to_tell else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse, but a wrong flag gets one sentence instead of the whole usage; the case of a choice does not matter.

    No flag may be abbreviated: that would break with new ones. `examples` are command lines, shown below the flags.
    """

    def __init__(self, *, examples: Sequence[str] = (), epilog: str = "", **settings: object) -> None:
        if examples:
            epilog = "\n  ".join(["examples:", *examples]) + f"\n\n{epilog}"
        super().__init__(**{"formatter_class": Help, "allow_abbrev": False, "epilog": epilog} | settings)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: object = None) -> tuple:
        """Refuse `--flag=--`: argparse of Python 3.11 takes the value for an empty list, past type and choices."""
        args = sys.argv[1:] if args is None else list(args)
        for name, _, value in (word.partition("=") for word in args):
            if name.startswith("--") and value == "--":
                self.error(f"argument {name}: -- is no value")
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Sequence[str] | None = None, namespace: object = None) -> argparse.Namespace:
        flags, unknown = self.parse_known_args(args, namespace)
        if unknown:
            typed = unknown[0].partition("=")[0]
            meant = did_you_mean(typed, self._option_string_actions) if typed.startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return flags

    def _get_value(self, action: argparse.Action, arg_string: str) -> object:
        if not action.choices:
            return super()._get_value(action, arg_string)
        choice = arg_string.casefold()
        if choice not in action.choices:
            meant = did_you_mean(choice, action.choices)
            among = ", ".join(action.choices)
            raise argparse.ArgumentError(action, f"invalid choice: {arg_string!r} (choose from {among}){meant}")
        return choice

    def error(self, message: str) -> None:
        raise FlagError(message)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """How the refusal of a mistyped word ends: with the known one that is nearest, if any is near."""
    names = {each.lstrip("-"): each for each in known}  # the dashes of flags make none of them similar
    near = difflib.get_close_matches(word.lstrip("-").casefold(), names, n=1)
    return f"; did you mean {names[near[0]]}?" if near else ""


def add_flags(group: argparse._ActionsContainer, *names: str, script: str = "", **changes: object) -> None:
    """Add flags of the table to a parser or a group of it, as `script` has them; `changes` go to add_argument."""
    for name in names:
        flag = FLAGS[name]
        default = flag.default[script] if isinstance(flag.default, dict) else flag.default
        kind = {"type": flag.type, "choices": tuple(flag.choices) or None}
        settings = {"action": "store_true"} if default is False else kind
        if flag.may_stand_alone:
            settings = {"nargs": "?", "const": True, "type": flag.type}
        group.add_argument(option(name), **{"help": flag.help, "default": default} | settings | changes)


def training_parser(script: str, description: str, examples: Sequence[str] = ()) -> Parser:
    """The parser of a training script, with every flag of the table that it has."""
    torchrun = _TORCHRUN.format(script)
    parser = Parser(prog=f"{script}.py", description=description, examples=examples, epilog=torchrun)
    images = tuple(image_sets.sets_for(script))
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        ways = group.add_mutually_exclusive_group() if title == "run folder" else None
        for name, flag in flags.items():
            if name == "data":
                sets = f"image set to train and test on: {', '.join(images)}"
                add_flags(group, name, choices=images, default=images[0], metavar="NAME", help=sets)
            elif name in ("resume", "overwrite", "dry_run"):
                add_flags(ways, name)
            elif not isinstance(flag.default, dict) or script in flag.default:
                add_flags(group, name, script=script)
    return parser


def parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line (default: the process's own) and check what argparse cannot. UserError on a wrong flag.

    Beside the flags the namespace has `given` (names of the flags that were typed), `parser`, and `command` (as typed).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = parser.parse_args(argv)
    if flags.momentum and not OPTIMIZERS[flags.optimizer].momentum:
        parser.error("--momentum is a flag of --optimizer sgd")
    if flags.nesterov and not flags.momentum:
        parser.error("--nesterov needs --momentum")
    if flags.warmup >= flags.epochs:
        parser.error(f"--warmup {flags.warmup:g} leaves none of the {flags.epochs} --epochs after it")
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
    """UserError if --name is not fit for a new folder. One that lies there may have any name."""
    if flags.name and not is_new_folder_name(flags.name):
        flags.parser.error(f"argument --name: {flags.name!r} cannot be the name of a folder")


def option(name: str) -> str:
    """`batch_size` as it is typed: `--batch-size`."""
    return "--" + name.replace("_", "-")


def flag_words(flags: Mapping[str, object]) -> list[str]:
    """Flags by their argparse names as words of a command line; a switch that is off is left out."""
    given = {option(name): value for name, value in flags.items() if value is not False}
    return [name if value is True else f"{name}={value}" for name, value in given.items()]


def training_command(script: str, recorded: Mapping[str, object]) -> str:
    """The command line that trains a run with these recorded flags again; folders are left at their defaults."""
    defaults = vars(training_parser(script, "").parse_args([]))
    typed = {name: value for name, value in recorded.items() if name in defaults and FLAGS[name].of_run}
    changed = {name: value for name, value in typed.items() if value is not None and str(value) != str(defaults[name])}
    return command_line(["python", f"{script}.py", *flag_words(changed)])


def resume_command(flags: argparse.Namespace) -> str:
    """The command line that continues this run, ready to be pasted into a shell."""
    kept = [word for word in flags.command if word not in ("--overwrite", "--resume")]
    return command_line([*kept, "--resume"])


# -- what is derived from the flags of a run ---------------------------------------------------------------------------


def run_name(flags: argparse.Namespace) -> str:
    """The run folder's name: the flags that are always named, every other one that is off its default, the seed.

    For example `adagrad-lr0.01-e20-s0` or `gru-h128-adam-lr0.001-e10-b256-bf16-s0`.
    """
    values, default = vars(flags), flags.parser.get_default
    named = (n for n in RESULT_FLAGS if n in values and (FLAGS[n].always or values[n] != default(n)))
    # A switch is called by its own name; a list such as alternate,shift:2 by what every system takes: alternate+shift2.
    texts = (
        (n, n if values[n] is True else _short_number(values[n]).replace(",", "+").replace(":", "")) for n in named
    )
    return "-".join(FLAGS[name].in_name.format(text) for name, text in texts)


def snapshot_epochs(flags: argparse.Namespace) -> frozenset[int]:
    """The epochs after which --snapshot-epochs asks for the convolution weights; none for a script without the flag."""
    text = getattr(flags, "snapshot_epochs", "")
    return frozenset(int(part) for part in text.split(",") if part)


def recorded_flags(flags: argparse.Namespace) -> dict:
    """What config.json records: every flag's value by its argparse name, as JSON has it."""
    recorded = {name: value for name, value in vars(flags).items() if name in FLAGS}
    return {name: str(value) if isinstance(value, Path) else value for name, value in recorded.items()}


def typed_record(recorded: Mapping[str, object], parser: argparse.ArgumentParser) -> dict:
    """The flags that a run records, as its script's parser reads them; of those added after it was made, the default.

    The record may come from a stranger's file, so it passes the same parser as a command line. Raises UserError if it
    lacks a flag or has a value that could not have been typed.
    """
    defaults = {name: value for name, value in vars(parser.parse_args([])).items() if FLAGS[name].of_run}
    recorded = {name: value for name, value in defaults.items() if FLAGS[name].added_later} | recorded
    if missing := [option(name) for name in defaults if name not in recorded]:
        raise UserError(f"its record lacks {', '.join(missing)}; another version made it")
    # What was left alone may be None or False, which cannot be typed.
    changed = {name: recorded[name] for name, default in defaults.items() if recorded[name] is not default}
    words = [option(name) if value is True else f"{option(name)}={value}" for name, value in changed.items()]
    read = vars(parser.parse_args(words))
    return {name: read[name] for name in defaults}


def resumed_flags(flags: argparse.Namespace, recorded: Mapping[str, object]) -> argparse.Namespace:
    """The flags to continue a run with: those recorded, but for what may change and was typed.

    Raises UserError, which names the flag, if a typed flag differs from the recorded one and may not, or as
    `typed_record` does.
    """
    resumed = argparse.Namespace(**vars(flags))
    of_run = typed_record(recorded, flags.parser)
    for name, was in of_run.items():
        typed = getattr(flags, name)
        if name not in flags.given:
            setattr(resumed, name, was)
        elif name == "epochs" and typed < was:
            raise UserError(f"--epochs {typed} is less than the recorded {was}; it may only grow")
        elif name == "epochs" and typed > was and of_run["schedule"] != "constant":
            raise UserError(
                f"--epochs {typed} is more than the recorded {was}, over which the learning rate of --schedule "
                f"{of_run['schedule']} falls to 0; train a new run"
            )
        elif typed != was and not FLAGS[name].may_change:
            changeable = ", ".join(option(each) for each in FLAGS if FLAGS[each].may_change)
            raise UserError(f"{option(name)} {typed} differs from the recorded {was}; only {changeable} may change")
    return resumed


def parse_row_flags(parser: argparse.ArgumentParser, given: Mapping[str, object]) -> dict:
    """The flags of a grid's row, by their argparse names and with TOML's types, as the script's parser reads them.

    Raises UserError for a flag that the script lacks or that is not a row's business, and for a value of another type
    or one that could not have been typed.
    """
    known = vars(parser.parse_args([]))
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"{parser.prog} has no flag {name!r}{did_you_mean(name, known)}")
        if name not in ROW_FLAGS:
            own = [each for each in ROW_FLAGS if each in known]
            raise UserError(f"{name} is not a row's business; a row may set {', '.join(own)}")
        kind = type(known[name])
        given_value = type(value) is str and FLAGS[name].may_stand_alone
        if type(value) is not kind and not (kind is float and type(value) is int) and not given_value:
            or_text = ", or text in quotes" * FLAGS[name].may_stand_alone
            raise UserError(f"{name} must be {kinds[kind]}{or_text}, not {value!r:.60}")
    flags = parse_flags(parser, flag_words(given))
    return {name: getattr(flags, name) for name in given}


def hparams(recorded: Mapping[str, object], experiment: str) -> dict:
    """A run's hyper-parameters for TensorBoard's HParams tab, from the flags that it records.

    The tab takes its columns from one run, so every run of either script has all of them. It keeps the first value that
    it reads, so the number of epochs, which may grow, is none of them. "-" is a flag that the script does not have.
    """
    values = {"experiment": experiment}
    for name, flag in FLAGS.items():
        if flag.in_name and name != "epochs":
            of_one_script = isinstance(flag.default, dict) and len(flag.default) == 1
            value = recorded.get(name, "-")
            value = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # not as 1 or 0
            values[name] = str(value) if of_one_script else value  # a column has one type
    return values


def flag_label(name: str, value: object = ..., *, short: bool = False) -> str:
    """What the report calls a flag or, if one is given, its value; with `short` both in a few letters, for a figure."""
    flag = FLAGS.get(name, Flag(""))  # a run of another version may have one that is not in the table
    label = flag.label or name.replace("_", " ")
    if value is ...:
        return label
    words = {"None": "default", "True": "yes", "False": "no"}  # None: no run says what the script's default was
    labels = words | flag.choices if isinstance(flag.choices, Mapping) else words
    text = labels.get(str(value), _short_number(value))
    if not short:
        return text
    if name == "epochs" and value == 1:
        return "1 epoch"
    return flag.short.format(text) if flag.short else f"{label} {text}"


def _short_number(value: object) -> str:
    """A number as short as it can be without losing a digit (0.001, 1e-05); anything else as text."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
