"""Reading and writing small files, folders that a flag names, and the lock by which one process holds a folder.

What the operating system refuses becomes a UserError with one sentence here, so that callers need no handler.
"""

import contextlib
import errno
import functools
import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import FolderLocked, UserError

LARGEST = 4 << 30  # bytes; a checkpoint of the largest network that is allowed has 2.4e9

# How a file system says that it has no locks, or cannot flush a file or a folder: some network mounts, folders shared
# with containers, and file systems that are programs.
_NOT_OFFERED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.ENOTTY}


@contextlib.contextmanager
def os_errors_as(complaint: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError into a UserError: `complaint`, why, and `advice`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{complaint}: {error.strerror or error}{advice}") from error


@contextlib.contextmanager
def _optional(otherwise: Callable[[], None] = lambda: None) -> Iterator[None]:
    """For a call that only makes things safer: where the file system does not offer it, do `otherwise` and go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        otherwise()


def patiently(action: Callable, *given: Any, **named: Any) -> Any:
    """Call `action`, and call it again for a second while the system refuses it.

    On Windows nobody can replace or delete a file in the moment in which a reader or a virus scanner has it open.
    """
    for pause in (0.05, 0.1, 0.25, 0.6):
        with contextlib.suppress(PermissionError):
            return action(*given, **named)
        time.sleep(pause)
    return action(*given, **named)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; UserError if that cannot be done."""
    with os_errors_as(f"cannot make the folder {path}"):
        path.mkdir(parents=True, exist_ok=True)


def nearest_folder(path: Path, flag: str) -> Path:
    """The folder that a flag names or, where there is none yet, the first above it that exists.

    Raises UserError if a file, or a link that leads nowhere, is in its place or in the way.
    """
    there = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is a file, and must be a folder")
    return there


def check_writable(folder: Path) -> None:
    """UserError if no file can be made in the folder; nothing stays in it."""
    with os_errors_as(f"cannot write in {folder}"), tempfile.TemporaryFile(dir=folder):
        pass


def is_outdated(made: Path, checkpoint: Path) -> bool:
    """Whether the file is missing or older than the checkpoint that it is made from; never without a checkpoint."""
    return checkpoint.exists() and not (made.exists() and made.stat().st_mtime >= checkpoint.stat().st_mtime)


def read_file(path: Path) -> bytes:
    """The whole content of a file. UserError if it cannot be read, is a pipe or a device, or is larger than LARGEST."""
    with os_errors_as(f"cannot read {path}"):
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe may never send anything, and a device may never end
            raise UserError(f"cannot read {path}: it is no regular file")
        if status.st_size > LARGEST:
            raise UserError(f"cannot read {path}: it has {status.st_size:,} bytes, and nothing of this project has")
        return path.read_bytes()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written to a file beside it, flushed to disk, renamed over it.

    Whoever reads `path` finds the old content or the new one, whole, whatever happens in between. Raises UserError if
    it cannot be written (a full disk, no permission); the old file is then untouched and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # two processes may write the same file
    with os_errors_as(f"cannot write {path}"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                flush_to_disk(file.fileno())
            patiently(temporary.replace, path)
        finally:
            temporary.unlink(missing_ok=True)
        if os.name == "posix":  # makes the renaming durable; Windows has no such call and needs none
            folder = os.open(path.parent, os.O_RDONLY)
            with _optional():
                os.fsync(folder)
            os.close(folder)


def leftovers(path: Path) -> Iterable[Path]:
    """What kills within write_atomically left beside `path`, whose name may be a pattern."""
    return path.parent.glob(f".{path.name}.{'[0-9a-f]' * 8}.tmp")


def flush_to_disk(descriptor: int) -> None:
    """All that was written to the file survives a loss of power from now on, where the file system can promise that."""
    with _optional():
        os.fsync(descriptor)
        if sys.platform == "darwin":  # where fsync stops at the drive's own cache
            import fcntl

            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)


@contextlib.contextmanager
def lock_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder`/.lock against all other processes, and against a second lock in this one.

    The operating system holds it for this process and frees it when the process ends, however it ends; the file stays.
    Raises FolderLocked if it is held elsewhere (or waits, with `wait`), UserError if there can be no file in the
    folder. On a file system without locks this is said once, and the folder counts as locked.
    """
    # A soft lock, which is the mere existence of a file, would outlive a process that is killed.
    # It is tried for a moment: another process's is_locked may hold it for an instant.
    lock = FileLock(folder / ".lock", timeout=-1 if wait else 0.2, fallback_to_soft=False)
    with os_errors_as(f"cannot write in {folder}"), _optional(_warn_of_no_locks):
        try:
            lock.acquire()
        except Timeout:
            busy = f"another process is training in {folder}; wait for it, or choose another --name"
            raise FolderLocked(busy) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a network's disk that is gone; the lock goes with this process
            lock.release()


@functools.cache  # so that it is printed once
def _warn_of_no_locks() -> None:
    print("note: this file system has no locks; do not start two processes for one folder", file=sys.stderr)


def is_locked(folder: Path) -> bool:
    """Whether a process holds the folder; False also for one that cannot be written in."""
    if not (folder / ".lock").exists():
        return False
    try:
        with lock_folder(folder):
            return False
    except UserError as error:
        return isinstance(error, FolderLocked)
