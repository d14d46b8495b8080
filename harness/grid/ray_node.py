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
from pathlib import Path

from harness.grid.local import Ended, ScriptProcess, file_state

POLL = 0.1  # seconds between two looks at the script and its folder
_TIME_TO_STOP = 20  # seconds for a script to write what it has
_SHIPPED = Path(__file__).resolve().parents[2]  # the project as it came to this node

Files = dict[str, bytes]  # by their paths in a folder, written with /


def train_on_node(
    script: list[str], files: Files, *, threads: int, folder: str, project: str, runs_dir: str, token: str
) -> Iterator[Files | Ended]:
    """Run a script to its end, in the run folder `folder` of `runs_dir`; `files` are those of that folder at home.

    `script` is its file's name and its flags; `project`, the scripts' folder, and `runs_dir` are as they are at home,
    where `token` is the name of a file in `runs_dir`: a node that sees it shares that storage.

    Yields first an empty dict: the task has begun. Then, unless this node sees the run folder at home, the files that
    changed, after each epoch and at the end. Last how the script ended. If the task is cancelled the script is stopped.
    """
    yield {}
    with tempfile.TemporaryDirectory(prefix="ray-run-") as scratch:
        shared = os.path.exists(f"{runs_dir}/{token}")  # noqa: PTH110 - False where one may not look
        here = Path(runs_dir if shared else scratch, folder)
        words = [sys.executable, str(_scripts(Path(project)) / script[0]), *script[1:]]
        sent: dict[str, tuple] = {}
        if not shared:
            words.append(f"--runs-dir={scratch}")  # of two the last counts
            for name, content in files.items():
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                (here / name).write_bytes(content)
            changed_files(here, sent)
        process = ScriptProcess(words, threads, here)
        watched = () if shared else ("last.pt", "metrics.csv")  # the checkpoint, and what the progress is read from
        try:
            while process.poll() is None:
                time.sleep(POLL)
                if any(file_state(here / name) != sent.get(name) for name in watched):
                    yield changed_files(here, sent)
        finally:
            process.stop()
            process.wait(_TIME_TO_STOP)
        if not shared:
            yield changed_files(here, sent)
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
    for path in sorted(folder.rglob("[!.]*"), key=lambda path: path != folder / "last.pt"):
        name, state = path.relative_to(folder).as_posix(), file_state(path)
        # The state is older than what is read: a file that is replaced in between is sent once more.
        if path.is_file() and not path.is_symlink() and known.get(name) != state:
            files[name], known[name] = path.read_bytes(), state
    return files
