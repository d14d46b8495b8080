"""Inside a recurrent network that reads an image row by row: its states, its gates, and how far gradients reach back.

`read` is the heart: it takes the steps one by one, by the equations that PyTorch documents, so that states and gates
can be seen, which PyTorch's own layers keep to themselves. A `model` here has a tanh nn.RNN, nn.LSTM or nn.GRU of one
layer and one direction called `recurrent` and classifies its last hidden state by `fc`. `images` are (n, 1, rows,
pixels), normalized as the network was trained. Gates as Karpathy et al. (2015, arXiv 1506.02078) look at them,
gradients as Pascanu et al. (2013, arXiv 1211.5063).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpret.chain import evaluating

BATCH = 500  # images a pass
CLOSED, OPEN = 0.1, 0.9  # a gate below or above is saturated, as in Karpathy et al.


class Step(NamedTuple):
    """The network after a row, each tensor (n, hidden)."""

    state: Tensor  # the hidden state, in (-1, 1)
    cell: Tensor | None  # the LSTM's cell state
    gates: Mapping[str, Tensor]  # in (0, 1): the LSTM's input, forget, output; the GRU's reset, update; none of the RNN


@dataclass(frozen=True)
class GateStatistics:
    """How open one gate is over all images; shares in [0, 1], on the CPU."""

    mean: Tensor  # (rows,), over images and units
    std: Tensor  # (rows,)
    closed: Tensor  # (rows,): the share below CLOSED
    open: Tensor  # (rows,): the share above OPEN
    unit_closed: Tensor  # (hidden,): these two shares over images and rows
    unit_open: Tensor  # (hidden,)


def read(model: nn.Module, images: Tensor) -> Iterator[Step]:
    """Each step of the network over the rows of the images, from zero states; gradients flow if they are enabled.

    ValueError if the network has more than one layer or direction.
    """
    layer = model.recurrent
    if layer.num_layers > 1 or layer.bidirectional:
        raise ValueError("the network has more than one layer or direction")
    state = cell = images.new_zeros(len(images), layer.hidden_size)
    for row in images.squeeze(1).unbind(dim=1):  # (n, pixels)
        of_row = F.linear(row, layer.weight_ih_l0, layer.bias_ih_l0)  # (n, gates * hidden)
        of_state = F.linear(state, layer.weight_hh_l0, layer.bias_hh_l0)
        if isinstance(layer, nn.LSTM):
            i, f, g, o = (of_row + of_state).chunk(4, dim=1)
            gates = {"input": i.sigmoid(), "forget": f.sigmoid(), "output": o.sigmoid()}
            cell = gates["forget"] * cell + gates["input"] * g.tanh()
            state = gates["output"] * cell.tanh()
            yield Step(state, cell, gates)
        elif isinstance(layer, nn.GRU):
            (r, z, n), (r_h, z_h, n_h) = of_row.chunk(3, dim=1), of_state.chunk(3, dim=1)
            gates = {"reset": (r + r_h).sigmoid(), "update": (z + z_h).sigmoid()}
            candidate = (n + gates["reset"] * n_h).tanh()
            state = (1 - gates["update"]) * candidate + gates["update"] * state
            yield Step(state, None, gates)
        else:
            state = (of_row + of_state).tanh()
            yield Step(state, None, {})


def probabilities_by_row(model: nn.Module, images: Tensor) -> Tensor:
    """The probability of each class if the image ended after each row: (rows, n, classes), on the CPU."""
    with evaluating(model):
        parts = [
            torch.stack([model.fc(step.state).softmax(dim=1) for step in read(model, part)])
            for part in images.split(BATCH)
        ]
    return torch.cat(parts, dim=1).cpu()


def hidden_states(model: nn.Module, images: Tensor) -> Tensor:
    """The hidden state after each row: (rows, n, hidden), on the CPU."""
    with evaluating(model):
        parts = [torch.stack([step.state for step in read(model, part)]).cpu() for part in images.split(BATCH)]
    return torch.cat(parts, dim=1)


def final_from(values: Tensor) -> Tensor:
    """From which row on, counted from 1, values (rows, …) are what they are after the last row: int64 (…)."""
    stays = (values == values[-1]).flip(0).cumprod(dim=0).sum(dim=0)
    return len(values) + 1 - stays


def gate_statistics(model: nn.Module, images: Tensor) -> dict[str, GateStatistics]:
    """Of each gate, by its name, how open it is over the images; empty for the tanh RNN."""
    sums: dict[str, Tensor] = {}  # of each gate (4, rows, hidden): values, squares, closed, open, summed over images
    with evaluating(model):
        for part in images.split(BATCH):
            for row, step in enumerate(read(model, part)):
                for name, gate in step.gates.items():
                    seen = torch.stack([gate, gate**2, (gate < CLOSED).float(), (gate > OPEN).float()]).sum(dim=1).cpu()
                    zeros = seen.new_zeros(4, images.shape[2], gate.shape[1], dtype=torch.float64)
                    sums.setdefault(name, zeros)[:, row] += seen
    found = {}
    for name, each in sums.items():
        means = each / len(images)
        mean, square, closed, opened = means.mean(dim=2)  # (rows,) each
        std = (square - mean**2).clamp(min=0).sqrt()
        found[name] = GateStatistics(mean, std, closed, opened, *means[2:].mean(dim=1))
    return found


def gradient_norms(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The norm of the gradient of each image's largest logit with respect to the state after each row.

    By the state's name, "hidden state" and of the LSTM also "cell state": (rows, n), on the CPU. That of a hidden state
    goes through the next step's gates and candidates; that of a cell state through the hidden state of its step, too.
    """
    norms: dict[str, list[Tensor]] = {}
    for part in images.split(BATCH):
        with torch.enable_grad():
            steps = list(read(model, part))
            answer = model.fc(steps[-1].state).amax(dim=1).sum()  # an image's logit depends on its own states alone
            states = {"hidden state": [step.state for step in steps], "cell state": [step.cell for step in steps]}
            for name, each in states.items():
                if each[0] is not None:
                    gradients = torch.autograd.grad(answer, each, retain_graph=True)
                    norms.setdefault(name, []).append(torch.stack(gradients).norm(dim=2).cpu())  # (rows, batch)
    return {name: torch.cat(parts, dim=1) for name, parts in norms.items()}
