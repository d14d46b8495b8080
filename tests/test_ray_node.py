"""What a Ray task does on its node, called here without Ray: which files go home, and which code runs.

tests/test_ray.py does the same on a real cluster.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.grid import ray_node
from harness.grid.local import Ended
from harness.grid.ray_node import changed_files, train_on_node

# A script of two epochs with a checkpoint each; the second one waits until the test has seen the first.
SCRIPT = """
import sys, time
from pathlib import Path
from package.part import NAME
words = dict(word[2:].split("=", 1) for word in sys.argv[1:])
folder = Path(words["runs-dir"], "experiment", NAME)
folder.mkdir(parents=True, exist_ok=True)
(folder / ".lock").touch()
before = folder / "last.pt"
first = int(before.read_text()) + 1 if before.exists() else 1
for epoch in range(first, 3):
    for name, text in (("metrics.csv", "x" * epoch), ("last.pt", str(epoch))):  # read meanwhile: never half a file
        (folder / f".{name}").write_text(text)
        (folder / f".{name}").replace(folder / name)
    while epoch == 1 and not Path(words["data-dir"], "go").exists():
        time.sleep(0.01)
sys.exit("error: the end")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "script.py").write_text(SCRIPT)
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "part.py").write_text('NAME = "run"\n')
    monkeypatch.setattr(ray_node, "_SHIPPED", tmp_path / "shipped")
    shutil.copytree(folder, tmp_path / "shipped")
    (folder / "runs").mkdir()
    (folder / "runs" / "not_code.py").write_text("1 +")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "POLL", 0.01)


def run_on_node(project: Path, files: dict[str, bytes]) -> Iterator:
    """What the task sends, with this project as it is at home."""
    runs_dir = project / "runs"
    script = ["script.py", f"--runs-dir={runs_dir}", f"--data-dir={project}"]
    home = {"project": str(project), "runs_dir": str(runs_dir), "token": "token"}
    return train_on_node(script, files, threads=1, folder="experiment/run", **home)


def merged(messages: list) -> dict[str, bytes]:
    return {name: content for files in messages for name, content in files.items()}


def test_run_on_shared_storage_stays_where_it_is(project: Path) -> None:
    (project / "runs" / "token").touch()
    (project / "go").touch()
    assert list(run_on_node(project, {})) == [{}, Ended(1, "the end")]
    assert (project / "runs" / "experiment" / "run" / "last.pt").read_text() == "2"


def test_run_without_shared_storage_goes_home_with_each_checkpoint(project: Path) -> None:
    messages = run_on_node(project, {})
    assert next(messages) == {}
    home: dict[str, bytes] = {}
    while len(home) < 2:  # while the script waits in its second epoch
        home |= next(messages)
    assert home == {"last.pt": b"1", "metrics.csv": b"x"}  # no lock
    (project / "go").touch()
    *others, end = messages
    assert merged(others) == {"last.pt": b"2", "metrics.csv": b"xx"}
    assert end == Ended(1, "the end")
    assert not (project / "runs" / "experiment").exists()


def test_run_without_shared_storage_continues_from_the_files_of_home(project: Path) -> None:
    files = {"last.pt": b"1", "metrics.csv": b"x", "snapshots/epoch1.pt": b"s"}
    messages = list(run_on_node(project, files))
    assert merged(messages[1:-1]) == {"last.pt": b"2", "metrics.csv": b"xx"}  # what has not changed stays


def test_node_with_other_code_at_that_place_runs_the_code_that_was_shipped(project: Path) -> None:
    (project / "package" / "part.py").write_text('NAME = "another"\n')
    (project / "runs" / "token").touch()
    (project / "go").touch()
    assert list(run_on_node(project, {}))[-1] == Ended(1, "the end")
    assert [path.name for path in (project / "runs" / "experiment").iterdir()] == ["run"]


def test_node_with_the_same_code_at_that_place_runs_it_there(project: Path) -> None:
    (project / "extra.py").touch()  # what home has beyond the code changes nothing
    assert ray_node._scripts(project) == project
    (project / "package" / "part.py").unlink()
    assert ray_node._scripts(project) != project


def test_cancelled_task_stops_its_script_in_order(project: Path) -> None:
    (project / "runs" / "token").touch()
    (ray_node._SHIPPED / "script.py").write_text(
        "import sys; from pathlib import Path; here = Path(sys.argv[2][11:]); (here / 'begun').touch()\n"
        "sys.stdin.read(); (here / 'stopped').touch()\n"
    )
    messages = run_on_node(project, {})
    next(messages)

    sleep, cancelled = time.sleep, []

    def cancel(seconds: float) -> None:  # what Ray's cancellation does to a task, once
        if not cancelled and (project / "begun").exists():
            cancelled.append(True)
            raise KeyboardInterrupt
        sleep(seconds)  # as does Python's own waiting for the script's end

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_node.time, "sleep", cancel)
        with pytest.raises(KeyboardInterrupt):
            next(messages)
    assert (project / "stopped").exists()


def test_files_go_home_once_and_the_checkpoint_is_read_first(tmp_path: Path) -> None:
    for name in ("a.csv", "last.pt", "snapshots/z.pt", "snapshots/.z.pt.tmp", ".lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("/etc/hostname")
    known: dict[str, tuple] = {}
    assert list(changed_files(tmp_path, known)) == ["last.pt", "a.csv", "snapshots/z.pt"]
    assert changed_files(tmp_path, known) == {}
    (tmp_path / "a.csv").write_text("more")
    assert changed_files(tmp_path, known) == {"a.csv": b"more"}
