"""The last hidden state of an RNN or GRU layer on a CPU, as PyTorch's own layers compute it but faster.

`last_hidden_state` is what models/recurrent.py calls. PyTorch has a fused LSTM for CPUs, but runs `nn.RNN` and `nn.GRU`
as many small operations with a gradient graph over all of them. Here each is one autograd function: the inputs of all
steps are projected by one matrix product, the loop over the steps writes into memory taken once, the backward loop
carries only the gradient of the hidden state, and each weight's gradient is one product over all steps and images.

In the comments: T steps, B images in the batch, H hidden units; G = H for the RNN, 3 H for the GRU.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


def last_hidden_state(layer: nn.RNNBase, steps: Tensor) -> Tensor:
    """The hidden state after the last step, (batch, hidden_size), from a zero state; steps (steps, batch, inputs).

    `layer` is a tanh nn.RNN, nn.GRU or nn.LSTM of one layer and one direction; its own parameters are used, and the
    result and all gradients equal its own to rounding. Under autocast it computes in autocast's dtype, the state of a
    GRU included, which PyTorch's own keeps in float32 on a CPU. On other devices than the CPU the layer itself is
    called, which has fused kernels there.
    """
    if type(layer) is nn.LSTM and steps.device.type == "cpu":
        zero = steps.new_zeros(1, steps.shape[1], layer.hidden_size)
        # What the layer itself calls, after checks that take as long as a small kernel.
        settings = True, 1, 0.0, layer.training, False, False  # biases, layers, dropout, …, bidirectional, batch_first
        _, last, _ = torch.lstm(steps, (zero, zero), list(layer.parameters()), *settings)
        return last.squeeze(0)
    function = {nn.RNN: _RNN, nn.GRU: _GRU}.get(type(layer))
    if function is None or steps.device.type != "cpu":
        _, last = layer(steps)  # (1, batch, hidden), of an LSTM together with its cell state
        return (last[0] if isinstance(last, tuple) else last).squeeze(0)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else steps.dtype
    weights = [parameter.to(dtype) for parameter in layer.parameters()]
    return function.apply(steps.to(dtype), *weights)


class _RNN(torch.autograd.Function):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), as `nn.RNN` documents it."""

    @staticmethod
    def forward(ctx: FunctionCtx, steps: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        states = steps.new_zeros(len(steps) + 1, steps.shape[1], w_hh.shape[1])  # (T + 1, B, H), the first one zero
        torch.addmm(b_ih + b_hh, steps.flatten(0, 1), w_ih.t(), out=states[1:].flatten(0, 1))
        before, *rest = states.unbind()
        for state in rest:
            before = state.addmm_(before, w_hh.t()).tanh_()
        ctx.save_for_backward(steps, w_ih, w_hh, states)
        return before

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_state: Tensor) -> tuple[Tensor | None, ...]:
        steps, w_ih, w_hh, states = ctx.saved_tensors
        d_gates = 1 - states[1:] ** 2  # (T, B, H), becomes the gradient before the tanh
        for d_gate in reversed(d_gates.unbind()):
            d_state = d_gate.mul_(d_state) @ w_hh
        d_w_ih, d_bias = _gradients(d_gates, steps)
        d_w_hh, _ = _gradients(d_gates, states[:-1])
        d_steps = d_gates @ w_ih if ctx.needs_input_grad[0] else None
        return d_steps, d_w_ih, d_w_hh, d_bias, d_bias


class _GRU(torch.autograd.Function):
    """h_t = (1 - z) n + z h_{t-1} with reset gate r, update gate z and candidate n as `nn.GRU` documents them."""

    @staticmethod
    def forward(ctx: FunctionCtx, steps: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
        count, batch, hidden = len(steps), steps.shape[1], w_hh.shape[1]
        states = steps.new_zeros(count + 1, batch, hidden)  # (T + 1, B, H), the first one zero
        # r and z take the sum of their inputs' and their states' products, n needs the two apart: r multiplies one.
        gates = torch.addmm(b_ih, steps.flatten(0, 1), w_ih.t()).view(count, batch, 3 * hidden)
        candidates = gates[:, :, 2 * hidden :].contiguous()  # (T, B, H): W_in x + b_in, becomes n
        gates[:, :, 2 * hidden :] = 0
        gates += b_hh  # (T, B, 3 H), becomes r, z and W_hn h + b_hn

        w_hidden, (before, *rest) = w_hh.t(), states.unbind()
        for state, gate, r_and_z, r, z, h_n, n in _each_step(
            rest, gates, gates[:, :, : 2 * hidden], *gates.chunk(3, dim=2), candidates
        ):
            gate.addmm_(before, w_hidden)
            r_and_z.sigmoid_()
            n.addcmul_(r, h_n).tanh_()
            before = torch.lerp(n, before, z, out=state)
        ctx.save_for_backward(steps, w_ih, w_hh, states, gates, candidates)
        return before

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_state: Tensor) -> tuple[Tensor | None, ...]:
        steps, w_ih, w_hh, states, gates, candidates = ctx.saved_tensors
        count, batch, hidden = candidates.shape
        d_gates = steps.new_empty(count, batch, 3 * hidden)  # (T, B, 3 H): before r, z, and of W_hn h + b_hn
        d_candidates = torch.empty_like(candidates)  # before the tanh
        carried = torch.empty_like(d_state)
        through_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
        through_tanh = torch.ops.aten.tanh_backward.grad_input
        kept = (states[:-1], *gates.chunk(3, dim=2), candidates)
        made = (d_gates, *d_gates.chunk(3, dim=2), d_candidates)
        for before, r, z, h_n, n, d_gate, d_r, d_z, d_h_n, d_n in reversed(list(_each_step(*kept, *made))):
            through_sigmoid((before - n).mul_(d_state), z, grad_input=d_z)
            torch.mul(d_state, z, out=carried)
            through_tanh(d_state - carried, n, grad_input=d_n)
            torch.mul(d_n, r, out=d_h_n)
            through_sigmoid(d_n * h_n, r, grad_input=d_r)
            d_state = torch.addmm(carried, d_gate, w_hh)
        d_w_hh, d_b_hh = _gradients(d_gates, states[:-1])
        d_gates[:, :, 2 * hidden :] = d_candidates  # the input's part of the candidate is not multiplied by r
        d_w_ih, d_b_ih = _gradients(d_gates, steps)
        d_steps = d_gates @ w_ih if ctx.needs_input_grad[0] else None
        return d_steps, d_w_ih, d_w_hh, d_b_ih, d_b_hh


def _each_step(*values: Tensor | list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The values of step 1, of step 2, …: views, made by one call a tensor instead of one a step."""
    return zip(*(value.unbind() if isinstance(value, Tensor) else value for value in values), strict=True)


def _gradients(d_gates: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a weight (G, inputs) and its bias (G,) from those of the gates (T, B, G), over all steps at once."""
    d_gates = d_gates.flatten(0, 1)
    return d_gates.t() @ inputs.flatten(0, 1), d_gates.sum(dim=0)
