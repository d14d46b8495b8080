"""A disk that fails when it is told to, for test_faulty_disk.py (some faults) and soak.py (all of them).

`FaultyDisk` stands between a block of code and the files of a folder. It numbers all that changes them, or makes a
change durable, and lets one of these calls fail with one of the system's errors. `Training` is a run on a few images
for which that is tried, by `check_fault`.
"""

import builtins
import errno
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from killed_runs import _watch_audit_events, _watchers, assert_same_run
from mutations import check_told, outcome

from harness.checkpoint import load_checkpoint

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS", "ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL")
# The kinds of calls, each with the errors by which a system may answer it; opening and flushing a folder is what makes
# a renaming in it durable. The soak tries all of the errors on each.
UNSUPPORTED = ("ENOSYS", "EOPNOTSUPP", "EINVAL")
KINDS = {
    "open": ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS"),
    "write": ("ENOSPC", "EDQUOT", "EIO"),
    "close": ("ENOSPC", "EDQUOT", "EIO"),
    "truncate": ("EIO", "EACCES", "EINVAL"),
    "fsync": ("ENOSPC", "EDQUOT", "EIO", "EROFS", *UNSUPPORTED),
    "rename": ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS"),
    "remove": ("EIO", "EACCES", "EROFS"),
    "mkdir": ("ENOSPC", "EDQUOT", "EIO", "EACCES", "EROFS"),
    "lock": ("EIO", "ENOLCK", *UNSUPPORTED),
    "unlock": ("EIO", "ENOLCK"),
    "open folder": ("EIO", "EACCES"),
    "fsync folder": ("EIO", "EACCES", *UNSUPPORTED),
}
PASSING = ("EIO", "EACCES")  # these may be over a moment later; the others stay until somebody mends the disk

_KIND_OF_EVENT = {
    "os.rename": "rename",
    "os.truncate": "truncate",
    "os.remove": "remove",
    "os.rmdir": "remove",
    "os.mkdir": "mkdir",
}


class FaultyDisk:
    """Number the block's calls on files below `folder`; call `number` fails with `error`, if they are given.

    With `lasting` every later call of its kind fails, too. Nothing is really flushed. For Linux: it needs /proc.
    """

    def __init__(self, folder: Path, number: int = 0, error: str = "EIO", *, lasting: bool = False) -> None:
        self.folder, self.number, self.lasting = folder.resolve(), number, lasting
        self.error = getattr(errno, error)
        self.calls: list[str] = []  # the kind of each call so far
        self.failed = ""  # what failed: kind and file

    def call(self, kind: str, path: Path, before: Callable[[], object] = lambda: None) -> None:
        """Count a call; let it fail if it is its turn, after `before`."""
        self.calls.append(kind)
        again = self.lasting and self.failed.startswith(f"{kind} of ")
        if len(self.calls) == self.number or again:
            self.failed = f"{kind} of {path.relative_to(self.folder)}"
            before()
            raise OSError(self.error, os.strerror(self.error), str(path))

    def path_of(self, file: object) -> Path | None:
        """The path of a file by its name or descriptor, if it is below the folder."""
        if isinstance(file, int):
            link = Path(f"/proc/self/fd/{file}")
            file = link.readlink() if link.exists() else None
        path = Path(os.path.abspath(os.fsdecode(file))) if isinstance(file, str | bytes | Path) else None  # noqa: PTH100
        return path if path and (path == self.folder or self.folder in path.parents) else None

    def __enter__(self) -> "FaultyDisk":
        _watch_audit_events()
        _watchers.append(self._watch)
        real_write = os.write

        def fsync(descriptor: int) -> None:
            if path := self.path_of(descriptor):
                self.call("fsync folder" if path.is_dir() else "fsync", path)

        def write(descriptor: int, content: bytes) -> int:
            if path := self.path_of(descriptor):
                self.call("write", path, lambda: real_write(descriptor, content[: len(content) // 2]))
            return real_write(descriptor, content)

        self._patches = [
            mock.patch.object(os, "fsync", fsync),
            mock.patch.object(os, "write", write),
            mock.patch.object(io, "open", self._open),
            mock.patch.object(builtins, "open", self._open),
        ]
        for each in self._patches:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()
        _watchers.remove(self._watch)

    def _watch(self, event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if (path := self.path_of(path)) and not isinstance(arguments[0], int):
                if flags & (os.O_WRONLY | os.O_RDWR):
                    self.call("open", path)
                elif path.is_dir():
                    self.call("open folder", path)
        elif event == "fcntl.flock":
            if path := self.path_of(arguments[0]):
                self.call("unlock" if arguments[1] & fcntl.LOCK_UN else "lock", path)
        elif event in _KIND_OF_EVENT and (path := self.path_of(arguments[0])):
            kind = _KIND_OF_EVENT[event]
            if os.path.lexists(path) == (kind != "mkdir"):  # else it is refused for another reason
                self.call(kind, path)

    def _open(self, file: object, mode: str = "r", buffering: int = -1, *given: object, **named: object) -> object:
        path = self.path_of(file)
        if not path or not set(mode) & set("wax+"):
            return _real_open(file, mode, buffering, *given, **named)
        closefd, opener = named.pop("closefd", True), named.pop("opener", None)
        raw = _File(self, path, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, *given, **named)


_real_open = io.open


class _File(io.FileIO):
    """A file that is written by way of a FaultyDisk."""

    def __init__(self, disk: FaultyDisk, path: Path, *given: object) -> None:
        super().__init__(*given)
        self.disk, self.path = disk, path

    def write(self, content: bytes) -> int:
        half = bytes(content)[: len(content) // 2]
        self.disk.call("write", self.path, lambda: super(_File, self).write(half))
        return super().write(content)

    def truncate(self, size: int | None = None) -> int:
        self.disk.call("truncate", self.path)
        return super().truncate(size)

    def close(self) -> None:
        closed = self.closed
        super().close()
        if not closed:
            self.disk.call("close", self.path)


class Training:
    """A script with flags, to be tried in `folder`; `make_runs_small` must have been called.

    Each of its `WAYS` trains a run of two epochs, from another state of the run folder.
    """

    WAYS = ("new", "resume", "overwrite")

    def __init__(self, main: Callable[[list[str]], int], words: tuple[str, ...], folder: Path) -> None:
        self.main, self.words, self.folder = main, words, folder
        self.before: dict[str, Path | None] = {"new": None}  # the runs folder that a way begins with
        self.before["resume"] = self._train("half", "new", "--epochs=1")
        self.before["overwrite"] = self._train("whole", "new", "--epochs=2")
        again = self._train("again", "resume", "--epochs=2", "--resume")
        self.wanted = {"new": self.before["overwrite"], "resume": again, "overwrite": self.before["overwrite"]}

    def _train(self, name: str, way: str, *words: str) -> Path:
        runs_dir = self.folder / name
        if self.before[way]:
            shutil.copytree(self.before[way], runs_dir)
        assert self.start(runs_dir, *words) == (0, "")
        return runs_dir

    def start(self, runs_dir: Path, *words: str) -> tuple[int, str]:
        """Exit code and standard error."""
        argv = [*self.words, "--name=run", f"--runs-dir={runs_dir}", *words]
        code, _, err = outcome(lambda: self.main(argv))
        return code, err

    def try_on(self, way: str, number: int = 0, error: str = "EIO", *, lasting: bool = False) -> tuple:
        """Train with a fault at call `number`; returns the exit code, standard error, and the disk."""
        runs_dir = self.folder / "tried"
        shutil.rmtree(runs_dir, ignore_errors=True)
        runs_dir.mkdir()
        if self.before[way]:
            shutil.copytree(self.before[way], runs_dir, dirs_exist_ok=True)
        with FaultyDisk(runs_dir, number, error, lasting=lasting) as disk:
            code, err = self.start(runs_dir, "--epochs=2", *([] if way == "new" else [f"--{way}"]))
        return code, err, disk

    def check_fault(self, way: str, number: int, error: str, *, lasting: bool) -> tuple[int, str]:
        """Try a fault, then go on without it; returns the exit code with it and what failed.

        Whatever failed, it is said in one line, last.pt is whole and goes back no epoch, and --resume ends with the
        run that nothing disturbed.
        """
        code, err, disk = self.try_on(way, number, error, lasting=lasting)
        assert disk.failed
        check_told(code, err)
        (wanted,) = self.wanted[way].glob("*/*")
        run = disk.folder / wanted.relative_to(self.wanted[way])
        if (run / "last.pt").exists():
            epoch = load_checkpoint(run / "last.pt")["epoch"]
            assert epoch >= (2 if code == 0 else 1), disk.failed
        else:
            assert code == 2 and way != "resume", disk.failed
        if disk.failed.startswith("unlock"):  # the lock is this process's until it ends
            assert_same_run(run, wanted)
            return code, disk.failed
        again, told = self.start(disk.folder, "--epochs=2", "--resume")
        assert again == 0, f"after {disk.failed}, {err}: {told}"
        assert_same_run(run, wanted)
        return code, disk.failed

    def faults(self, way: str) -> Iterator[tuple[str, int]]:
        """(kind, number) of every call of a run in which nothing fails."""
        code, err, disk = self.try_on(way)
        assert code == 0, err
        yield from ((kind, number) for number, kind in enumerate(disk.calls, start=1))
