"""Measure what it costs to hand out a run of a grid, beside the run itself: on a Ray cluster, or on this machine alone.

    python benchmarks/grid_overhead.py --runs 200
    python benchmarks/grid_overhead.py --runs 200 --epochs 0
    python benchmarks/grid_overhead.py --runs 200 --engine local

The cluster has a head and two nodes of one CPU each, all on this machine. Runs are tiny recurrent networks on the drawn
digits; with --epochs 0 a script that ends at once stands in for them. Each script is started through a few lines that
note when it began and ended; what is left of the nodes' time is the cost, with the start of those lines in it (some
tens of milliseconds). Needs Ray and an otherwise idle machine of two cores.
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

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

NODES = 2
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
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=1, help="of each run; 0: nothing is trained")
    parser.add_argument("--engine", choices=("ray", "local"), default="ray")
    parser.add_argument("--jobs", type=int, help="runs submitted at once (default: one a node)")
    parser.add_argument("--not-shared", action="store_true", help="as if the nodes had no storage in common")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(flags, Path(folder))


def measure(flags: argparse.Namespace, folder: Path) -> None:
    import rnn_mnist
    from harness.grid.local import Settings
    from harness.grid.rows import Row
    from harness.grid.runs import find_runs
    from harness.grid.schedule import plan_jobs, train_jobs

    log = folder / "log"
    command = [str(PROJECT / "rnn_mnist.py")] if flags.epochs else ["-c", ""]
    (folder / "rnn_mnist.py").write_text(TIMED.format(command=command, log=str(log)))
    settings = Settings(folder, folder / "runs", folder / "data", "fp32", data="synthetic", jobs=flags.jobs)
    parsers = {"rnn_mnist": rnn_mnist.make_parser()}
    row_flags = {"cell": "rnn", "hidden_size": 8, "batch_size": 500, "epochs": max(1, flags.epochs)}
    row = Row("tiny", "rnn_mnist", row_flags, "tiny")
    results = find_runs([row], settings.runs_dir, parsers, seeds=range(flags.runs), precision="fp32", data="synthetic")
    jobs = plan_jobs(results, parsers, settings)

    began = time.time()
    with local(settings, len(jobs)) if flags.engine == "local" else cluster(settings, flags) as engine:
        ready, cpu = time.time(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            failures = train_jobs(jobs, engine)
        wall, cpu = time.time() - ready, time.process_time() - cpu
    if failures:
        sys.exit(f"{len(failures)} runs failed: {next(iter(failures.values()))}")
    spans = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    last = max(start for start, _ in spans)  # until then no node need be idle
    busy = sum(min(end, last) - start for start, end in spans)
    cost = (NODES * (last - ready) - busy) / len(spans)
    own = sum(end - start for start, end in spans) / len(spans)
    print(f"{len(spans)} runs in {wall:.1f} s, after {ready - began:.1f} s to connect")
    print(f"each took its script {own:.3f} s, and its node {cost:.3f} s beside that")
    print(f"this process computed for {1000 * cpu / len(spans):.1f} ms a run, {100 * cpu / wall:.1f} % of the time")


@contextlib.contextmanager
def local(settings, count: int) -> Iterator:
    from harness.grid.local import ThisMachine

    yield ThisMachine(replace(settings, jobs=settings.jobs or NODES), count)


@contextlib.contextmanager
def cluster(settings, flags: argparse.Namespace) -> Iterator:
    from ray.cluster_utils import Cluster

    from harness.grid.ray_cluster import connect

    os.environ["PYTHONPATH"] = str(PROJECT)  # the scripts' folder, which goes to the nodes, holds nothing else
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(NODES):
            nodes.add_node(num_cpus=1)
        with connect(settings, nodes.address, 1, 0) as engine:
            if flags.not_shared:
                (settings.runs_dir / engine.token).unlink()
            yield engine
    finally:
        nodes.shutdown()


if __name__ == "__main__":
    main()
