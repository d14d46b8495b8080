"""What several tests share: the project on the path, one thread, and the scripts run in this process or their own."""

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side; before torch is imported, and for every child
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(PROJECT / ".pytest_cache" / "hypothesis")  # what it finds in the code


@pytest.fixture
def in_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Run in an empty folder, so that the default --runs-dir and --data-dir touch nothing of the project's."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_synthetic(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Make --data synthetic draw very few images; their numbers, train and test."""
    counts = (160, 64)
    monkeypatch.setattr("harness.synthetic.TRAIN_COUNT", counts[0])
    monkeypatch.setattr("harness.synthetic.TEST_COUNT", counts[1])
    return counts


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the pictures at a run's end by blank ones: Matplotlib takes longer than a tiny training."""
    import numpy as np

    for name in ("confusion_figure", "worst_figure"):
        monkeypatch.setattr(f"harness.pictures.{name}", lambda *_: np.zeros((4, 4, 3), dtype=np.uint8))


@pytest.fixture
def read_flags() -> Callable[..., argparse.Namespace]:
    """The flags that a script reads from a command line, without running it: read_flags("rnn_mnist", "--lr", 1)."""

    def call(script: str, *argv: object) -> argparse.Namespace:
        from harness.flags import parse_flags

        return parse_flags(importlib.import_module(script).make_parser(), [str(word) for word in argv])

    return call


@pytest.fixture
def run_main(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call a script's main in this process: run_main("rnn_mnist", "--epochs", "1") -> (exit code, stdout, stderr)."""

    def call(script: str, *argv: object) -> tuple[int, str, str]:
        from harness.cli import run_script

        capfd.readouterr()
        code = run_script(lambda: importlib.import_module(script).main([str(word) for word in argv]))
        out, err = capfd.readouterr()
        return code, out, err

    return call


def start_script(script: str, *argv: object, **options: object) -> subprocess.Popen:
    """Start `script`.py as its own process, in the current folder, with one thread."""
    command = [sys.executable, str(PROJECT / f"{script}.py"), *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
