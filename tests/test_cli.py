"""How a script starts and ends: its exit code, its one sentence, what stops it; and the commands that it prints."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from harness.cli import command_line, program, run_script
from harness.errors import STOP_WITH_STDIN, FlagError, UserError

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and a POSIX shell")


def ending_with(error: BaseException | None):
    def main() -> int:
        if error:
            raise error
        return 3

    return main


@pytest.fixture(autouse=True)
def signal_handlers_restored():
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (None, 3, ""),
        (UserError("the disk is full"), 2, "error: the disk is full\n"),
        (FlagError("no such flag"), 2, "error: no such flag (--help lists every flag)\n"),
        (MemoryError(), 2, "error: there is not enough memory for this on this machine, beside its other programs\n"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(error, code, told, capsys) -> None:
    stdout = sys.stdout
    assert run_script(ending_with(error)) == code
    assert capsys.readouterr() == ("", told)
    assert sys.stdout is stdout


@pytest.mark.parametrize("bug", [RuntimeError("shapes differ"), OSError(28, "of some file")])
def test_bug_keeps_its_traceback(bug) -> None:
    with pytest.raises(type(bug)):
        run_script(ending_with(bug))


def start(main: str, **options) -> subprocess.Popen:
    """A process that runs `main`, a line of Python, by run_script."""
    lines = ["import sys, time", "from harness.cli import run_script", "def main():", f"    {main}"]
    code = "\n".join([*lines, "sys.exit(run_script(main))"])
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONPATH": str(PROJECT)} | options.pop("env", {})
    return subprocess.Popen([sys.executable, "-c", code], text=True, env=environment, **pipes | options)


WAITING = "print('ready', flush=True)\n    while True: time.sleep(0.01)"  # back in Python often, as a training is


@posix_only
@pytest.mark.parametrize(("stop", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("end of stdin", 143)])
def test_interrupted_script_says_so_and_ends_with_the_signals_code(stop, code) -> None:
    with start(WAITING, env={STOP_WITH_STDIN: "1"} if stop == "end of stdin" else {}) as process:
        assert process.stdout.readline() == "ready\n"
        if stop == "end of stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[stop])
        assert process.stderr.read() == "\ninterrupted\n"
    assert process.returncode == code


@posix_only
def test_reader_that_goes_away_is_one_sentence() -> None:
    with start("sys.stdin.readline(); print('x', flush=True)") as process:
        process.stdout.close()  # as `| head` does
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stderr.read() == "error: cannot write to standard output: Broken pipe\n"
    assert process.returncode == 2


@posix_only
@pytest.mark.parametrize("descriptor", [1, 2])
def test_closed_streams_and_a_notebooks_drawing_backend_do_not_stop_a_script(descriptor: int) -> None:
    main = "import matplotlib.pyplot; print('x'); print('y', file=sys.stderr); return 0"
    environment = {"MPLBACKEND": "module://not_installed"}
    with start(main, env=environment, preexec_fn=lambda: os.close(descriptor)) as process:
        told = [process.stdout.read(), process.stderr.read()]
    assert process.returncode == 0
    assert told == ["" if number == descriptor else line for number, line in ((1, "x\n"), (2, "y\n"))]


# -- the commands that are printed -------------------------------------------------------------------------------------


def environment(folder: Path) -> Path:
    """The Python of a stand-in for a virtual environment, with TensorBoard."""
    folder.mkdir(parents=True)
    ending = ".exe" if os.name == "nt" else ""
    for name in ("python", "tensorboard"):
        path = folder / f"{name}{ending}"
        path.touch()
        path.chmod(0o755)
    return folder / f"python{ending}"


def test_printed_commands_name_a_program_by_its_path_unless_its_environment_is_active(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, other = environment(tmp_path / "ours" / "bin"), environment(tmp_path / "other")
    monkeypatch.setattr(sys, "executable", str(ours))
    monkeypatch.chdir(tmp_path)
    for path in (str(other.parent), str(tmp_path)):  # another one is active, none is
        monkeypatch.setenv("PATH", path)
        assert program("python") == str(Path("ours", "bin", "python"))
        assert program("tensorboard") == str(Path("ours", "bin", "tensorboard"))
        assert program("torchrun") == "torchrun"  # which the environment lacks
    monkeypatch.chdir(other.parent)
    assert program("python") == str(ours.parent / "python")
    monkeypatch.setenv("PATH", os.pathsep.join([str(ours.parent), str(other.parent)]))
    assert (program("python"), program("tensorboard")) == ("python", "tensorboard")


def test_commands_are_quoted_for_the_systems_own_shell() -> None:
    words = ["python", r".\rnn_mnist.py", "--runs-dir", "my runs"]
    assert command_line(words, windows=True) == r'python .\rnn_mnist.py --runs-dir "my runs"'
    assert command_line(words, windows=False) == r"python '.\rnn_mnist.py' --runs-dir 'my runs'"
