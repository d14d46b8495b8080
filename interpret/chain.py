"""The path from the image to a feature map, found by watching one forward pass.

Everything that goes back from a map to pixels (deconvnet.py) needs that path to be a chain: modules `Conv2d`, `ReLU`
and `MaxPool2d`, each fed with the output of the one before. `trace` finds it, or says which layer breaks it. What comes
after the last convolution (flattening, linear layers) is free.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Images a forward pass: so few that their maps stay in the processor's cache. Changes results only by rounding.
BATCH = 50


@dataclass(frozen=True)
class Layer:
    """One module of the chain, named as in `model.named_modules()`."""

    name: str
    module: nn.Conv2d | nn.ReLU | nn.MaxPool2d
    input_size: tuple[int, int, int]  # channels, height, width
    output_size: tuple[int, int, int]


class FeatureVectors(NamedTuple):
    """What the paper's section 4 compares, one row (n, …) an image."""

    first: Tensor  # the first layer in the paper's sense: convolution with the ReLU and pooling that follow it
    last_convolution: Tensor  # the same of the last one
    last_hidden: Tensor  # what the last Linear module is given: the paper's layer 7
    logits: Tensor  # (n, classes)


def convolutions(model: nn.Module) -> list[str]:
    """Names of all Conv2d modules, in the order in which the model defines them."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def trace(model: nn.Module, images: Tensor, to: str | None = None) -> list[Layer]:
    """The chain from the image to the output of the layer named `to`, in the order of execution.

    Without `to`, to the last convolution and the ReLU and MaxPool2d modules right behind it. One forward pass of the
    first of `images` (n, channels, height, width) is watched.

    Raises ValueError, naming the layer, if any module on the way is not a Conv2d (groups 1, dilation 1, zeros as
    padding), ReLU or MaxPool2d, is used twice, or takes anything but the output of the module before it (a branch, or
    an operation that is no module); or if there is no layer `to`.
    """
    calls = _calls(model, images[:1])
    names = [call.name for call in calls]
    if to is None:
        end = max((i + 1 for i, call in enumerate(calls) if isinstance(call.module, nn.Conv2d)), default=0)
        if not end:
            raise ValueError(f"{type(model).__name__} has no Conv2d module to look into")
        while end < len(calls) and calls[end].follows and type(calls[end].module) in (nn.ReLU, nn.MaxPool2d):
            end += 1
    elif to in names:
        end = names.index(to) + 1
    else:
        raise ValueError(f"there is no layer {to}; the layers are {', '.join(dict.fromkeys(names))}")
    chain = []
    for before, call in zip(["the image", *names], calls[:end], strict=False):
        if fault := _fault(call, before, names[:end]):
            raise ValueError(
                f"layer {call.name} {fault}; what can be followed back to the image is a chain of ReLU, MaxPool2d and "
                "Conv2d (groups 1, dilation 1, padded by a number of zeros)"
            )
        input_size, output_size = (tuple(maps.shape[1:]) for maps in (call.inputs[0], call.output))
        chain.append(Layer(call.name, call.module, input_size, output_size))
    return chain


def feature_vectors(model: nn.Module, images: Tensor) -> FeatureVectors:
    """The feature vectors of images (n, channels, height, width) at three depths, flattened, and their logits.

    Raises ValueError as `trace` does, or if the model uses no Linear module.
    """
    chain = trace(model, images)
    # The first layer ends where the second convolution begins.
    second = next((i for i, layer in enumerate(chain) if i and isinstance(layer.module, nn.Conv2d)), len(chain))
    seen: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor) -> None:
        seen[name] = values.flatten(1).clone()  # copied, because a later module may work in place

    batches = []
    with contextlib.ExitStack() as hooks, evaluating(model):
        for name, module in (("first", chain[second - 1].module), ("last_convolution", chain[-1].module)):
            hook = module.register_forward_hook(lambda _, inputs, output, name=name: keep(name, output))
            hooks.enter_context(hook)
        for module in model.modules():
            if isinstance(module, nn.Linear):  # of several the last one stays
                hooks.enter_context(module.register_forward_pre_hook(lambda _, inputs: keep("last_hidden", inputs[0])))
        for batch in images.split(BATCH):
            logits = model(batch)
            if "last_hidden" not in seen:
                raise ValueError(f"{type(model).__name__} uses no Linear module, and so has no last hidden layer")
            batches.append(FeatureVectors(**seen, logits=logits))
    return FeatureVectors(*map(torch.cat, zip(*batches, strict=True)))


def run(chain: list[Layer], images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The name and the output (batch, maps, height, width) of each layer of the chain, one after the other.

    Take what you need of an output before the next one: a module may work in place. Nothing behind the chain is run.
    """
    maps = images
    for layer in chain:
        maps = layer.module(maps)
        yield layer.name, maps


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's own mode again after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@dataclass
class _Call:
    """One module's run. `follows`: it was given exactly what the call before it returned (the first one: the image)."""

    name: str
    module: nn.Module
    inputs: tuple
    follows: bool
    output: object = None


def _calls(model: nn.Module, image: Tensor) -> list[_Call]:
    """Every run of a module without children in one forward pass, in order."""
    calls: list[_Call] = []
    latest = (image, _version(image))  # what the next module of a chain is given, unchanged in place since

    def before(name: str, module: nn.Module, inputs: tuple) -> None:
        # The very tensor, at the very version: a sum with another branch, or a change in place, breaks the chain.
        follows = len(inputs) == 1 and inputs[0] is latest[0] and _version(inputs[0]) == latest[1]
        calls.append(_Call(name, module, inputs, follows))

    def after(module: nn.Module, inputs: tuple, output: object) -> None:
        nonlocal latest
        latest = (output, _version(output))
        calls[-1].output = output

    with contextlib.ExitStack() as hooks, evaluating(model):
        for name, module in model.named_modules():
            if not any(module.children()):  # a Sequential would be seen besides what is in it
                hooks.enter_context(module.register_forward_pre_hook(functools.partial(before, name)))
                hooks.enter_context(module.register_forward_hook(after))
        model(image)
    return calls


def _version(value: object) -> int:
    """How often a tensor was changed in place; inference mode does not count, and then a change goes unseen."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _fault(call: _Call, before: str, names: list[str]) -> str:
    """Why this run, after the layer `before`, can be no part of a chain of `names`; empty if it can."""
    module = call.module
    if type(module) not in (nn.Conv2d, nn.ReLU, nn.MaxPool2d):
        return f"is a {type(module).__name__}"
    if not call.follows:
        return f"is not fed with the output of {before} alone (a branch, or an operation that is no module)"
    if names.count(call.name) > 1:
        return "is used more than once"
    if isinstance(module, nn.Conv2d):
        if module.groups != 1 or module.dilation != (1, 1):
            return f"has groups {module.groups} and dilation {module.dilation}"
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return f"pads by {module.padding!r}, {module.padding_mode}"
    return ""
