"""States, gates and gradients of recurrent networks against PyTorch's own layers and NumPy; saliency against Captum."""

import captum.attr as captum_attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.analyses.lengths import KINDS, resized
from interpret.recurrent import (
    final_from,
    gate_statistics,
    gradient_norms,
    hidden_states,
    probabilities_by_row,
    read,
)
from interpret.saliency import covered_rows, covered_squares, gradient_times_input
from models import build_model

CELLS = ("rnn", "lstm", "gru")
ROWS, PIXELS, HIDDEN, CLASSES = 7, 6, 5, 4
BLACK = -0.4


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recurrent", "saliency"):
        monkeypatch.setattr(f"interpret.{name}.BATCH", 4)


def network(cell: str) -> nn.Module:
    """With weights so large that gates saturate."""
    sizes = {"cell": cell, "input_size": PIXELS, "hidden_size": HIDDEN, "classes": CLASSES}
    model = build_model({"model": {"name": "RecurrentClassifier", **sizes}}, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(6, 1, ROWS, PIXELS, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("cell", CELLS)
def test_states_are_those_of_pytorchs_own_layer(cell: str, images: Tensor):
    model = network(cell)
    steps = list(read(model, images))
    outputs, last = model.recurrent(images[:, 0].transpose(0, 1))
    assert torch.allclose(torch.stack([step.state for step in steps]), outputs, atol=1e-6)
    assert torch.allclose(hidden_states(model, images), outputs, atol=1e-6)
    if cell == "lstm":
        assert torch.allclose(steps[-1].cell, last[1][0], atol=1e-6)


def test_gates_of_the_lstm_are_those_of_its_equations(images: Tensor):
    model = network("lstm")
    w, u, b, c = (parameter.detach().numpy() for parameter in model.recurrent.parameters())
    h = cell = np.zeros((len(images), HIDDEN))
    for row, step in enumerate(read(model, images)):
        part = np.split(images[:, 0, row].numpy() @ w.T + b + h @ u.T + c, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-part[index])) for index in (0, 1, 3))
        cell = f * cell + i * np.tanh(part[2])
        h = o * np.tanh(cell)
        assert list(step.gates) == ["input", "forget", "output"]
        for gate, expected in zip(step.gates.values(), (i, f, o), strict=True):
            assert np.allclose(gate.detach().numpy(), expected, atol=1e-6)
        assert np.allclose(step.cell.detach().numpy(), cell, atol=1e-6)


def test_gates_of_the_gru_are_those_of_its_equations(images: Tensor):
    model = network("gru")
    w, u, b, c = (parameter.detach().numpy() for parameter in model.recurrent.parameters())
    h = np.zeros((len(images), HIDDEN))
    for row, step in enumerate(read(model, images)):
        r_x, z_x, n_x = np.split(images[:, 0, row].numpy() @ w.T + b, 3, axis=1)
        r_h, z_h, n_h = np.split(h @ u.T + c, 3, axis=1)
        r, z = 1 / (1 + np.exp(-r_x - r_h)), 1 / (1 + np.exp(-z_x - z_h))
        h = (1 - z) * np.tanh(n_x + r * n_h) + z * h
        assert list(step.gates) == ["reset", "update"]
        assert np.allclose(step.gates["reset"].detach().numpy(), r, atol=1e-6)
        assert np.allclose(step.gates["update"].detach().numpy(), z, atol=1e-6)
        assert np.allclose(step.state.detach().numpy(), h, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_probabilities_after_a_row_are_those_of_the_image_cut_there(cell: str, images: Tensor):
    model = network(cell)
    found = probabilities_by_row(model, images)
    assert found.shape == (ROWS, 6, CLASSES)
    for row in range(ROWS):
        with torch.no_grad():
            assert torch.allclose(found[row], model(images[:, :, : row + 1]).softmax(dim=1), atol=1e-6)


def test_the_row_from_which_on_nothing_changes():
    values = torch.tensor([[3, 1, 2], [3, 2, 1], [3, 2, 2]])
    assert final_from(values).tolist() == [1, 2, 3]


@pytest.mark.parametrize("cell", CELLS)
def test_gate_statistics_are_those_of_all_gates_at_once(cell: str, images: Tensor):
    model = network(cell)
    found = gate_statistics(model, images)
    with torch.no_grad():
        steps = list(read(model, images))
    assert list(found) == list(steps[0].gates)
    for name, gate in found.items():
        values = torch.stack([step.gates[name] for step in steps]).double()  # (rows, n, hidden)
        assert torch.allclose(gate.mean, values.mean(dim=(1, 2)), atol=1e-6)
        assert torch.allclose(gate.std, values.std(dim=(1, 2), correction=0), atol=1e-5)
        for share, unit_share, saturated in (
            (gate.closed, gate.unit_closed, values < 0.1),
            (gate.open, gate.unit_open, values > 0.9),
        ):
            assert torch.allclose(share, saturated.double().mean(dim=(1, 2))) and saturated.any()
            assert torch.allclose(unit_share, saturated.double().mean(dim=(0, 1)))


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_of_a_state_is_that_of_starting_pytorchs_layer_there(cell: str, images: Tensor):
    model = network(cell)
    found = gradient_norms(model, images)
    assert list(found) == ["hidden state", "cell state"][: 1 + (cell == "lstm")]
    rows, steps = images[:, 0].transpose(0, 1), list(read(model, images))
    answers = model(images).argmax(dim=1)
    assert torch.allclose(found["hidden state"][-1], model.fc.weight[answers].norm(dim=1))
    for row in range(ROWS - 1):
        state = steps[row].state.detach().requires_grad_()
        memory = steps[row].cell.detach().requires_grad_() if cell == "lstm" else None
        start = state[None] if memory is None else (state[None], memory[None])
        outputs, _ = model.recurrent(rows[row + 1 :], start)
        logits = model.fc(outputs[-1]).gather(1, answers[:, None]).sum()
        gradients = torch.autograd.grad(logits, [state] if memory is None else [state, memory])
        assert torch.allclose(found["hidden state"][row], gradients[0].norm(dim=1), rtol=1e-4, atol=1e-7)
        if memory is not None:  # which is in its own step's hidden state, too: h = o tanh(c)
            through = gradients[0] * steps[row].gates["output"] * (1 - memory.tanh() ** 2)
            assert torch.allclose(found["cell state"][row], (gradients[1] + through).norm(dim=1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_times_input_is_captums_on_the_pixels(cell: str, images: Tensor):
    model = network(cell).eval()
    normalized = nn.Sequential(Shift(BLACK), model)  # its input is 0 where a pixel is black
    expected = captum_attr.InputXGradient(normalized).attribute((images - BLACK).requires_grad_(), target=LABELS)
    assert torch.allclose(gradient_times_input(model, images, LABELS, BLACK), expected, atol=1e-6)


class Shift(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, images: Tensor) -> Tensor:
        return images + self.amount


@pytest.mark.parametrize("cell", CELLS)
def test_covered_rows_and_squares_are_captums_occlusion(cell: str, images: Tensor):
    model = network(cell).eval()
    with torch.no_grad():
        clean = model(images).gather(1, LABELS[:, None])
        occlusion = captum_attr.Occlusion(model)
        cover = {"target": LABELS, "baselines": BLACK}
        rows = occlusion.attribute(images, sliding_window_shapes=(1, 1, PIXELS), strides=1, **cover)[:, 0, :, 0]
    index = LABELS[:, None, None]
    lost = clean - covered_rows(model, images, BLACK).gather(2, index.expand(-1, ROWS, 1))[:, :, 0]
    assert torch.allclose(lost, rows, atol=1e-5)
    covered = covered_squares(model, images, 3, BLACK)
    assert covered.shape == (6, ROWS - 2, PIXELS - 2, CLASSES)
    for top, left in ((0, 0), (4, 3), (2, 1)):
        hidden = images.clone()
        hidden[:, :, top : top + 3, left : left + 3] = BLACK
        with torch.no_grad():
            assert torch.allclose(covered[:, top, left], model(hidden), atol=1e-6)


def test_a_network_of_several_layers_or_directions_is_refused(images: Tensor):
    for more in ({"num_layers": 2}, {"bidirectional": True}):
        model = nn.Module()
        model.recurrent = nn.GRU(PIXELS, 3, batch_first=True, **more)
        with pytest.raises(ValueError, match="more than one layer or direction"):
            next(read(model, images))


def test_images_of_another_length(images: Tensor):
    scaled, top, bottom = (resized(images, 9, kind, BLACK) for kind in KINDS)
    assert scaled.shape == top.shape == bottom.shape == (6, 1, 9, PIXELS)
    assert torch.equal(top[:, :, 2:], images) and torch.equal(bottom[:, :, :7], images)
    assert {*top[:, :, :2].unique().tolist(), *bottom[:, :, 7:].unique().tolist()} == {top[0, 0, 0, 0].item()}
    assert top[0, 0, 0, 0].item() == pytest.approx(BLACK)
    assert torch.equal(resized(images, 5, KINDS[1], BLACK), images[:, :, 2:])
    assert torch.equal(resized(images, 5, KINDS[2], BLACK), images[:, :, :5])
    assert torch.allclose(resized(torch.full((1, 1, 4, 3), 2.0), 9, KINDS[0], BLACK), torch.tensor(2.0))
