"""Which errors become one sentence: those of a machine that has no memory left, whoever raises them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import make_runs_small

from harness.checkpoint import load_checkpoint
from harness.errors import OutOfMemory, is_out_of_memory

TOO_LARGE = 1 << 62  # bytes, more than any machine can address


def allocations():
    return {
        "Python": lambda: bytearray(TOO_LARGE),
        "NumPy": lambda: np.ones(TOO_LARGE, dtype=np.uint8),
        "PyTorch": lambda: torch.ones(TOO_LARGE, dtype=torch.uint8),
    }


@pytest.mark.parametrize("library", allocations())
def test_failed_allocation_is_recognized(library):
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocations()[library]()
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_taken_for_it():
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(caught.value)
    assert not is_out_of_memory(OSError("out of memory"))
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for the convolution forward"))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 8.00 GB)",
        "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 GB.",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "could not create a primitive",
        "could not create a memory object",
        "std::bad_alloc",
    ],
)
def test_error_of_another_library_or_device_is_recognized(text):
    assert is_out_of_memory(RuntimeError(text))


def test_want_of_memory_is_one_sentence_in_any_script_and_in_a_dry_run(run_main, in_project, monkeypatch):
    def allocate(*_, **__):
        return torch.ones(TOO_LARGE, dtype=torch.uint8)

    make_runs_small(monkeypatch.setattr)
    monkeypatch.setattr("harness.evaluate.evaluate", allocate)
    monkeypatch.setattr("harness.checkpoint.load_checkpoint", allocate)
    Path("best.pt").touch()
    for script, *flags in (("visualize", "best.pt"), ("rnn_mnist", "--data", "synthetic", "--dry-run")):
        code, _, err = run_main(script, *flags)
        assert code == 2 and err.startswith("error: there is not enough memory for this") and err.count("\n") == 1
    assert not Path("runs").exists()


def test_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "best.pt")
    monkeypatch.setattr(torch, "load", lambda *_, **__: torch.ones(TOO_LARGE, dtype=torch.uint8))
    with pytest.raises(OutOfMemory, match="not enough memory to read"):
        load_checkpoint(tmp_path / "best.pt")


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
    assert err.startswith(
        "error: there is not enough memory for this on this machine, beside its other programs; continue"
    )
    assert err.count("\n") == 1 and "continue where there is more with: " in err and "--overwrite" not in err
    status = json.loads(Path("runs/rnn_synthetic/run/config.json").read_text())["status"]
    assert status == "interrupted"
    assert run_main("rnn_mnist", *flags, "--resume")[0] == 0
