"""Which errors become one sentence: those of a machine that has no memory left, whoever raises them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import make_runs_small

from harness.errors import is_out_of_memory

TOO_LARGE = 1 << 46  # bytes; 64 TiB


def allocations():
    return {
        "Python": lambda: bytearray(TOO_LARGE),
        "NumPy": lambda: np.ones(TOO_LARGE, dtype=np.uint8),
        "PyTorch": lambda: torch.ones(TOO_LARGE, dtype=torch.uint8),
    }


@pytest.mark.parametrize("library", allocations())
def test_failed_allocation_is_recognised(library):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocations()[library]()
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(OSError("out of memory"))


def test_run_that_has_no_memory_left_is_one_sentence_and_goes_on_later(run_main, in_project, monkeypatch):
    import harness.train

    make_runs_small(monkeypatch.setattr)
    flags = ("--data", "synthetic", "--hidden-size", 8, "--batch-size", 16, "--epochs", 2, "--name", "run")
    real, calls = harness.train.train_epoch, []

    def train_epoch(*arguments):
        calls.append(arguments)
        return real(*arguments) if len(calls) == 1 else torch.ones(TOO_LARGE, dtype=torch.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(harness.train, "train_epoch", train_epoch)
        code, _, err = run_main("rnn_mnist", *flags)
    assert code == 2
    assert err.startswith("error: there is not enough memory for this; a smaller --batch-size needs less")
    assert err.count("\n") == 1 and "--resume" in err
    status = json.loads(Path("runs/rnn_synthetic/run/config.json").read_text())["status"]
    assert status == "interrupted"
    assert run_main("rnn_mnist", *flags, "--resume")[0] == 0
