"""Folders that a flag names, small files, and the lock by which one process holds a folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import files
from harness.errors import FolderLocked, UserError
from harness.files import (
    is_locked,
    leftovers,
    lock_folder,
    nearest_folder,
    os_errors_as,
    patiently,
    read_file,
    write_atomically,
)

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


@links
def test_only_regular_files_of_a_sensible_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        with pytest.raises(UserError, match=r"^cannot read .*: it is no regular file$"):
            read_file(tmp_path / name)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(files.LARGEST + 1)
    with pytest.raises(UserError, match=r"^cannot read \S*sparse: it has 4,294,967,297 bytes, and nothing of this "):
        read_file(tmp_path / "sparse")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_file_system_that_cannot_flush_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomically(tmp_path / "file", b"new")
    assert read_file(tmp_path / "file") == b"new"


def refuse_at_first(monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> list[Path]:
    """Let Path's `method` be refused so often; returns the paths for which it was called."""
    real, calls = getattr(Path, method), []

    def call(path: Path, *given: object, **named: object) -> object:
        calls.append(path)
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *given, **named)

    monkeypatch.setattr(Path, method, call)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    return calls


def test_file_that_a_reader_holds_for_a_moment_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")
    assert len(refuse_at_first(monkeypatch, "replace", 2)) == 0
    write_atomically(tmp_path / "file", b"new")
    assert read_file(tmp_path / "file") == b"new"


def test_file_that_a_reader_never_lets_go_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "file", b"old")
    calls = refuse_at_first(monkeypatch, "replace", 99)
    with pytest.raises(UserError, match=r"^cannot write \S*file: Permission denied$"):
        write_atomically(tmp_path / "file", b"new")
    assert 2 < len(calls) < 10
    assert read_file(tmp_path / "file") == b"old" and [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(FileNotFoundError):
        patiently((tmp_path / "none").unlink)  # which waiting does not mend


def test_leftovers_are_the_temporary_files_of_broken_off_writes_and_no_others(tmp_path: Path) -> None:
    for name in (".a.pt.0123abcd.tmp", ".a.pt.tmp", ".a.pt.0123abcx.tmp", ".b.pt.0123abcd.tmp", "a.pt.0123abcd.tmp"):
        (tmp_path / name).write_text("")
    assert [path.name for path in leftovers(tmp_path / "a.pt")] == [".a.pt.0123abcd.tmp"]
    assert len(list(leftovers(tmp_path / "*.pt"))) == 2


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
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
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
