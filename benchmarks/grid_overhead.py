"""Measure what it costs to hand out a run of a grid, on a Ray cluster or on this machine alone, without the run itself.

    python benchmarks/grid_overhead.py --runs 200
    python benchmarks/grid_overhead.py --runs 200 --epochs 0
    python benchmarks/grid_overhead.py --runs 200 --engine local

The cluster has a head and two nodes of one CPU each, all on this machine. A run trains a tiny recurrent network on the
drawn digits; with --epochs 0 it is a script that ends at once. A few lines of Python start each script and note when it
began and ended. The rest of the nodes' time is the cost. It includes starting those lines, some tens of milliseconds.
Needs Ray and an otherwise idle machine of two cores.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.grid.local import Settings
    from harness.grid.ray_cluster import Cluster

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

NODES = 2
# Stands in for the script: it starts the real command and logs when that began and ended.
TIMED = """
import subprocess, sys, time
began = time.time()
code = subprocess.run([sys.executable, *{command!r}, *sys.argv[1:]]).returncode
with open({log!r}, "a") as log:
    log.write(f"{{began}} {{time.time()}}\\n")
sys.exit(code)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="how many")
    parser.add_argument("--epochs", type=int, default=1, help="of each run; 0: nothing is trained")
    parser.add_argument("--engine", choices=("ray", "local"), default="ray", help="where they run")
    parser.add_argument("--jobs", type=int, help="runs submitted at once (default: one a node)")
    parser.add_argument("--not-shared", action="store_true", help="as if the nodes had no storage in common")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(flags, Path(folder))


def measure(flags: argparse.Namespace, folder: Path) -> None:
    from harness.grid.local import Settings, ThisMachine
    from harness.grid.rows import Row
    from harness.grid.runs import find_runs
    from harness.grid.schedule import plan_jobs, train_jobs

    log = folder / "log"
    command = [str(PROJECT / "rnn_mnist.py")] if flags.epochs else ["-c", ""]
    (folder / "rnn_mnist.py").write_text(TIMED.format(command=command, log=str(log)))
    settings = Settings(folder, folder / "runs", folder / "data", jobs=flags.jobs)
    row_flags = {"cell": "rnn", "hidden_size": 8, "batch_size": 500, "epochs": max(1, flags.epochs)}
    row = Row("tiny", "rnn_mnist", row_flags, "tiny")
    results = find_runs([row], settings.runs_dir, seeds=range(flags.runs), precision="fp32", data="synthetic")
    jobs = plan_jobs(results, settings)

    began = time.time()
    with contextlib.ExitStack() as stack:
        if flags.engine == "local":
            engine = ThisMachine(replace(settings, jobs=settings.jobs or NODES), len(jobs))
        else:
            engine = stack.enter_context(cluster(settings, flags))
        ready, cpu = time.time(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            failures = train_jobs(jobs, engine)
        wall, cpu = time.time() - ready, time.process_time() - cpu
    if failures:
        sys.exit(f"{len(failures)} runs failed: {next(iter(failures.values()))}")
    spans = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    last = max(start for start, _ in spans)  # up to the last start every node had work to do
    busy = sum(min(end, last) - start for start, end in spans)
    cost = (NODES * (last - ready) - busy) / len(spans)
    own = sum(end - start for start, end in spans) / len(spans)
    print(f"{len(spans)} runs in {wall:.1f} s, after {ready - began:.1f} s to connect")
    print(f"each took its script {own:.3f} s, and its node {cost:.3f} s more")
    print(f"this process computed for {1000 * cpu / len(spans):.1f} ms a run, {100 * cpu / wall:.1f} % of the time")


@contextlib.contextmanager
def cluster(settings: "Settings", flags: argparse.Namespace) -> "Iterator[Cluster]":
    """Make the cluster, and yield report.py's engine for it."""
    from ray.cluster_utils import Cluster as RayCluster

    from harness.grid.ray_cluster import connect

    os.environ["PYTHONPATH"] = str(PROJECT)  # Ray ships the scripts' folder, and here that holds one script alone
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(NODES):
            nodes.add_node(num_cpus=1)
        with connect(settings, nodes.address, 1, 0) as engine:
            if flags.not_shared:
                (settings.runs_dir / engine.token).unlink()  # by this file a node recognizes shared storage
            yield engine
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    main()
