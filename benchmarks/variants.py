"""Train with a setting that the scripts have no flag for, as the search in original-settings.md did.

    python benchmarks/variants.py --normalise 0.5,0.5 rnn_mnist --cell rnn
    python benchmarks/variants.py --padding 0 cnn_cifar10 --precision bf16

Everything after the script's name goes to that script. Runs are written under runs/search/ unless --runs-dir says
otherwise, and named after the variant; never mixed with runs that the flags alone describe.
"""

import argparse
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.cli import run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--normalise", metavar="MEAN,STD", help="of pixels in [0, 1], instead of the data set's")
    parser.add_argument("--padding", type=int, choices=(0, 2), default=2, help="of the convolutions (default: 2)")
    parser.add_argument("--init", choices=("default", "xavier", "orthogonal"), default="default", help="first weights")
    parser.add_argument("script", choices=("cnn_cifar10", "rnn_mnist"))
    variant, rest = parser.parse_known_args()
    label = []
    if variant.normalise:
        from harness.image_sets import IMAGE_SETS

        mean, std = map(float, variant.normalise.split(","))
        IMAGE_SETS.update({name: replace(entry, mean=mean, std=std) for name, entry in IMAGE_SETS.items()})
        label.append(f"normalise{variant.normalise}")
    if variant.padding == 0:
        _without_padding()
        label.append("padding0")
    if variant.init != "default":
        import models

        models.initialise = {"xavier": _xavier, "orthogonal": _orthogonal}[variant.init]
        label.append(variant.init)
    import harness.flags
    from harness.cli import command_line, program

    repeated = command_line([program("python"), *sys.argv, "--resume"])  # with the variant
    harness.flags.resume_command = lambda flags: repeated
    folder = Path("runs") / "search" / "-".join(label or ["plain"])
    return importlib.import_module(variant.script).main(["--runs-dir", str(folder), *rest])


def _without_padding() -> None:
    """LeNet5 with convolutions that shrink the image by 4, as nn.Conv2d does unless told otherwise."""
    import models
    from models.lenet import LeNet5

    class Unpadded(LeNet5):
        def __init__(self, *, image_size: int, classes: int, **sizes: object) -> None:
            super().__init__(image_size=image_size, classes=classes, **sizes)
            self.features.conv1.padding = self.features.conv2.padding = (0, 0)
            side = ((image_size - 4) // 2 - 4) // 2
            self.classifier.fc1 = nn.Linear(64 * side * side, 1024)

    models.NETWORKS["LeNet5"] = Unpadded


def _xavier(model: nn.Module, generator: torch.Generator) -> None:
    """Glorot & Bengio's (2010) uniform weights and zero biases, for convolutions and linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)


def _orthogonal(model: nn.Module, generator: torch.Generator) -> None:
    """As Keras initialises recurrent layers: Xavier from the input, orthogonal from step to step, biases zero."""
    _xavier(model, generator)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    nn.init.zeros_(parameter)
                    continue
                for gate in parameter.chunk(parameter.shape[0] // module.hidden_size):  # the gates are stacked
                    draw = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
                    draw(gate, generator=generator)


if __name__ == "__main__":
    sys.exit(run_script(main))
