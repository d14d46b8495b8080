"""The project's networks, and `build_model`, the one way to make any of them from a run's config.

A network is a file of its own here and a line of NETWORKS. Nothing in this folder knows of data, flags or files. A
config may come out of a checkpoint that a stranger made, so every value in it is checked before any memory is taken.
"""

import math

import torch
from torch import nn

from models.lenet import LeNet5
from models.recurrent import RecurrentClassifier
from models.vgg import VGG

MAX_PARAMETERS = 200_000_000  # 800 MB in fp32; the report's largest network has 4.3 million

# By the name in a run's config. Each class has SIZES: its keyword arguments, each with the range (smallest, largest) or
# the choices that are allowed. It may have DEFAULTS, of those that older configs lack.
NETWORKS: dict[str, type[nn.Module]] = {"LeNet5": LeNet5, "VGG": VGG, "RecurrentClassifier": RecurrentClassifier}


def build_model(config: dict, *, seed: int | None = None) -> nn.Module:
    """Build the network that `config["model"]` describes: its `name` in NETWORKS, and its keyword arguments.

    Its parameters are drawn from `seed`, or left unset for a state to be loaded. Raises ValueError, naming the key, if
    a key is missing, unknown, of another type or out of range, or if the network would have more than MAX_PARAMETERS
    parameters; nothing has been allocated by then.
    """
    description = config.get("model") if isinstance(config, dict) else None
    if not isinstance(description, dict):
        raise ValueError("the config has no `model` entry")
    sizes = dict(description)
    name = sizes.pop("name", None)
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"model name {name!r} is none of {', '.join(NETWORKS)}")
    sizes = getattr(NETWORKS[name], "DEFAULTS", {}) | sizes
    _check_sizes(name, sizes, NETWORKS[name].SIZES)
    with torch.device("meta"):  # shapes only: nothing is allocated until the parameter count is known
        model = NETWORKS[name](**sizes)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > MAX_PARAMETERS:
        raise ValueError(f"{name} with {sizes} would have {count:,} parameters; the limit is {MAX_PARAMETERS:,}")
    model = model.to_empty(device="cpu")
    if seed is not None:
        initialize(model, torch.Generator().manual_seed(seed))
    return model


def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter by an explicit generator.

    As PyTorch does: Conv2d and Linear U(-1/√fan_in, 1/√fan_in), which `kaiming_uniform_(a=√5)` comes to; LSTM and GRU
    U(-1/√hidden_size, 1/√hidden_size). But the plain RNN as Keras does: weights of the input by Glorot & Bengio (2010),
    of the hidden state orthogonal (Saxe et al. 2014), biases zero; docs/original-settings.md says why. Batch
    normalization starts with mean 0 and variance 1, and changes nothing. A network's own `start` has the last word.
    """
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.RNN):
            for name, parameter in module.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)
                else:
                    draw = nn.init.xavier_uniform_ if "_ih_" in name else nn.init.orthogonal_
                    draw(parameter, generator=generator)
            continue
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            continue
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())  # fan_in
        elif isinstance(module, nn.RNNBase):
            bound = 1 / math.sqrt(module.hidden_size)
        elif own:  # what is drawn by nobody would be whatever lay in the memory
            raise NotImplementedError(f"initialize does not say how a {type(module).__name__}'s first values are drawn")
        for parameter in own:
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
    if start := getattr(model, "start", None):
        start()


def _check_sizes(name: str, sizes: dict, allowed: dict[str, tuple]) -> None:
    if set(sizes) != set(allowed):
        raise ValueError(f"{name} takes {', '.join(allowed)}; the config has {', '.join(map(str, sizes)) or 'nothing'}")
    for key, value in sizes.items():
        kind = type(allowed[key][0])  # type: a bool or a tensor is no number here
        if kind in (str, bool) or len(allowed[key]) != 2:  # choices
            if type(value) is not kind or value not in allowed[key]:
                raise ValueError(f"{name} {key} {value!r} is none of {', '.join(map(str, allowed[key]))}")
            continue
        smallest, largest = allowed[key]
        if type(value) is not kind or not smallest <= value <= largest:
            number = "whole number" if kind is int else "number"
            raise ValueError(f"{name} {key} {value!r} is not a {number} from {smallest} to {largest:,}")
