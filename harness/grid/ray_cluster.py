"""The engine of `report.py --engine ray`: trains on a Ray cluster what local.py would train on this machine.

`connect` starts Ray here or finds a cluster. A run is one Ray task, which runs the same script as ever on some node
(ray_node.py); the script knows nothing of Ray. Where the node sees --runs-dir the script writes its folder there; where
it does not, the task sends the files that changed with every checkpoint, and they are written here. So the run folder
here always holds the last checkpoint, and a run whose node was lost is continued from it by a new task.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: it reports to its makers else

import ray
from ray.exceptions import RayError, RayTaskError

from harness.device import cores
from harness.errors import EXIT_BAD_INPUT, FolderLocked, Interrupted, UserError
from harness.files import lock_folder, make_folder, write_atomically
from harness.grid import ray_node
from harness.grid.local import Ended, Job, Settings, command, file_state

GPU_SHARE = 0.25  # of a GPU for each run, where there are GPUs: these networks are small
_TIME_TO_ANSWER = 5  # seconds for a cluster's port
_UNREAD = 2  # messages that a task may be ahead of us; each may hold a whole run folder


class Cluster:
    """The nodes of a Ray cluster as the engine of schedule.train_jobs; `connect` makes it.

    Each run gets `cpus` CPUs, on which it has as many threads, and the share `gpus` of a GPU.
    """

    def __init__(self, settings: Settings, cpus: int, gpus: float | None) -> None:
        if gpus is None:
            has_gpus = any(node.get("GPU") for node in _nodes())
            gpus = GPU_SHARE if has_gpus and settings.device in ("auto", "cuda") else 0.0
        self.cpus, self.gpus, self.jobs = cpus, gpus, settings.jobs
        self.needs = f"{cpus} CPU, {gpus:g} GPU" if gpus else f"{cpus} CPU"
        # What another folder or machine is to find must not depend on where this process stands.
        self.settings = replace(settings, runs_dir=settings.runs_dir.resolve(), data_dir=settings.data_dir.resolve())
        self.token = f".ray-{secrets.token_hex(8)}"  # a node that sees this file in --runs-dir sees the run folders
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        stream = {"num_returns": "streaming", "_generator_backpressure_num_objects": _UNREAD}
        self._task = ray.remote(**options, **stream)(ray_node.train_on_node)

    @property
    def room(self) -> int:
        """How many runs the nodes hold at once; a run's share lies on one GPU."""
        of_gpus = int(1 / self.gpus + 1e-9) if self.gpus else 0  # runs that one GPU holds
        counts = [(int(node.get("CPU", 0)) // self.cpus, int(node.get("GPU", 0)) * of_gpus) for node in _nodes()]
        return sum(min(count) if self.gpus else count[0] for count in counts)

    @property
    def slots(self) -> int:
        """How many runs to submit at once: --jobs, else what there is room for."""
        return self.jobs or max(1, self.room)  # with every node lost, Ray waits for new ones

    def start(self, job: Job) -> "Task":
        """Submit a run."""
        states: dict[str, tuple] = {}
        files = ray_node.changed_files(job.folder, states)
        messages = self._task.remote(
            [f"{job.row.script}.py", *command(job, self.settings, self.cpus)[2:]],
            files,
            threads=self.cpus,
            folder="/".join(job.folder.parts[-2:]),
            project=str(self.settings.scripts.resolve()),
            runs_dir=str(self.settings.runs_dir),
            token=self.token,
        )
        return Task(messages, job.folder, states.get("config.json"))


class Task:
    """A script under way on some node.

    `began_from` is the state of the folder's config.json, which every epoch replaces, when the task was submitted.
    """

    def __init__(self, messages: "ray.ObjectRefGenerator", folder: Path, began_from: tuple | None) -> None:
        self.started, self.ended = False, None
        self._messages, self._folder, self._began_from = messages, folder, began_from
        self._lock: contextlib.ExitStack | None = None  # holds the folder's lock from the first file on
        self._whole = True  # no message was cut short

    def poll(self) -> Ended | None:
        """Take what the node has sent; how the script ended, once it has."""
        try:
            while self.ended is None and self._messages.next_ready():
                # Half a message may be lost to an interruption, and the files of a later one would not fit the rest.
                whole, self._whole = self._whole, False
                message = ray.get(next(self._messages))
                if isinstance(message, Ended):
                    self._end(message)
                elif self.started and whole:  # the first message is empty: the task has begun
                    self._keep(message)
                self.started, self._whole = True, whole
        except RayError as error:
            lost = not isinstance(error, RayTaskError)
            why = f"its node was lost ({type(error).__name__})" if lost else f"on its node: {error.cause}"
            self._end(Ended(1, why, node_lost=lost))
        except UserError as error:  # the folder here cannot be locked or written
            self.stop()
            self._end(Ended(EXIT_BAD_INPUT, str(error), folder_taken=isinstance(error, FolderLocked)))
        return self.ended

    def stop(self) -> None:
        """Ask the script to stop; the task ends when it has."""
        ray.cancel(self._messages, force=False)

    def wait(self, seconds: float) -> None:
        """Wait for the script's end, and enforce it after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.ended is None:
            ray.cancel(self._messages, force=True)
            self._end(Ended(143, "cancelled"))

    def _keep(self, files: ray_node.Files) -> None:
        """Write files of the run folder here, last.pt last: after a kill in between, the older one still fits."""
        make_folder(self._folder)
        if not self._lock:
            self._lock = contextlib.ExitStack()
            self._lock.enter_context(lock_folder(self._folder))
            if file_state(self._folder / "config.json") != self._began_from:  # to be begun again from there
                raise FolderLocked(f"another process has trained in {self._folder} meanwhile")
        for name in sorted(files, key=lambda name: name == "last.pt"):
            make_folder((self._folder / name).parent)
            write_atomically(self._folder / name, files[name])

    def _end(self, ended: Ended) -> None:
        self.ended = ended
        if self._lock:
            self._lock.close()


@contextlib.contextmanager
def connect(settings: Settings, address: str | None, cpus: int, gpus: float | None) -> Iterator[Cluster]:
    """The cluster at `address`: HOST:PORT, auto (the one that this machine belongs to), or local, a Ray of our own.

    Without an address that of RAY_ADDRESS counts, as everywhere in Ray, else local. UserError if it cannot be reached,
    or if no node has what a run needs.
    """
    _start_ray(address or os.environ.get("RAY_ADDRESS") or "local", settings.scripts)
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        cluster, nodes = Cluster(settings, cpus, gpus), _nodes()
        if not cluster.room:
            most = max(int(node.get("CPU", 0)) for node in nodes)
            raise UserError(
                f"no node has the {cluster.needs} that a run is to get: the largest has {most} CPU, all together "
                f"{sum(int(node.get('GPU', 0)) for node in nodes)} GPU; lower --cpus-per-run or --gpus-per-run"
            )
        make_folder(settings.runs_dir)
        token = settings.runs_dir / cluster.token
        stack.callback(token.unlink, missing_ok=True)
        write_atomically(token, b"")
        print(f"Ray nodes: {len(nodes)}; runs at once: {cluster.room}, each with {cluster.needs}", flush=True)
        yield cluster


def _start_ray(address: str, scripts: Path) -> None:
    """Start Ray here, or join a cluster, and ship the code. UserError if that fails."""
    host, _, port = address.rpartition(":")
    remote = address not in ("local", "auto")
    if remote and ("://" in address or not host or not port.isdigit() or int(port) > 65535):
        raise UserError(
            f"--address {address} is not HOST:PORT, auto or local; "
            "instead of ray://…, run report.py on a node of the cluster with --address auto"
        )
    packages = [file.parent.name for file in scripts.glob("*/__init__.py")]
    # As in a .gitignore: all but the scripts and the packages, and no hidden files, such as an editor's locks.
    excludes = ["/*", "!.", "!/*.py", *(f"!/{package}" for package in packages), ".[!.]*", "__pycache__"]
    code = {"working_dir": str(scripts), "excludes": excludes}
    options = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # Ray prints what it notices of nodes on our standard output, through the table, and has no switch for it.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        if remote:  # Ray itself would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=_TIME_TO_ANSWER).close()
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".")
        if address == "local":
            raise UserError(f"Ray cannot be started here: {reason}") from error
        raise UserError(f"no Ray cluster answers at {address} ({reason}); `ray start --head` starts one") from error
    except SystemExit as error:  # Ray's own answer to SIGTERM
        raise Interrupted(signal.SIGTERM) from error
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def _nodes() -> list[dict[str, float]]:
    """What each node has: CPU, GPU, …"""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
