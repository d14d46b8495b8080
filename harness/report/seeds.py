"""Runs that differ only in their seed as one curve with a band in TensorBoard: `tensorboard --logdir runs/seeds`.

TensorBoard has margin charts in its Custom Scalars tab but nothing that fills them; this does. For every row of a grid
with several complete seeds it writes an events file, runs/seeds/<row>/, which is never read as a run.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import custom_scalars

from harness.files import make_folder, os_errors_as
from harness.grid.runs import RowRuns, Run
from harness.report.statistics import Sample
from harness.tensorboard import EPOCH_TAGS, write_events

FOLDER = SUFFIX = "seeds"  # and of our files' names, where a run's events file has the machine


def write_seed_aggregates(results: Sequence[RowRuns], runs_dir: Path, *, synthetic: bool) -> list[Path]:
    """Write runs_dir/seeds/<row>/ (<row>-synthetic/ of synthetic images) for every row with two or more complete seeds.

    Each holds, at step = epoch, the four tags of a run (their mean over the seeds, so that it stands beside the runs'
    own curves) and `seeds/<tag>/mean`, `/lower`, `/upper` (mean ± sample standard deviation). The first also holds the
    layout of the Custom Scalars tab, which TensorBoard merges with that of other grids' rows. Outdated aggregates of
    these rows are deleted; other grids' rows keep theirs. Returns the files; the same runs give the same bytes.
    UserError if something cannot be written or deleted.
    """
    folder = runs_dir / FOLDER
    names = {row.row.name: f"{row.row.name}-synthetic" if synthetic else row.row.name for row in results}
    earlier = sorted(folder.glob(f"*/events.out.tfevents.*.{SUFFIX}"))
    written: list[Path] = []
    for row in results:
        if len(row.complete) < 2:
            continue
        # When the newest of the runs was begun, as the name of its events file has it.
        files = [path.name for run in row.complete for path in run.path.glob("events.out.tfevents.*")]
        times = [found[1] for file in files if (found := re.match(r"events\.out\.tfevents\.(\d{1,10})\.", file))]
        wall_time = max(map(int, times), default=0)
        margins = {tag: [f"{FOLDER}/{tag}/{end}" for end in ("mean", "lower", "upper")] for tag in EPOCH_TAGS}
        charts = {f"{tag}: mean ± sd over seeds": ["Margin", tags] for tag, tags in margins.items()}
        layout = Event(wall_time=wall_time, step=0, summary=custom_scalars({"seeds": charts}))
        make_folder(folder / names[row.row.name])
        # The runs' own time in the name: a TensorBoard that is open notices a new file, not one replaced.
        path = folder / names[row.row.name] / f"events.out.tfevents.{wall_time:010d}.{SUFFIX}"
        write_events(path, [layout] * (not written) + _aggregate(row.complete, wall_time))
        written.append(path)
    for path in earlier:
        if path.parent.name in names.values() and path not in written:
            with os_errors_as(f"cannot delete {path}"):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
    return written


def _aggregate(runs: Sequence[Run], wall_time: int) -> list[Event]:
    """An event an epoch that all the runs have."""
    events = []
    for epochs in zip(*(run.history for run in runs), strict=False):
        values = {}
        for tag in EPOCH_TAGS:
            sample = Sample(tuple(getattr(epoch, tag.replace("/", "_")) for epoch in epochs))
            mean, sd = sample.mean, sample.sd
            values |= {tag: mean, f"{FOLDER}/{tag}/mean": mean}
            values |= {f"{FOLDER}/{tag}/lower": mean - sd, f"{FOLDER}/{tag}/upper": mean + sd}
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        events.append(Event(wall_time=wall_time + epochs[0].epoch, step=epochs[0].epoch, summary=summary))
    return events
