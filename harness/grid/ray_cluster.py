"""Trains on a Ray cluster what jobs.py would train on this machine: `report.py --engine ray`.

`connect` starts Ray on this machine or finds a cluster, and yields the engine that jobs.train_jobs asks to start each
run. A run is one Ray task, which runs the same script as ever on some node (ray_node.py); the script knows nothing of
Ray. Where the node sees --runs-dir, the script writes its folder there; where it does not, the task sends the files
that changed with every checkpoint, and they are written here. So the run folder here always holds the last checkpoint,
and a run whose node was lost is continued from it by a new task: by jobs.py, Ray itself repeats nothing.
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

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported: it reports to its makers else

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from harness.device import cores
from harness.errors import Interrupted, UserError
from harness.files import FolderLock, make_folder, write_atomically
from harness.grid import local, ray_node
from harness.grid.schedule import LOST, Job, Settings, command
from harness.run import LOCKED

GPU_SHARE = 0.25  # of a GPU for each run, where there are GPUs: these networks are small
_TIME_TO_ANSWER = 5  # seconds for a cluster's port; Ray itself would try for minutes
_UNREAD = 2  # messages that a task may be ahead of us; each may hold a whole run folder
_EXIT_FAILED, _EXIT_CANCELLED = 1, 143


class Cluster:
    """The nodes of a Ray cluster as jobs.train_jobs needs them; `connect` makes it.

    Each run gets `cpus` CPUs, on which it has as many threads, and the share `gpus` of a GPU.
    """

    def __init__(self, settings: Settings, cpus: int, gpus: float | None) -> None:
        if gpus is None:
            has_gpus = any(node.get("GPU") for node in _nodes())
            gpus = GPU_SHARE if has_gpus and settings.device in ("auto", "cuda") else 0.0
        self.cpus, self.gpus, self.jobs = cpus, gpus, settings.jobs
        self.runs_dir = settings.runs_dir
        # What another folder or machine is to find must not depend on where this process stands.
        self.settings = replace(settings, runs_dir=settings.runs_dir.resolve(), data_dir=settings.data_dir.resolve())
        self.token = f".ray-{secrets.token_hex(8)}"
        self.code = ray.put(ray_node.read_code(settings.scripts))
        for module in (ray_node, local):  # sent along, not imported there
            ray.cloudpickle.register_pickle_by_value(module)
        self._task = ray.remote(ray_node.train_on_node).options(
            num_cpus=cpus,
            num_gpus=gpus,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy="SPREAD",
            _generator_backpressure_num_objects=_UNREAD,
        )

    @property
    def room(self) -> int:
        """How many runs the nodes hold at once."""
        return sum(_room(node, self.cpus, self.gpus) for node in _nodes())

    @property
    def slots(self) -> int:
        """How many runs to submit at once: --jobs, else what there is room for."""
        return self.jobs or max(1, self.room)  # with every node lost, Ray waits for new ones

    def start(self, job: Job) -> "Task":
        """Submit a run."""
        there: dict[str, tuple] = {}
        files = ray_node.changed_files(job.folder, there) if job.folder.is_dir() else {}
        assignment = ray_node.Assignment(
            script=job.row.script,
            flags=command(job, self.settings, self.cpus)[2:],
            threads=self.cpus,
            project=str(self.settings.scripts.resolve()),
            code=self.code,
            runs_dir=str(self.settings.runs_dir),
            token=self.token,
            folder=job.folder.relative_to(self.runs_dir).as_posix(),
            files=ray.put(files) if files else None,
        )
        return Task(self._task.remote(assignment), job, there.get("config.json"))


class Task:
    """A script under way on some node, as jobs.py asks after its own processes.

    `began_from` is the state of the folder's config.json, which every epoch replaces, when the task was submitted.
    """

    def __init__(self, messages: "ray.ObjectRefGenerator", job: Job, began_from: tuple | None) -> None:
        self.started, self.returncode = False, None
        self._messages, self._job, self._failure = messages, job, ""
        self._began_from, self._cut = began_from, False
        self._lock = FolderLock(job.folder / ".lock", refusal=f"{LOCKED} {job.folder}")

    def poll(self) -> int | None:
        """Take up what the node has sent; the script's exit code, once it has ended."""
        try:
            while self.returncode is None and self._messages.next_ready():
                self._take(ray.get(next(self._messages)))
        except TaskCancelledError:
            self._end(_EXIT_CANCELLED, "cancelled")
        except RayTaskError as error:
            self._end(_EXIT_FAILED, f"on its node: {error.cause}")
        except RayError as error:
            self._end(_EXIT_FAILED, f"{LOST} ({type(error).__name__})")
        except (UserError, ValueError) as error:  # the folder here cannot be locked or written
            self.stop()
            self._end(_EXIT_FAILED, str(error))
        except Interrupted:
            self._cut = True
            raise
        return self.returncode

    def stop(self) -> None:
        """Ask the script to stop; the task ends when it has."""
        ray.cancel(self._messages, force=False)

    def wait(self, seconds: float) -> None:
        """Wait for the script's end, and enforce it after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.returncode is None:
            ray.cancel(self._messages, force=True)
            self._end(_EXIT_CANCELLED, "cancelled")

    def failure(self) -> str:
        """Why the script, which has ended, failed; empty if it did not."""
        return self._failure

    def _take(self, message: ray_node.Files | tuple[int, str]) -> None:
        if isinstance(message, tuple):
            self._end(*message)
        elif not self.started:
            self.started, self._job.epoch_began = True, time.monotonic()
        else:
            self._keep(message)

    def _keep(self, files: ray_node.Files) -> None:
        """Write files of the run folder here, last.pt last: after a kill in between, the older one still fits."""
        if self._cut:  # an interruption may have cost half a message, and a later last.pt would not fit the rest
            return
        make_folder(self._job.folder)
        if not self._lock.held:
            self._lock.acquire()
            if ray_node.file_state(self._job.folder / "config.json") != self._began_from:
                raise UserError(f"{LOCKED} {self._job.folder}")  # and got further: to be begun again from there
        for name in sorted(files, key=lambda name: name == "last.pt"):
            file = self._job.folder / ray_node.checked(name)
            make_folder(file.parent)
            write_atomically(file, files[name])

    def _end(self, code: int, failure: str) -> None:
        self.returncode, self._failure = code, failure
        self._lock.release()


@contextlib.contextmanager
def connect(settings: Settings, address: str | None, cpus: int, gpus: float | None) -> Iterator[Cluster]:
    """The cluster at `address`: HOST:PORT, auto (the one that this machine belongs to), or local, a Ray of our own.

    Without an address that of RAY_ADDRESS counts, as everywhere in Ray, else local. UserError if it cannot be reached,
    or if no node has what a run needs.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _start_ray(address)
    try:
        cluster = Cluster(settings, cpus, gpus)
        if not cluster.room:
            raise UserError(_too_small(cluster))
        make_folder(settings.runs_dir)
        token = settings.runs_dir / cluster.token
        write_atomically(token, b"")
        try:
            print(
                f"Ray: {_count(len(_nodes()), 'node')} with room for {_count(cluster.room, 'run')} at once, "
                f"{_needs(cluster)} each",
                flush=True,
            )
            yield cluster
        finally:
            with contextlib.suppress(OSError):
                token.unlink()
    finally:
        ray.shutdown()


def _start_ray(address: str) -> None:
    """Start Ray here, or join a cluster. UserError if that fails."""
    _check_address(address)
    options = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    # Ray prints what it notices of nodes on our standard output, through the table, and has no switch for it.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UserError(_unreachable(address, str(error).partition("\n")[0])) from error
    except SystemExit as error:  # Ray's own answer to SIGTERM
        raise Interrupted(signal.SIGTERM) from error
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def _check_address(address: str) -> None:
    """UserError for what is no address, or where nobody listens."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(
            f"--address {address} is not HOST:PORT, auto or local; "
            "instead of ray://…, run report.py on a node of the cluster with --address auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIME_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(_unreachable(address, getattr(error, "strerror", None) or str(error))) from error


def _unreachable(address: str, reason: str) -> str:
    if address == "local":
        return f"Ray cannot be started here: {reason}"
    return f"no Ray cluster answers at {address} ({reason.rstrip('.')}); `ray start --head` starts one"


def _nodes() -> list[dict[str, float]]:
    """What each node has: CPU, GPU, …"""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _room(node: dict[str, float], cpus: int, gpus: float) -> int:
    """How many runs a node holds at once; a run's share lies on one GPU."""
    room = int(node.get("CPU", 0)) // cpus
    return min(room, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9)) if gpus else room


def _needs(cluster: Cluster) -> str:
    return _count(cluster.cpus, "CPU") + (f" and {cluster.gpus:g} of a GPU" if cluster.gpus else "")


def _too_small(cluster: Cluster) -> str:
    largest = max((int(node.get("CPU", 0)) for node in _nodes()), default=0)
    gpus = sum(int(node.get("GPU", 0)) for node in _nodes())
    return (
        f"no node has the {_needs(cluster)} that a run is to get: the largest has {_count(largest, 'CPU')}, all "
        f"together {_count(gpus, 'GPU')}; lower --cpus-per-run or --gpus-per-run"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
