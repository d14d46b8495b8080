"""Our RNN and GRU against PyTorch's own layers: values and every gradient."""

import pytest
import torch
from torch import Tensor, nn

from models.recurrence import last_hidden_state

LAYERS = [nn.RNN, nn.GRU, nn.LSTM]


def layer_and_steps(kind: type, dtype: torch.dtype, steps: int, batch: int, inputs: int, hidden: int):
    layer = kind(inputs, hidden).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        # as at the start of a training; much larger weights make the recurrence chaotic
        nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5, generator=generator)
    values = torch.randn(steps, batch, inputs, generator=generator, dtype=torch.float64).to(dtype)
    return layer, values.requires_grad_()


def gradients(state: Tensor, layer: nn.Module, steps: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, state.numel(), dtype=state.dtype).view_as(state)
    return list(torch.autograd.grad((state * weights).sum(), [steps, *layer.parameters()]))


@pytest.mark.parametrize("sizes", [(28, 64, 28, 32), (1, 3, 5, 4), (7, 1, 3, 9)], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_values_and_gradients_are_those_of_pytorchs_layer(kind: type, sizes: tuple) -> None:
    layer, steps = layer_and_steps(kind, torch.float64, *sizes)
    ours, theirs = last_hidden_state(layer, steps), layer(steps)[0][-1]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    for our, their in zip(gradients(ours, layer, steps), gradients(theirs, layer, steps), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_single_precision_agrees_to_rounding(kind: type) -> None:
    layer, steps = layer_and_steps(kind, torch.float32, 28, 64, 28, 128)
    ours, theirs = last_hidden_state(layer, steps), layer(steps)[0][-1]
    for our, their in zip(
        [ours, *gradients(ours, layer, steps)], [theirs, *gradients(theirs, layer, steps)], strict=True
    ):
        assert (our - their).abs().max() < 1e-4 * their.abs().max()


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_computes_in_bf16_and_leaves_gradients_in_fp32(kind: type) -> None:
    layer, steps = layer_and_steps(kind, torch.float32, 12, 8, 6, 16)
    exact = last_hidden_state(layer, steps)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = last_hidden_state(layer, steps)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded - exact).abs().max() < 0.05  # bf16 has 8 significant bits
    for low, high in zip(gradients(rounded, layer, steps), gradients(exact, layer, steps), strict=True):
        assert low.dtype == torch.float32
        assert (low - high).norm() < 0.1 * high.norm()


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_no_gradient_is_taken_of_images_that_need_none(kind: type) -> None:
    layer, steps = layer_and_steps(kind, torch.float32, 4, 2, 3, 5)
    last_hidden_state(layer, steps.detach()).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    assert steps.grad is None
