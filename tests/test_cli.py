"""How a script starts and ends: its exit code, its one sentence, what stops it; and the commands that it prints."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

from harness import errors
from harness.cli import command_line, program, run_script
from harness.errors import STOP_WITH_STDIN, FlagError, UserError

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and a POSIX shell")


def ending_with(error: BaseException | None):
    def main() -> int:
        if error:
            raise error
        return 3

    return main


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (None, 3, ""),
        (UserError("the disk is full"), 2, "error: the disk is full\n"),
        (FlagError("no such flag"), 2, "error: no such flag (--help lists every flag)\n"),
        (
            UserError("a\nb\r\x1b[1mc\u2028\udc80 é"),
            2,
            "error: a\\nb\\r\\x1b[1mc\\u2028\\udc80 é\n",
        ),
        (MemoryError(), 2, "error: there is not enough memory for this on this machine, beside its other programs\n"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(error, code, told, capsys) -> None:
    assert run_script(ending_with(error)) == code
    assert capsys.readouterr() == ("", told)


@posix_only
@pytest.mark.parametrize("stop", [None, *errors.INTERRUPTIONS])
@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
def test_script_leaves_the_process_of_a_notebook_alive_and_as_it_was(stop, before, capsys) -> None:
    def main() -> int:
        if stop:
            signal.raise_signal(stop)
            return 1
        raise UserError("a wrong flag")

    def state() -> tuple:
        handlers = [signal.getsignal(each) for each in errors.INTERRUPTIONS]
        return handlers, dict(os.environ), sys.stdout, sys.stderr, sys.stdout.errors

    own = {each: signal.signal(each, before) for each in errors.INTERRUPTIONS}
    try:
        found = state()
        code = run_script(main)
        assert state() == found
    finally:
        for each, handler in own.items():
            signal.signal(each, handler)
    if stop and stop.name == "SIGHUP" and before == signal.SIG_IGN:  # by nohup
        assert (code, capsys.readouterr()) == (1, ("", ""))
    else:
        told = "\ninterrupted\n" if stop else "error: a wrong flag\n"
        assert (code, capsys.readouterr()) == (128 + stop if stop else 2, ("", told))


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
@pytest.mark.parametrize(("stop", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("end of stdin", 143)])
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
def test_second_interruption_does_not_break_into_the_end() -> None:
    main = "import atexit, signal; atexit.register(signal.raise_signal, 2); signal.raise_signal(2)"
    with start(main) as process:
        assert process.stderr.read() == "\ninterrupted\n"
    assert process.returncode == 130


@posix_only
@pytest.mark.parametrize("flush", [True, False])
def test_script_whose_reader_goes_away_does_its_work_to_the_end(flush: bool) -> None:
    with start(f"sys.stdin.readline(); print('x' * 10**5, flush={flush}); print('done', file=sys.stderr)") as process:
        process.stdout.close()  # as `| head` does
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stderr.read() == "done\n"
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a full disk")
@pytest.mark.parametrize(
    ("main", "code"),
    [
        ("print('x')", 0),
        ("print('x', flush=True)", 0),
        ("raise errors.UserError", 2),
        ("raise errors.Interrupted(2)", 130),
    ],
)
def test_output_on_a_full_disk_changes_no_exit_code(main: str, code: int) -> None:
    with (
        Path("/dev/full").open("w") as full,
        start(f"from harness import errors; {main}", stdout=full, stderr=full) as p,
    ):
        assert p.wait() == code


@posix_only
def test_disowned_script_goes_on_after_its_terminal_is_closed() -> None:
    terminal, inside = os.openpty()
    main = "sys.stdin.readline(); print('x', flush=True); print('y', file=sys.stderr); return 7"
    with start(main, stdout=inside, stderr=inside) as process:
        os.close(inside)
        os.close(terminal)  # from now on writing to it is an EIO
        process.stdin.write("go on\n")
    assert process.returncode == 7


@posix_only
@pytest.mark.parametrize("descriptor", [1, 2])
def test_streams_that_are_closed_do_not_stop_a_script(descriptor: int) -> None:
    main = "print('x'); print('y', file=sys.stderr); return 0"
    with start(main, preexec_fn=lambda: os.close(descriptor)) as process:
        told = [process.stdout.read(), process.stderr.read()]
    assert process.returncode == 0
    assert told == ["" if number == descriptor else line for number, line in ((1, "x\n"), (2, "y\n"))]


def test_pictures_need_no_drawing_backend_such_as_a_notebook_hands_down() -> None:
    main = "import harness.pictures as p, numpy; print(p.confusion_figure(numpy.eye(2, dtype=int), 'ab', 'title').ndim)"
    with start(main, env={"MPLBACKEND": "module://not_installed"}) as process:
        assert process.communicate() == ("3\n", "")
    assert process.returncode == 0


@posix_only
def test_a_terminal_shows_at_once_that_something_is_loading() -> None:
    terminal, inside = os.openpty()
    with start("from harness.cli import say_loading; say_loading(); return 0", stdout=inside) as process:
        assert process.wait() == 0
    assert os.read(terminal, 100).decode() == "loading …\r\n"
    os.close(inside)
    os.close(terminal)
    with start("from harness.cli import say_loading; say_loading(); return 0") as process:
        assert process.communicate() == ("", "")


@pytest.mark.parametrize("script", ["rnn_mnist", "cnn_cifar10", "visualize", "report"])
def test_scripts_say_that_they_are_loading_before_they_import_pytorch(script: str) -> None:
    main = (PROJECT / f"{script}.py").read_text()
    assert 0 < main.index("    say_loading()") < main.index("    from models import")


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_alone_lists_every_target() -> None:
    text = (PROJECT / "Makefile").read_text()
    command = ["make", "--no-print-directory"]  # which it prints when make runs the tests
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    targets = text.partition(".PHONY: help ")[2].partition("\n")[0].split()
    assert [line.split()[1] for line in listed] == targets and len(targets) > 4
    assert max(map(len, listed)) <= 80


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
