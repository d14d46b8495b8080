"""Grids on a real Ray cluster: several nodes on this machine, nodes killed in the middle, storage shared or not.

The scripts that must end with the same metrics are the real ones, on sets made small; a stand-in does the rest. What a
task does on its node is tested without Ray in tests/test_ray_node.py.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PROJECT
from killed_runs import assert_same_run
from test_report_run import SMALL_REPORT, small_script, status_of

from harness.cli import command_line, program
from harness.errors import Interrupted, UserError
from harness.files import is_locked, lock_folder
from harness.grid.local import Job, Settings
from harness.grid.rows import Row
from harness.grid.runs import find_runs
from harness.grid.schedule import plan_jobs, train_jobs

pytest.importorskip("ray", reason="Ray is not installed; make test-ray installs it and runs these tests")
import ray
from ray.cluster_utils import Cluster as Nodes

from harness.grid import ray_cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),  # Ray waits for ever for what does not come
    pytest.mark.skipif(os.name == "nt", reason="kills processes"),
]

EPOCHS = 4  # a script trains two and then waits for its end; the next one, which continues, the other two
ROW = Row("tiny", "rnn_mnist", {"cell": "rnn", "hidden_size": 8, "batch_size": 20, "epochs": EPOCHS}, "tiny")
GRID = """[[row]]
name = "tiny"
script = "rnn_mnist"
flags = { cell = "rnn", hidden_size = 8, batch_size = 20, epochs = 4 }
"""

# Does, by its seed, what a script can do; writes what it was given where the test finds it.
STAND_IN = """
import json, os, signal, sys
from pathlib import Path
words = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
seed = int(words["seed"])
folder = Path(words["runs-dir"], "rnn_synthetic", words["name"])
folder.mkdir(parents=True, exist_ok=True)
given = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
(folder / f"started-{os.getpid()}").write_text(json.dumps(given | {"argv": sys.argv}))
if seed == 1:
    sys.exit("error: the disk is full")
if seed == 2:
    print("diverged: the loss of epoch 1 is not finite; the run stops here", file=sys.stderr)
    sys.exit(3)
if seed == 3 and len(list(folder.glob("started-*"))) == 1:
    sys.exit(2)  # finds its folder locked
if seed == 4:
    os.kill(os.getppid(), signal.SIGKILL)  # Ray's worker, as when the node is out of memory
    sys.stdin.read()
rows = [f"{n},0.5,0.25,{0.5 / n},0.75,1.5" for n in (1, 2)]
(folder / "metrics.csv").write_text(
    "\\n".join(["epoch,train/loss,train/accuracy,test/loss,test/accuracy,seconds", *rows, ""])
)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster whose head has no CPUs, so that no run is on the node that the driver belongs to, and one other."""
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.grid.schedule.POLL", 0.02)


@pytest.fixture
def settings(in_project: Path) -> Settings:
    """What a node is to find of the project lies in scripts/, with a training script on few images."""
    scripts = in_project / "scripts"
    shutil.copytree(PROJECT / "harness", scripts / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "rnn_mnist.py").write_text(small_script("rnn_mnist", held=True))
    return Settings(scripts, Path("runs"), Path("data"), device="cpu")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny run, trained by its script alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "rnn_mnist.py").write_text(small_script("rnn_mnist"))
    words = [f"--{name.replace('_', '-')}={value}" for name, value in ROW.flags.items()]
    command = [sys.executable, "rnn_mnist.py", *words, "--data=synthetic", "--threads=1", "--name=run", "--device=cpu"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "runs" / "rnn_synthetic" / "run"


def plan(settings: Settings, *seeds: int) -> list[Job]:
    options = {"seeds": seeds or (0,), "precision": "fp32", "data": "synthetic"}
    return plan_jobs(find_runs([ROW], settings.runs_dir, **options), settings)


def plan_stand_ins(settings: Settings, *seeds: int) -> list[Job]:
    (settings.scripts / "rnn_mnist.py").write_text(STAND_IN)
    jobs = plan(settings, *seeds)
    for job in jobs:
        job.name = f"run-{job.seed}"
        job.folder = job.folder.with_name(job.name)
    return jobs


@contextlib.contextmanager
def connected(
    settings: Settings, nodes: Nodes, *, shared: bool = True, cpus: int = 1, gpus: float | None = None
) -> Iterator[ray_cluster.Cluster]:
    """The engine. Without `shared` the nodes do not find the run folders and the scripts of this machine."""
    with ray_cluster.connect(settings, nodes.address, cpus, gpus) as cluster:
        if not shared:
            (settings.runs_dir / cluster.token).unlink()
            cluster.settings = replace(cluster.settings, scripts=Path("/nowhere"))
        yield cluster


def records(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in folder.glob("started-*")]


@contextlib.contextmanager
def once(condition: Callable[[], object], then: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as a condition holds, while the block runs."""
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.01):
            if condition():
                then()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        end.set()
        watcher.join()


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "not shared"])
def test_run_whose_node_is_killed_continues_on_another_and_ends_the_same(
    shared: bool, nodes: Nodes, settings: Settings, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = plan(settings)

    def start(job: Job) -> ray_cluster.Task:
        if job.losses:
            nodes.add_node(num_cpus=1)
        return ray_cluster.Cluster.start(cluster, job)

    def kill_the_node() -> None:
        nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)

    with connected(settings, nodes, shared=shared) as cluster, once(lambda: len(job.history) > 1, kill_the_node):
        cluster.start = start
        assert train_jobs([job], cluster) == {}
    assert job.losses == [2]
    assert "tiny, seed 0: its node was lost (NodeDiedError) after epoch 2" in capsys.readouterr().out
    assert_same_run(job.folder, undisturbed)
    assert status_of(job.folder) == "complete"
    config = json.loads((job.folder / "config.json").read_text())
    assert (config["flags"]["runs_dir"] == str(settings.runs_dir.resolve())) == shared
    assert not list(settings.runs_dir.glob(".ray-*"))


def test_interrupted_run_without_shared_storage_is_home_and_continues(
    nodes: Nodes, settings: Settings, undisturbed: Path
) -> None:
    (job,) = plan(settings)

    def interrupt(*_: object) -> None:
        raise Interrupted(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with (
            pytest.raises(Interrupted),
            connected(settings, nodes, shared=False) as cluster,
            once(lambda: len(job.history) > 1, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        ):
            train_jobs([job], cluster)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(job.history) == 2
    (again,) = plan(settings)
    assert (again.folder, again.resumes) == (job.folder, True)
    assert not is_locked(job.folder)
    with connected(settings, nodes, shared=False) as cluster:
        assert train_jobs([again], cluster) == {}
    assert_same_run(job.folder, undisturbed)


def test_interrupted_report_leaves_resumable_folders_and_no_script(nodes: Nodes, settings: Settings) -> None:
    Path("grid.toml").write_text(GRID)
    flags = ["--grid=grid.toml", "--data=synthetic", "--precision=fp32", "--seeds=3", "--device=cpu"]
    command = [sys.executable, "-c", SMALL_REPORT, *flags, "--engine=ray", f"--address={nodes.address}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "epoch 2/4 " in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.strip().startswith(f"interrupted; nothing is lost, continue with: {command_line([program('python')])} ")
    assert err.strip().endswith(f"--engine=ray --address={nodes.address}")
    (file,) = Path("runs").glob("*/*/last.pt")  # there is room for one run at once
    assert status_of(file.parent) == "interrupted"
    assert not is_locked(file.parent)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "not shared"])
def test_runs_get_what_was_asked_for_and_failures_are_told(
    shared: bool, nodes: Nodes, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = plan_stand_ins(settings, 0, 1, 2)
    node = nodes.add_node(num_cpus=4, num_gpus=1)
    try:
        with connected(settings, nodes, shared=shared, cpus=2) as cluster:
            assert (cluster.gpus, cluster.room) == (0.0, 2)  # --device cpu
        with connected(replace(settings, device="auto"), nodes, shared=shared, cpus=2) as cluster:
            assert (cluster.gpus, cluster.room) == (0.25, 2)
            failures = train_jobs(jobs, cluster)
    finally:
        nodes.remove_node(node)
    assert failures == {("tiny", 1): "the disk is full"}
    out = capsys.readouterr().out
    assert "Ray nodes: 3; runs at once: 2, each with 2 CPU, 0.25 GPU\n" in out
    assert "tiny, seed 0: done: 2 epochs in 00:03, test loss 0.2500, accuracy 0.7500\n" in out
    assert "tiny, seed 2: diverged in epoch 0\n" in out
    assert [len(records(job.folder)) for job in jobs] == [1, 1, 1]
    for record in records(jobs[0].folder):
        assert (record["OMP_NUM_THREADS"], record["CUDA_VISIBLE_DEVICES"]) == ("2", "0")
        assert {"--threads=2", "--seed=0", f"--data-dir={Path('data').resolve()}"} <= set(record["argv"])
        assert (record["argv"][0] == str(settings.scripts / "rnn_mnist.py")) == shared


def test_run_whose_folder_another_process_takes_is_tried_again(nodes: Nodes, settings: Settings) -> None:
    (job,) = plan_stand_ins(settings, 3)
    lock = contextlib.ExitStack()

    def start(job: Job) -> ray_cluster.Task:
        if not records(job.folder):
            job.folder.mkdir(parents=True)
            lock.enter_context(lock_folder(job.folder))
        return ray_cluster.Cluster.start(cluster, job)

    with connected(settings, nodes) as cluster, once(lambda: records(job.folder) and not job.process, lock.close):
        cluster.start = start
        assert train_jobs([job], cluster) == {}
    assert len(records(job.folder)) == 2


def test_run_that_brings_down_every_worker_is_given_up(nodes: Nodes, settings: Settings) -> None:
    (job,) = plan_stand_ins(settings, 4)
    with connected(settings, nodes) as cluster:
        assert train_jobs([job], cluster) == {("tiny", 4): "its node was lost (WorkerCrashedError)"}
    assert len(records(job.folder)) == 3


def test_folder_in_use_at_home_is_not_written(nodes: Nodes, settings: Settings) -> None:
    (job,) = plan_stand_ins(settings, 0)
    job.folder.mkdir(parents=True)
    with connected(settings, nodes, shared=False) as cluster, lock_folder(job.folder):
        task = cluster.start(job)
        task.wait(600)
        assert task.ended.folder_taken and str(job.folder) in task.ended.failure
    assert [path.name for path in job.folder.iterdir()] == [".lock"]


def test_run_that_got_further_at_home_meanwhile_is_not_overwritten(nodes: Nodes, settings: Settings) -> None:
    (job,) = plan_stand_ins(settings, 0)
    with connected(settings, nodes, shared=False) as cluster:
        task = cluster.start(job)
        job.folder.mkdir(parents=True)
        (job.folder / "config.json").write_text("another's")
        task.wait(600)
        assert task.ended.folder_taken  # after which it is tried again
    assert {path.name for path in job.folder.iterdir()} == {".lock", "config.json"}


def test_jobs_limits_what_is_submitted(nodes: Nodes, settings: Settings) -> None:
    with connected(replace(settings, jobs=7), nodes) as cluster:
        assert (cluster.slots, cluster.room) == (7, 1)
        cluster.jobs = None
        assert cluster.slots == 1


@pytest.mark.parametrize(
    "cpus, gpus, sentence",
    [
        (64, None, "no node has the 64 CPU that a run is to get: the largest has 1 CPU, all together 0 GPU"),
        (1, 0.5, "no node has the 1 CPU, 0.5 GPU that a run is to get"),
    ],
)
def test_what_no_node_has_is_refused(cpus, gpus, sentence, nodes: Nodes, settings: Settings) -> None:
    with pytest.raises(UserError, match=sentence), connected(settings, nodes, cpus=cpus, gpus=gpus):
        pass
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "address, sentence",
    [
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9 (Connection refused); `ray start --head` starts one"),
        ("ray://head:10001", "--address ray://head:10001 is not HOST:PORT, auto or local; instead of ray://…, run"),
        ("head", "--address head is not HOST:PORT"),
        ("head:70000x", "--address head:70000x is not HOST:PORT"),
    ],
)
def test_wrong_address_is_one_sentence_at_once(
    address, sentence, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray itself tries for minutes"))
    with pytest.raises(UserError) as error, ray_cluster.connect(settings, address, 1, None):
        pass
    assert sentence in str(error.value)


def test_ray_is_started_here_without_an_address(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_cluster, "cores", lambda: 3)
    jobs = plan_stand_ins(settings, 0, 5)
    with ray_cluster.connect(settings, None, 1, None) as cluster:
        assert train_jobs(jobs, cluster) == {}
    out, err = capfd.readouterr()
    assert out.startswith("Ray nodes: 1; runs at once: 3, each with 1 CPU\ntiny, seed ")
    assert err == ""
    assert not ray.is_initialized()
