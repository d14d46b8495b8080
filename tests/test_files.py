"""Folders that a flag names, small files, and the lock by which one process holds a folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import files
from harness.errors import FolderLocked, UserError
from harness.files import is_locked, lock_folder, nearest_folder, os_errors_as, read_file, write_atomically

PROJECT = Path(__file__).resolve().parent.parent

links = pytest.mark.skipif(os.name == "nt", reason="Windows lets not everyone make links")


def test_nearest_folder_is_the_first_one_there_is(in_project: Path) -> None:
    Path("a/b").mkdir(parents=True)
    assert nearest_folder(Path("a/b"), "--out") == Path("a/b")
    assert nearest_folder(Path("a/b/c/d"), "--out") == Path("a/b")
    assert nearest_folder(Path("x/y"), "--out") == Path()
    assert nearest_folder(in_project / "x", "--out") == in_project


def test_file_in_the_place_or_in_the_way_is_one_sentence(in_project: Path) -> None:
    Path("file").write_text("")
    for path in (Path("file"), Path("file/x")):
        with pytest.raises(UserError, match=r"^--out file\S*: file is a file, and must be a folder$"):
            nearest_folder(path, "--out")


@links
def test_link_that_leads_nowhere_is_one_sentence(in_project: Path) -> None:
    Path("dangling").symlink_to("nothing")
    Path("loop").symlink_to("loop")
    Path("real").mkdir()
    Path("link").symlink_to("real")
    assert nearest_folder(Path("link/x"), "--out") == Path("link")
    with pytest.raises(UserError, match=r"^--out dangling/x: dangling is a file, and must be a folder$"):
        nearest_folder(Path("dangling/x"), "--out")
    with pytest.raises(UserError, match=r"^--out loop: loop is a file, and must be a folder$"):
        nearest_folder(Path("loop"), "--out")


def test_file_is_read_and_replaced_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert read_file(tmp_path / "file") == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^cannot read \S*none: No such file or directory$"):
        read_file(tmp_path / "none")
    with pytest.raises(UserError, match=r"^cannot write \S*none/file: No such file or directory$"):
        write_atomically(tmp_path / "none" / "file", b"")
    with pytest.raises(UserError, match=r"^cannot do it: why; mend that$"), os_errors_as("cannot do it", "; mend that"):
        raise OSError(1, "why")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"^cannot write \S*file: No space left on device$"):
        write_atomically(tmp_path / "file", b"new")
    assert read_file(tmp_path / "file") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_held_once_at_a_time(tmp_path: Path) -> None:
    assert not is_locked(tmp_path) and list(tmp_path.iterdir()) == []
    with lock_folder(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(FolderLocked, match=f"^another process is training in {tmp_path}; "), lock_folder(tmp_path):
            pass
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)
    with lock_folder(tmp_path):
        pass


@pytest.mark.parametrize("end", ["kill", "close"])
def test_lock_ends_with_its_process(tmp_path: Path, end: str) -> None:
    program = "import sys; from pathlib import Path; from harness.files import lock_folder\n"
    program += "with lock_folder(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=PROJECT, **pipes)
    assert other.stdout.readline() == "held\n"
    assert is_locked(tmp_path)
    other.kill() if end == "kill" else other.stdin.close()
    with lock_folder(tmp_path, wait=True):
        assert is_locked(tmp_path)
    other.wait()
    assert not is_locked(tmp_path)


def test_folder_that_cannot_be_locked_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write in \S*file: ") as error, lock_folder(tmp_path / "file"):
        pass
    assert not isinstance(error.value, FolderLocked)
    assert not is_locked(tmp_path / "file") and not is_locked(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.name == "nt", reason="has no flock")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    files._warn_of_no_locks.cache_clear()
    with lock_folder(tmp_path), lock_folder(tmp_path):
        assert not is_locked(tmp_path)
    assert capsys.readouterr().err.count("this file system has no locks") == 1
