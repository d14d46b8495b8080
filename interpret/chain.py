"""The path from the image to a feature map, found by watching one forward pass.

Everything that goes back from a map to pixels (deconvnet.py) needs that path to be a chain: modules `Conv2d`, `ReLU`
and `MaxPool2d`, each fed with the output of the one before. `trace` finds it, or says which layer breaks it. What comes
after the last convolution (flattening, linear layers) is free.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Images a forward pass: so few that their maps stay in the processor's cache. Changes results only by rounding.
BATCH = 50


@dataclass(frozen=True)
class Layer:
    """One module of the chain, named as in `model.named_modules()`.

    `input_size` and `output_size` are (channels, height, width).
    """

    name: str
    module: nn.Conv2d | nn.ReLU | nn.MaxPool2d
    input_size: tuple[int, int, int]
    output_size: tuple[int, int, int]


class FeatureVectors(NamedTuple):
    """What the paper's section 4 compares, one row an image.

    `first` (n, …) is the first layer in the paper's sense, convolution with the ReLU and pooling that follow it;
    `last_convolution` (n, …) the same of the last one; `last_hidden` (n, …) is what the last Linear module is given
    (the paper's layer 7); `logits` (n, classes).
    """

    first: Tensor
    last_convolution: Tensor
    last_hidden: Tensor
    logits: Tensor


def convolutions(model: nn.Module) -> list[str]:
    """Names of all Conv2d modules, in the order in which the model defines them. ValueError if it has none."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    if not names:
        raise ValueError(f"{type(model).__name__} has no Conv2d module to look into")
    return names


def trace(model: nn.Module, images: Tensor, to: str | None = None) -> list[Layer]:
    """The chain from the image to the output of the layer named `to`, in the order of execution.

    Without `to`, to the last convolution and the ReLU and MaxPool2d modules right behind it. One forward pass of the
    first of `images` (n, channels, height, width) is watched.

    Raises ValueError, naming the layer, if any module on the way is not a Conv2d (groups 1, dilation 1, zeros as
    padding), ReLU or MaxPool2d, is used twice, or takes anything but the output of the module before it (a branch, or
    an operation that is no module); or if there is no layer `to`.
    """
    if not len(images):
        raise ValueError("there are no images to look at")
    calls = _calls(model, images[:1])
    chain: list[Layer] = []
    for position, call in enumerate(calls[: _end(model, calls, to)]):
        before = "the image" if position == 0 else calls[position - 1].name
        if type(call.module) not in (nn.Conv2d, nn.ReLU, nn.MaxPool2d):
            raise ValueError(
                f"layer {call.name} is a {type(call.module).__name__}: only a chain of Conv2d, ReLU and MaxPool2d "
                "modules can be followed back to the image"
            )
        if not call.follows:
            raise ValueError(
                f"layer {call.name} is not fed with the output of {before} alone (a branch, or an operation that is "
                "no module): only a chain of Conv2d, ReLU and MaxPool2d modules can be followed back to the image"
            )
        if any(layer.name == call.name for layer in chain):
            raise ValueError(f"layer {call.name} is used more than once on the way from the image")
        if isinstance(call.module, nn.Conv2d):
            _check_convolution(call.name, call.module)
        chain.append(Layer(call.name, call.module, call.input_size, call.output_size))
    return chain


def feature_vectors(model: nn.Module, images: Tensor, *, batch_size: int = BATCH) -> FeatureVectors:
    """The feature vectors of images (n, channels, height, width) at three depths, flattened, and their logits.

    Raises ValueError as `trace` does, or if the model has no Linear module or uses none.
    """
    chain = trace(model, images)
    # The first layer ends where the second convolution begins.
    second = next((i for i, layer in enumerate(chain) if i and isinstance(layer.module, nn.Conv2d)), len(chain))
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise ValueError(f"{type(model).__name__} has no Linear module, and so no last hidden layer")
    seen: dict[str, Tensor] = {}

    def keep_output(name: str) -> Callable:
        # Copied, because a later module may work in place.
        return lambda module, inputs, output: seen.update({name: output.flatten(1).clone()})

    def keep_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen["last_hidden"] = inputs[0].flatten(1).clone()  # of several Linear modules the last one stays

    batches = []
    with contextlib.ExitStack() as hooks:
        hooks.enter_context(evaluating(model))
        hooks.enter_context(chain[second - 1].module.register_forward_hook(keep_output("first")))
        hooks.enter_context(chain[-1].module.register_forward_hook(keep_output("last_convolution")))
        for linear in linears:
            hooks.enter_context(linear.register_forward_pre_hook(keep_input))
        for batch in images.split(batch_size):
            logits = model(batch)
            if "last_hidden" not in seen:
                raise ValueError(f"{type(model).__name__} uses none of its Linear modules")
            batches.append(FeatureVectors(**seen, logits=logits))
    return FeatureVectors(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def run(chain: list[Layer], images: Tensor) -> Tensor:
    """The output of the chain's last layer for images (batch, channels, height, width); nothing behind it is run."""
    maps = images
    for layer in chain:
        maps = layer.module(maps)
    return maps


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
    follows: bool
    input_size: tuple[int, ...] = ()
    output_size: tuple[int, ...] = ()


def _calls(model: nn.Module, image: Tensor) -> list[_Call]:
    """Every run of a module without children in one forward pass, in order."""
    calls: list[_Call] = []
    latest = (image, _version(image))  # what the next module of a chain is given, unchanged in place since

    def before(name: str) -> Callable:
        def watch(module: nn.Module, inputs: tuple) -> None:
            given = inputs[0] if inputs else None
            # The very tensor, at the very version: a sum with another branch, or a change in place, breaks the chain.
            follows = len(inputs) == 1 and given is latest[0] and _version(given) == latest[1]
            size = tuple(given.shape[1:]) if isinstance(given, Tensor) else ()
            calls.append(_Call(name, module, follows, input_size=size))

        return watch

    def after(module: nn.Module, inputs: tuple, output: object) -> None:
        nonlocal latest
        latest = (output, _version(output))
        calls[-1].output_size = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(evaluating(model))
        for name, module in model.named_modules():
            if not any(module.children()):  # a Sequential would be seen besides what is in it
                hooks.enter_context(module.register_forward_pre_hook(before(name)))
                hooks.enter_context(module.register_forward_hook(after))
        model(image)
    return calls


def _version(value: object) -> int:
    """How often a tensor was changed in place; inference mode does not count, and then a change goes unseen."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


def _end(model: nn.Module, calls: list[_Call], to: str | None) -> int:
    """How many calls belong to the chain: up to the first run of `to`, or to what follows the last convolution."""
    names = [call.name for call in calls]
    if to is not None:
        if to not in names:
            raise ValueError(f"there is no layer {to}; the layers are {', '.join(dict.fromkeys(names))}")
        return names.index(to) + 1
    convolution = [position for position, call in enumerate(calls) if isinstance(call.module, nn.Conv2d)]
    if not convolution:
        raise ValueError(f"{type(model).__name__} has no Conv2d module to look into")
    end = convolution[-1] + 1
    while end < len(calls) and calls[end].follows and type(calls[end].module) in (nn.ReLU, nn.MaxPool2d):
        end += 1
    return end


def _check_convolution(name: str, convolution: nn.Conv2d) -> None:
    if convolution.groups != 1 or any(step != 1 for step in convolution.dilation):
        raise ValueError(
            f"layer {name} has groups {convolution.groups} and dilation {convolution.dilation}; "
            "only convolutions with 1 and 1 are supported"
        )
    if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
        raise ValueError(
            f"layer {name} pads by {convolution.padding!r}, {convolution.padding_mode}; "
            "only padding by a number of zeros is supported"
        )
