"""What a Ray task does on its node, called here without Ray: which files go home, and which code runs.

tests/test_ray.py does the same on a real cluster.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from harness.grid import ray_node
from harness.grid.ray_node import Assignment, changed_files, checked, read_code, train_on_node

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
    (folder / "metrics.csv").write_text("x" * epoch)
    before.write_text(str(epoch))
    while epoch == 1 and not Path(words["data-dir"], "go").exists():
        time.sleep(0.01)
sys.exit("error: the end")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "script.py").write_text(SCRIPT)
    (folder / "package" / "__init__.py").touch()
    (folder / "package" / "part.py").write_text('NAME = "run"\n')
    (folder / "runs").mkdir()
    (folder / "runs" / "not_code.py").write_text("1 +")
    return folder


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "_fetch", lambda reference: reference)
    monkeypatch.setattr(ray_node, "POLL", 0.01)


def assignment(project: Path, **changes: object) -> Assignment:
    runs_dir = project / "runs"
    fields = {
        "script": "script",
        "flags": [f"--runs-dir={runs_dir}", f"--data-dir={project}"],
        "threads": 1,
        "project": str(project),
        "code": read_code(project),
        "runs_dir": str(runs_dir),
        "token": "token",
        "folder": "experiment/run",
        "files": None,
    }
    return Assignment(**fields | changes)


def test_code_is_the_scripts_and_the_packages(project: Path) -> None:
    (project / "package" / ".#part.py").symlink_to("someone@somewhere")  # an editor's lock
    (project / ".hidden.py").touch()
    (project / "package" / ".ipynb_checkpoints").mkdir()
    (project / "package" / ".ipynb_checkpoints" / "part.py").touch()
    assert read_code(project).keys() == {"script.py", "package/__init__.py", "package/part.py"}


def test_run_on_shared_storage_stays_where_it_is(project: Path) -> None:
    (project / "runs" / "token").touch()
    (project / "go").touch()
    assert list(train_on_node(assignment(project))) == [{}, (1, "the end")]
    assert (project / "runs" / "experiment" / "run" / "last.pt").read_text() == "2"


def test_run_without_shared_storage_goes_home_with_each_checkpoint(project: Path) -> None:
    messages = train_on_node(assignment(project))
    assert next(messages) == {}
    assert next(messages) == {"last.pt": b"1", "metrics.csv": b"x"}  # no lock
    (project / "go").touch()
    *others, end = messages
    merged = {name: content for message in others for name, content in message.items()}
    assert merged == {"last.pt": b"2", "metrics.csv": b"xx"}
    assert end == (1, "the end")
    assert not (project / "runs" / "experiment").exists()


def test_run_without_shared_storage_continues_from_the_files_of_home(project: Path) -> None:
    files = {"last.pt": b"1", "metrics.csv": b"x", "snapshots/epoch1.pt": b"s"}
    messages = list(train_on_node(assignment(project, files=files)))
    merged = {name: content for message in messages[1:-1] for name, content in message.items()}
    assert merged == {"last.pt": b"2", "metrics.csv": b"xx"}  # what has not changed stays


def test_node_with_other_code_at_that_place_runs_the_code_of_home(project: Path) -> None:
    code = read_code(project)
    (project / "package" / "part.py").write_text('NAME = "another"\n')
    (project / "runs" / "token").touch()
    (project / "go").touch()
    assert list(train_on_node(assignment(project, code=code)))[-1] == (1, "the end")
    assert [path.name for path in (project / "runs" / "experiment").iterdir()] == ["run"]


@pytest.mark.skipif(os.name == "nt", reason="a folder that a process stands in cannot be removed there")
def test_run_does_not_need_the_folder_that_the_node_was_started_in(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "script.py").write_text("import os; os.getcwd()")
    gone = project / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert list(train_on_node(assignment(project)))[-1] == (0, "")


def test_cancelled_task_stops_its_script_in_order(project: Path) -> None:
    (project / "runs" / "token").touch()
    (project / "script.py").write_text(
        "import sys; from pathlib import Path; here = Path(sys.argv[2][11:]); (here / 'begun').touch()\n"
        "sys.stdin.read(); (here / 'stopped').touch()\n"
    )
    messages = train_on_node(assignment(project))
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


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a//x", "", ".lock", "C:x", "a\\..\\x", "a\0"])
def test_file_outside_the_run_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no path in a run folder"):
        checked(name)


def test_nodes_need_nothing_of_the_project_but_what_is_sent() -> None:
    for name in ("harness.grid.ray_node", "harness.grid.local"):
        values = vars(sys.modules[name]).values()
        names = {getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in values}
        assert {each for each in names if str(each).startswith("harness")} <= {
            "harness.grid.ray_node",
            "harness.grid.local",
        }
