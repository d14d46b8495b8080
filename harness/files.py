"""Writing that survives a kill at any instant, and a lock that dies with its process."""

import contextlib
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path

from harness.errors import UserError

if os.name == "nt":
    import msvcrt

    fcntl = None
else:
    import fcntl


def make_folder(path: Path) -> None:
    """Create a folder and its parents; UserError if that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror}") from error


def nearest_folder(path: Path, flag: str) -> Path:
    """The folder that a flag names or, where there is none yet, the first above it that exists.

    Raises UserError if a file or a dangling link is in its place or in the way, or if one may not look.
    """
    for each in (path, *path.parents):
        try:
            is_folder = stat.S_ISDIR(each.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            if each.is_symlink():
                raise UserError(f"{flag} {path}: {each} is a link to nothing") from None
            continue
        except OSError as error:
            raise UserError(f"{flag} {path}: cannot look at {each}: {error.strerror}") from error
        if not is_folder:
            raise UserError(f"{flag} {path}: {each} is a file, and must be a folder")
        return each
    raise UserError(f"{flag} {path}: there is no such drive")


def check_writable(folder: Path) -> None:
    """UserError if no file can be made in the folder; nothing stays in it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {error.strerror}") from error


def is_outdated(made: Path, checkpoint: Path) -> bool:
    """Whether the file is missing or older than the checkpoint that it is made from; never without a checkpoint."""
    try:
        changed = checkpoint.stat().st_mtime
    except OSError:
        return False
    try:
        return made.stat().st_mtime < changed
    except OSError:
        return True


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written beside it, flushed to disk, renamed over it.

    Whoever reads `path` finds the old content or the new one, whole, whatever happens in between. Raises UserError if
    it cannot be written (a full disk, no permission); the old file is then untouched and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # two processes may write the same
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            flush_to_disk(file.fileno())
        beside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def flush_to_disk(descriptor: int) -> None:
    """All that was written to the file is on the disk afterwards; on macOS past the drive's own cache, too."""
    os.fsync(descriptor)
    if hasattr(fcntl, "F_FULLFSYNC"):
        with contextlib.suppress(OSError):  # a network's file system may not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)


def _flush_folder(folder: Path) -> None:
    """Make a rename durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """An exclusive lock on a file, held by the operating system for this process and freed when it ends, however.

    Use as a context manager. With `wait` it blocks until the lock is free; otherwise UserError with `refusal`.
    """

    def __init__(self, path: Path, *, wait: bool = False, refusal: str = "") -> None:
        self.path, self.wait, self.refusal = path, wait, refusal
        self._file = None

    def acquire(self) -> None:
        try:
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UserError(f"cannot write in {self.path.parent}: {error.strerror}") from error
        while not self._try():
            if not self.wait:
                self._file.close()
                self._file = None
                raise UserError(self.refusal)
            time.sleep(0.2)

    @property
    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            self._file.close()  # closing frees the lock
            self._file = None

    def _try(self) -> bool:
        try:
            if os.name == "nt":
                self._file.seek(0)
                msvcrt.locking(self._file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise UserError(f"cannot lock {self.path}: {error.strerror}") from error
        return True

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
