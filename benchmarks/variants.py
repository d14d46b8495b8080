"""Train with a setting that the scripts have no flag for, as the search in docs/original-settings.md did.

    python benchmarks/variants.py --normalise 0.5,0.5 rnn_mnist --cell rnn
    python benchmarks/variants.py --padding 0 cnn_cifar10 --precision bf16

Everything after the script's name goes to that script. A run is written under runs/search/<the variant>/, unless
--runs-dir says otherwise, so that it is never mixed with runs that their flags describe wholly. Each variant replaces
one function of the project before the script is imported, so only this script can continue such a run.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import harness.data
import models
from harness.cli import run_script
from models.lenet import LeNet5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normalise", metavar="MEAN,STD", help="of pixels in [0, 1], instead of the data set's")
    parser.add_argument("--padding", type=int, choices=(0, 2), default=2, help="of the convolutions (default: 2)")
    parser.add_argument("--init", choices=("default", *INITS), default="default", help="first weights")
    parser.add_argument("script", choices=("cnn_cifar10", "rnn_mnist"))
    variant, rest = parser.parse_known_args()

    changes = []
    if variant.normalise:
        normalize_by(*map(float, variant.normalise.split(",")))
        changes.append(f"normalise{variant.normalise}")
    if variant.padding == 0:
        remove_padding()
        changes.append("padding0")
    if variant.init != "default":
        initialize_by(INITS[variant.init])
        changes.append(variant.init)

    script = importlib.import_module(variant.script)
    repeat_whole_command(script)
    folder = Path("runs") / "search" / "-".join(changes or ["plain"])
    return script.main(["--runs-dir", str(folder), *rest])


def normalize_by(mean: float, std: float) -> None:
    """Load every image set with this mean and standard deviation."""
    load_images = harness.data.load_images
    harness.data.load_images = lambda *args, **options: replace(load_images(*args, **options), mean=mean, std=std)


def remove_padding() -> None:
    """Make LeNet5 of convolutions that shrink the image by 4 pixels, as nn.Conv2d does unless told otherwise."""
    init = LeNet5.__init__

    def init_unpadded(self: LeNet5, *, image_size: int, classes: int, **sizes: object) -> None:
        init(self, image_size=image_size, classes=classes, **sizes)
        self.features.conv1.padding = self.features.conv2.padding = (0, 0)
        side = ((image_size - 4) // 2 - 4) // 2  # each convolution takes 4 pixels, each pooling halves
        self.classifier.fc1 = nn.Linear(64 * side * side, 1024)

    LeNet5.__init__ = init_unpadded


def initialize_by(draw: Callable[[nn.Module, torch.Generator], None]) -> None:
    """Draw the first weights of every network once more, by another function and from the same seed."""
    build_model = models.build_model

    def build_drawn(config: dict, *, seed: int | None = None) -> nn.Module:
        model = build_model(config, seed=seed)
        if seed is not None:
            draw(model, torch.Generator().manual_seed(seed))
        return model

    models.build_model = build_drawn


@torch.no_grad()
def xavier(model: nn.Module, generator: torch.Generator) -> None:
    """Glorot & Bengio's (2010) uniform weights and zero biases, for convolutions and linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def orthogonal(model: nn.Module, generator: torch.Generator) -> None:
    """As Keras draws recurrent layers: Xavier from the input, orthogonal from step to step, biases zero."""
    xavier(model, generator)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    nn.init.zeros_(parameter)
                    continue
                draw = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
                # PyTorch stacks the weights of all gates in one tensor; each gate is a matrix of its own.
                for gate in parameter.chunk(parameter.shape[0] // module.hidden_size):
                    draw(gate, generator=generator)


INITS = {"xavier": xavier, "orthogonal": orthogonal}


def repeat_whole_command(script: ModuleType) -> None:
    """Have the command that an interrupted run prints name this script and the variant, not the script alone."""
    parse_flags = script.parse_flags

    def parse(*args: object) -> argparse.Namespace:
        flags = parse_flags(*args)
        program = flags.command[: flags.command.index(sys.argv[0])]  # python, or torchrun and its flags
        flags.command = [*program, *sys.argv]
        return flags

    script.parse_flags = parse


if __name__ == "__main__":
    sys.exit(run_script(main))
