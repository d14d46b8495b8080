"""What a Ray task does on its node: it runs one training script there and, where no storage is shared, sends the run
folder home with every checkpoint. The other end is ray_cluster.py.

Ray ships the scripts and packages of the project to every node, this file among them.
"""

import filecmp
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.grid.local import Ended, ScriptProcess, file_state

POLL = 0.1  # seconds between two looks at the script and its folder
_TIME_TO_STOP = 20  # seconds for a script to write what it has
_SHIPPED = Path(__file__).resolve().parents[2]  # the project as it came to this node

Files = dict[str, bytes]  # by their paths in a folder, written with /


@dataclass(frozen=True)
class Assignment:
    """One run of one script."""

    script: str
    flags: list[str]  # of the script, with folders as they are at home
    threads: int
    project: str  # the folder of the scripts at home
    runs_dir: str  # at home,
    token: str  # … the name of a file in it by which a node recognizes it
    folder: str  # the run's, in runs_dir


def train_on_node(run: Assignment, files: Files) -> Iterator[Files | Ended]:
    """Run the script to its end; `files` are those of the run folder at home.

    Yields first an empty dict: the task has begun. Then, unless this node sees the run folder at home, the files that
    changed, after each epoch and at the end. Last how the script ended. If the task is cancelled the script is stopped.
    """
    yield {}
    with tempfile.TemporaryDirectory(prefix="ray-run-") as scratch:
        shared = os.path.exists(os.path.join(run.runs_dir, run.token))  # noqa: PTH110, PTH118 - False where one may not look
        folder = Path(run.runs_dir if shared else scratch, run.folder)
        words = [sys.executable, str(_scripts(Path(run.project)) / f"{run.script}.py"), *run.flags]
        sent: dict[str, tuple] = {}
        if not shared:
            words.append(f"--runs-dir={scratch}")  # of two the last counts
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            changed_files(folder, sent)
        process = ScriptProcess(words, run.threads, folder)
        try:
            while process.poll() is None:
                time.sleep(POLL)
                # The checkpoint, and what the progress is read from.
                watched = () if shared else ("last.pt", "metrics.csv")
                if any(file_state(folder / name) != sent.get(name) for name in watched):
                    yield changed_files(folder, sent)
        finally:
            process.stop()
            process.wait(_TIME_TO_STOP)
        if not shared:
            yield changed_files(folder, sent)
        yield process.poll()


def _scripts(project: Path) -> Path:
    """The project's own folder if this node sees the same code there, so that its commit is recorded, else the copy."""
    names = [str(file.relative_to(_SHIPPED)) for file in _SHIPPED.rglob("*.py")]
    same, _, _ = filecmp.cmpfiles(project, _SHIPPED, names, shallow=False)
    return project if len(same) == len(names) else _SHIPPED


def changed_files(folder: Path, known: dict[str, tuple]) -> Files:
    """What changed in a run folder since its files were as `known` has it, which is brought up to date.

    A script may be writing meanwhile. last.pt is read first, so what the other files lack is of its epoch at most, and
    a run that is resumed from them writes that anew; what they have beyond it is written again with the same values.
    """
    files = {}
    for path in sorted(folder.rglob("*"), key=lambda path: path != folder / "last.pt"):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith(".") or path.is_symlink() or not path.is_file():
            continue
        state = file_state(path)  # before the file is read: what is replaced in between is sent once more
        if known.get(name) != state:
            files[name], known[name] = path.read_bytes(), state
    return files
