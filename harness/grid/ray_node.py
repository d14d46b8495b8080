"""What a Ray task does on its node: it runs one training script there and, where no storage is shared, sends the run
folder home with every checkpoint.

Ray takes this file and harness/process.py to nodes that may not have the project, so beside the standard library both
use only each other and constants of the project. The other end is harness/ray_engine.py.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.grid.local import ScriptProcess

POLL = 0.1  # seconds between two looks at the script and its folder
_TIME_TO_STOP = 20  # seconds for a script to write what it has

Files = dict[str, bytes]  # by their paths in a folder, written with /


@dataclass(frozen=True)
class Assignment:
    """One run of one script. `code` and `files` are references that Ray resolves on demand, `files` perhaps None."""

    script: str
    flags: list[str]  # of the script, with folders as they are at home
    threads: int
    project: str  # the folder of the scripts at home,
    code: Any  # … and its Files
    runs_dir: str  # at home,
    token: str  # … the name of a file in it by which a node recognises it
    folder: str  # the run's, in runs_dir
    files: Any  # what the run folder holds at home


def train_on_node(run: Assignment) -> Iterator[Files | tuple[int, str]]:
    """Run the script to its end.

    Yields first an empty dict: the task has begun. Then, unless this node sees the run folder at home, the files that
    changed, after each checkpoint and at the end. Last the script's exit code and why it failed, as
    ScriptProcess.failure says it. If the task is cancelled the script is stopped first.
    """
    yield {}
    with tempfile.TemporaryDirectory(prefix="ray-run-") as scratch:
        words = [sys.executable, str(_scripts(run, Path(scratch)) / f"{run.script}.py"), *run.flags]
        folder, sent = None, {}
        if not _sees(Path(run.runs_dir, run.token)):
            words.append(f"--runs-dir={scratch}/runs")  # of two the last counts
            folder = Path(scratch, "runs", run.folder)
            if run.files:
                write_files(folder, _fetch(run.files))
                changed_files(folder, sent)
        process = ScriptProcess(words, run.threads, Path(scratch))  # the folder that Ray was started in may be gone
        try:
            while process.poll() is None:
                time.sleep(POLL)
                if folder and file_state(folder / "last.pt") != sent.get("last.pt"):
                    yield changed_files(folder, sent)
        finally:
            process.stop()
            process.wait(_TIME_TO_STOP)
        if folder:
            yield changed_files(folder, sent)
        yield process.returncode, process.failure()


def _scripts(run: Assignment, scratch: Path) -> Path:
    """The folder of the scripts: the one at home if this node sees the same there, else a copy in `scratch`."""
    code = _fetch(run.code)
    with contextlib.suppress(OSError):
        if read_code(Path(run.project)) == code:
            return Path(run.project)
    write_files(scratch / "code", code)
    return scratch / "code"


def _sees(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a folder above it that this node's user may not enter
        return False


def _fetch(reference: Any) -> Files:
    import ray

    return ray.get(reference)


def read_code(project: Path) -> Files:
    """The Python files of the project that its scripts may import: the scripts themselves and all packages.

    Without hidden ones: editors and file systems leave copies, locks and the like beside them.
    """
    packages = [file.parent for file in sorted(project.glob("*/__init__.py"))]
    files = [*project.glob("*.py"), *(file for package in packages for file in package.rglob("*.py"))]
    named = {file.relative_to(project).as_posix(): file for file in files}
    return {name: file.read_bytes() for name, file in named.items() if "/." not in f"/{name}"}


def changed_files(folder: Path, known: dict[str, tuple]) -> Files:
    """What changed in a run folder since its files were as `known` has it, which is brought up to date.

    A script may be writing meanwhile. last.pt is read first, so the other files are never older than it: as after a
    kill, and what they have beyond it is cut back when the run is resumed.
    """
    files = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path != folder / "last.pt"):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or path.is_symlink() or not path.is_file():
            continue
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            state = _signature(os.fstat(file.fileno()))
            if known.get(name) != state:
                files[name] = file.read()
                known[name] = state
    return files


def file_state(path: Path) -> tuple | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        return _signature(path.stat())
    except FileNotFoundError:
        return None


def _signature(stat: os.stat_result) -> tuple:
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def write_files(folder: Path, files: Files) -> None:
    """Write files that came from another machine. ValueError if a name leads out of the folder."""
    for name, content in files.items():
        path = folder / checked(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def checked(name: str) -> str:
    """The name, if it is a path within a folder on every system. ValueError if not."""
    if any(not part or part[0] == "." or set(part) & set("\\:\0") for part in name.split("/")):
        raise ValueError(f"a node sent a file named {name!r}, which is no path in a run folder")
    return name
