"""Look inside a trained network.

Of a CNN: its filters and activations, and the analyses of Zeiler & Fergus (arXiv 1311.2901). Of a recurrent network:
its answer, hidden state and gates after each row, how far back gradients reach, which pixels count, and images of other
lengths. Writes figures, tables and an index.html that shows them all to figures/ in the run's folder; see the README.
"""

import argparse
import sys
from collections.abc import Sequence

from harness.analyses import ANALYSES, OF_CNN, OF_OWN_PICTURES, OF_RECURRENT, ON_REQUEST, draw_analyses
from harness.cli import command_line, program, run_script, say_loading, typed_path
from harness.flags import Parser, add_flags, did_you_mean, map_numbers, path, whole_number
from harness.image_sets import CNN, sets_for
from harness.ranks import refuse_ranks

EXAMPLES = (
    "python visualize.py runs/cnn_cifar10/adagrad-lr0.01-e20-s0",
    "python visualize.py runs/rnn_mnist/gru-h128-adam-lr0.001-e10-s0",
    "python visualize.py best.pt --only deconvnet,evolution --maps conv2:3,17",
)


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = make_parser().parse_args(argv)  # every flag is an argument of draw_analyses
    refuse_ranks("visualize.py")

    say_loading()
    from harness.analyses.base import find_checkpoint  # PyTorch takes seconds to import; the flags are answered before
    from models import build_model

    flags.checkpoint = find_checkpoint(flags.checkpoint)
    run = flags.checkpoint.parent
    flags.out = flags.out or run / "figures" / ("own" if flags.own else "")
    command = command_line(["python", "visualize.py", *argv])
    pictures = draw_analyses(build_model=build_model, command=command, **vars(flags))
    if flags.tensorboard:
        shown_by = command_line([program("tensorboard"), "--logdir", typed_path(run)])
        print(f"figures in the Images tab: {len(pictures)} ({shown_by})")
    print(f"{flags.out / 'index.html'} shows them all")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, examples=EXAMPLES)
    run = "folder of a run (its best.pt is shown), or one of its checkpoints"
    parser.add_argument("checkpoint", metavar="run", type=path, help=run)
    group = parser.add_argument_group("what to look at")
    add = group.add_argument
    some = f"some of {', '.join(OF_CNN)} (default: all but {', '.join(ON_REQUEST)}); of a recurrent network "
    some += f"{', '.join(OF_RECURRENT)} (default: all)"
    add("--only", dest="names", metavar="NAME,NAME", type=names_of_analyses, help=some)
    own = f"pictures of your own, 1 to 10, instead of test images: {', '.join(OF_OWN_PICTURES)}"
    add("--image", dest="own", nargs="+", metavar="FILE", type=path, help=own)
    images = "test images shown one by one, 1 to 10"
    add("--images", dest="shown_count", metavar="IMAGES", type=whole_number(1, 10), default=5, help=images)
    maps = "maps in deconvnet and evolution, of the last convolution or of LAYER (default: the strongest)"
    add("--maps", nargs="+", type=map_numbers, metavar="[LAYER:]N,N", help=maps)
    add("--per-filter", action="store_true", help="scale each filter by itself")
    add_flags(group, "seed", help="of the random choice of images")
    group = parser.add_argument_group("data")
    sets = tuple(sets_for(CNN))
    shown = f"test images (default: those of the training): {', '.join(sets)}"
    add_flags(group, "data", choices=sets, default=None, metavar="NAME", help=shown)
    add_flags(group, "data_dir", "mirror")
    add_flags(parser.add_argument_group("machine"), "device")
    add = parser.add_argument_group("output").add_argument
    add("--out", type=path, help="folder to write to (default: figures/ beside the checkpoint)")
    add("--tensorboard", action="store_true", help="add the figures to the run's Images tab, too")
    return parser


def names_of_analyses(text: str) -> list[str]:
    """What --only names, in the order in which analyses are made."""
    chosen = text.split(",")
    for name in chosen:
        if name not in ANALYSES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ANALYSES)}{did_you_mean(name, ANALYSES)}")
    return [name for name in ANALYSES if name in chosen]


if __name__ == "__main__":
    sys.exit(run_script(main))
