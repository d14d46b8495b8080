"""The optimizers: one entry each in OPTIMIZERS is all that the project knows of them; and the schedule.

The flags take their choices from the entries and the report its names, so this file imports PyTorch only once an
optimizer is made. Read on in train.py, which makes one and steps with it.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """An optimizer of PyTorch's."""

    title: str  # of its class in torch.optim
    states: tuple[str, ...]  # as its functional form takes a list for each, in this order
    fused: tuple[str, ...] = ("cpu", "cuda", "mps")  # devices for which PyTorch has it as one kernel
    momentum: bool = False  # whether --momentum and --nesterov apply


OPTIMIZERS = {
    "adam": Entry("Adam", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")),
    "adagrad": Entry("Adagrad", ("sum", "step"), fused=("cpu",)),
    "adamw": Entry("AdamW", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")),
    "sgd": Entry("SGD", ("momentum_buffer",), momentum=True),
}


def make_optimizer(flags: Namespace, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer that the flags name, in its fused form where PyTorch has one for the device."""
    import torch

    entry = OPTIMIZERS[flags.optimizer]
    extra = {"momentum": flags.momentum, "nesterov": flags.nesterov} if entry.momentum else {}
    if device.type in entry.fused:
        extra["fused"] = True
    return getattr(torch.optim, entry.title)(model.parameters(), lr=flags.lr, weight_decay=flags.weight_decay, **extra)


def state_template(flags: Namespace, model: nn.Module) -> dict[int, dict[str, Tensor]]:
    """What `optimizer.state_dict()["state"]` looks like after a step: tensors that have a shape and type but no data.

    PyTorch itself is asked which states there are, by a step with a single small parameter.
    """
    import torch

    probe = torch.nn.Linear(2, 1, bias=False)
    probe.weight.grad = torch.zeros_like(probe.weight)
    optimizer = make_optimizer(flags, probe, torch.device("cpu"))
    optimizer.step()
    states = optimizer.state_dict()["state"].get(0, {})  # of the only parameter; SGD without momentum has none
    return states and {
        number: {
            # A state has the shape of its parameter, but for the count of the steps.
            name: torch.empty_like(parameter if state.shape == probe.weight.shape else state, device="meta")
            for name, state in states.items()
        }
        for number, parameter in enumerate(model.parameters())
    }


def learning_rates(flags: Namespace, epoch: int, steps: int) -> list[float]:
    """The learning rate of each of an epoch's steps. It follows from the flags alone: a resumed run needs no record."""
    first, warmup = (epoch - 1) * steps, flags.warmup * steps
    factors = (scheduled(step, flags.epochs * steps, flags.schedule, warmup) for step in range(first, first + steps))
    return [flags.lr * factor for factor in factors]


def scheduled(step: int, steps: int, schedule: str, warmup: float = 0.0) -> float:
    """By what the learning rate is multiplied at a step, counted from 0, of all `steps`.

    It rises linearly over the `warmup` steps, the last of which has 1. Then `constant` stays there, `cosine` falls as
    half a cosine (Loshchilov & Hutter 2017, as PyTorch's CosineAnnealingLR) and `triangle` linearly, both towards 0. A
    triangle without a warmup rises over the first fifth.
    """
    if schedule == "triangle" and not warmup:
        warmup = 0.2 * steps
    if step + 1 <= warmup:
        return (step + 1) / warmup
    done = max(0.0, step - warmup) / (steps - warmup)
    return {"constant": 1.0, "cosine": (1 + math.cos(math.pi * done)) / 2, "triangle": 1 - done}[schedule]


def quick_steps(optimizer: torch.optim.Optimizer, rates: Iterable[float] = ()) -> Iterator[None]:
    """Each `next()` is an `optimizer.step()` to the bit, without gathering parameters, states and settings anew.

    Gathering takes 0.1 to 0.3 ms, up to a tenth of a recurrent network's step. Serves one epoch, in which none of them
    changes but the learning rate, which each step takes from `rates`, if given. `optimizer` is from make_optimizer: one
    group of parameters, each of which gets a gradient in every step.
    """
    import torch

    (group,) = optimizer.param_groups
    rates = iter(rates or itertools.repeat(group["lr"]))
    group["lr"] = next(rates)
    optimizer.step()  # an optimizer's very first step makes its states
    yield
    parameters, name = group["params"], type(optimizer).__name__.lower()
    step = getattr(importlib.import_module(f"torch.optim.{name}"), name)  # PyTorch's functional form
    by_parameter = [optimizer.state.get(parameter, {}) for parameter in parameters]
    states = [[each[state] for each in by_parameter if state in each] for state in OPTIMIZERS[name].states]
    settings = dict(group)
    if "betas" in settings:
        settings["beta1"], settings["beta2"] = settings["betas"]
    taken = inspect.signature(step).parameters.keys() - {"params"}
    settings = {name: value for name, value in settings.items() if name in taken}
    while True:
        gradients = [parameter.grad for parameter in parameters]
        group["lr"] = settings["lr"] = next(rates)
        with torch.no_grad():
            step(parameters, gradients, *states, **settings)
        yield
