"""A script run in a Jupyter kernel, by %run: interrupting it costs neither the kernel nor its variables."""

import json
import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PROJECT
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

pytestmark = pytest.mark.skipif(os.name == "nt", reason="interrupting a kernel is another thing on Windows")

LONGEST = 120  # seconds for an answer of the kernel's; only for a kernel that is dead

SETUP = f"""
import os, signal, sys
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "tests")!r}]
from killed_runs import make_runs_small
make_runs_small()
mine = "still here"
state = lambda: [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] + [
    os.environ.get("MPLBACKEND"), sys.stdout, sys.stderr, os.getcwd()]
before = state()
"""
RUN = f"%run {str(PROJECT / 'rnn_mnist.py')!r} --data synthetic --hidden-size 4 --batch-size 20 --name run --epochs"


class Kernel:
    """A kernel of this Python's, in the current folder."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    def run(self, code: str, on_output: Callable[[str], None] = lambda text: None) -> str:
        """What a cell prints; an error that it ends with stands at the end. Every piece goes to `on_output`, too."""
        printed, request = "", self.client.execute(code)
        while True:
            message = self._next()
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                printed += content["text"]
                on_output(content["text"])
            elif kind == "error":
                printed += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                return printed

    def _next(self) -> dict:
        for _ in range(LONGEST):
            try:
                return self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                assert self.manager.is_alive(), "the kernel is dead"
        raise AssertionError("the kernel does not answer")


@pytest.fixture
def kernel(in_project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(in_project / "jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    manager, client = start_new_kernel(startup_timeout=LONGEST, extra_arguments=["--HistoryManager.enabled=False"])
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_training_that_ends_or_is_interrupted_leaves_the_kernel_as_it_was(kernel: Kernel) -> None:
    as_before = "print(state() == before, mine)", "True still here\n"
    assert kernel.run(SETUP) == ""
    assert "best.pt and the rest are in" in kernel.run(f"{RUN} 1 --runs-dir whole")
    assert kernel.run(as_before[0]) == as_before[1]
    for begins, words in (("run folder: ", ""), ("continuing after epoch ", "--resume")):  # nor is the folder locked
        printed = kernel.run(f"{RUN} 100000 {words}", once(kernel.manager.interrupt_kernel, at="epoch "))
        assert begins in printed
        assert "interrupted; continue with: " in printed
        assert kernel.run(as_before[0]) == as_before[1]
    (config,) = Path("runs").glob("*/run/config.json")
    assert json.loads(config.read_bytes())["status"] == "interrupted"


def once(action: Callable[[], object], at: str) -> Callable[[str], None]:
    """Do something once, as soon as this is printed."""
    left = [action]
    return lambda text: left.pop()() if at in text and left else None
