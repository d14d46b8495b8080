"""The events file of a run, for TensorBoard: appended to and never replaced.

A TensorBoard that is open keeps its place in the file, and does not read a file anew that was replaced under it. So a
resumed run goes on in the same file: what a kill tore off is cut away and written again, byte for byte the same, and
what is there already is not written twice. `publish.log_events` says what a run logs.
"""

import io
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter

from harness.cli import command_line, program, typed_path
from harness.errors import UserError
from harness.files import flush_to_disk, os_errors_as, patiently, write_atomically
from harness.metrics import METRICS

EPOCH_TAGS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")
# TensorBoard sorts tags and opens the first groups, `test` and `train`: all else gets a name that comes later.
BEST_TAGS = tuple(f"whole_run/best_{metric}" for metric in METRICS)
# A metric and no hyper-parameter: the HParams tab keeps the first hyper-parameters that it reads.
EPOCHS_TAG = "whole_run/epochs"
CONFUSION_TAG, MISTAKES_TAG, FILTERS_TAG = "view/confusion_matrix", "view/worst_classified", "view/filters_conv1"
FIRST_HPARAMS = ("cell", "data", "hidden_size", "lr", "optimizer")  # the columns that the HParams tab shows at first
# The part of TensorBoard's address that shows exactly the curves, without smoothing, which bends short ones. Of our
# tags only theirs begin with t (train, test, tta), va (validation) or av (average). The printed line fills 80 columns.
CURVES = "?smoothing=0&tagFilter=%5Et%7C%5Eva%7C%5Eav#timeseries"

# Ends our file's name: beside it may lie files that a SummaryWriter of the user's wrote.
SUFFIX = ".run"
RECORD_FRAME = 16  # bytes around a record: its length (8), a checksum of the length (4), a checksum of the record (4)


class EventsFile:
    """The events file of a run folder. An event is known by its tag and its step: no such pair is written twice.

    `add` and what calls it collect what the file lacks, `flush` appends it. Every event has the time when its epoch
    ended, as last.pt has it, so that written again it has the same bytes: a reader that stopped in the middle of a torn
    record then reads on as if nothing had happened.
    """

    def __init__(self, folder: Path) -> None:
        found = own_events(folder)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}{SUFFIX}"
        self.path = found[0] if found else folder / name
        self._written: set[tuple[str, int]] = set()
        self._waiting: list[Event] = []
        self._end = 0  # where the last whole record ends
        for event, end in _whole_records(self.path) if found else ():
            self._written |= {(value.tag, event.step) for value in event.summary.value}
            self._end = end

    def __contains__(self, tag_and_step: tuple[str, int]) -> bool:
        return tag_and_step in self._written

    def head(self, hyperparameters: dict, wall_time: float) -> None:
        """What a file begins with: its version, and the columns and this run's values of the HParams tab."""
        if not self._end:
            self._waiting.append(Event(wall_time=wall_time, file_version="brain.Event:2"))
        experiment, session_start, _ = _hparams_summaries(hyperparameters)
        self.add(experiment, 0, wall_time)
        self.add(session_start, 0, wall_time)

    def scalars(self, values: Mapping[str, float], step: int, wall_time: float) -> None:
        """Values by tag, as one event; without those that the file has, as one of an earlier version may have some."""
        missing = {tag: value for tag, value in values.items() if (tag, step) not in self}
        summary = [Summary.Value(tag=tag, simple_value=value) for tag, value in missing.items()]
        self.add(Summary(value=summary), step, wall_time)

    def image(self, tag: str, pixels: np.ndarray, step: int, wall_time: float) -> None:
        """A picture: uint8 (height, width) or (height, width, 3)."""
        self.add(_image_summary(tag, pixels), step, wall_time)

    def session_end(self, step: int, wall_time: float) -> None:
        """Tell the HParams tab that the run is complete."""
        self.add(_hparams_summaries({})[2], step, wall_time)

    def add(self, summary: Summary, step: int, wall_time: float, *, again: bool = False) -> None:
        """An event, unless the file has all its tags at this step; with `again` even then."""
        keys = {(value.tag, step) for value in summary.value}
        if again or not keys <= self._written:
            self._waiting.append(Event(wall_time=wall_time, step=step, summary=summary))
            self._written |= keys

    def flush(self) -> None:
        """Append what was added, down to the disk. UserError if it cannot be written."""
        with os_errors_as(f"cannot write {self.path}"), patiently(self.path.open, "ab") as file:
            file.truncate(self._end)  # a record that a kill tore
            file.write(_records(self._waiting))
            file.flush()
            flush_to_disk(file.fileno())
            self._end = file.tell()
        self._waiting = []


def print_curves(runs_dir: Path) -> None:
    """Print how to see the curves of these runs: the command, and the address that then shows them and nothing else."""
    print(f"curves: {command_line([program('tensorboard'), '--logdir', typed_path(runs_dir)])}")
    print(f"  http://localhost:6006/{CURVES}")


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file, up to the first record that is cut off or damaged. UserError if it cannot be read."""
    return (event for event, _ in _whole_records(path))


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Write a whole events file, atomically: the version, then these events. UserError if it cannot be written."""
    events = list(events)
    version = Event(wall_time=events[0].wall_time if events else 0.0, file_version="brain.Event:2")
    write_atomically(path, _records([version, *events]))


def own_events(folder: Path) -> list[Path]:
    """The events files in a run's folder that this project wrote: one or none."""
    return sorted(path for path in folder.glob(f"events.out.tfevents.*{SUFFIX}") if path.is_file())


def find_events(folder: Path) -> Path:
    """The folder's events file. UserError if it has none."""
    found = own_events(folder)
    if not found:
        raise UserError(f"{folder} has no events file to add figures to; name a checkpoint in its run's folder")
    return found[0]


def add_images(folder: Path, pictures: Mapping[str, np.ndarray], step: int) -> None:
    """Append pictures, by tag, to the events file of a run whose lock the caller holds.

    A picture that the file has already is left out; one that has changed is appended, and TensorBoard shows it as the
    newest of its tag. UserError if there is no events file or it cannot be written.
    """
    path, events = find_events(folder), EventsFile(folder)
    there, wall_time = set(), 0.0
    for event in read_events(path):
        there |= {value.image.encoded_image_string for value in event.summary.value}
        # When the epoch ended: a picture that was torn, by a full disk for example, is so written again as it was.
        wall_time = event.wall_time if event.step <= step else wall_time
    for tag, pixels in pictures.items():
        summary = _image_summary(tag, pixels)
        if summary.value[0].image.encoded_image_string not in there:
            events.add(summary, step, wall_time, again=True)
    events.flush()


def _whole_records(path: Path) -> Iterator[tuple[Event, int]]:
    """Each event and where its record ends, in bytes from the start, as TensorBoard's own reader finds them."""
    reader, end = PyRecordReader_New(str(path)), 0
    with os_errors_as(f"cannot read {path}"):
        try:
            while True:
                reader.GetNext()
                end += len(reader.record()) + RECORD_FRAME
                yield Event.FromString(reader.record()), end
        except (OutOfRangeError, DataLossError, DecodeError, OverflowError):
            return  # the end; or a record that is torn or damaged, behind which nothing can be read


def _records(events: Iterable[Event]) -> bytes:
    content = io.BytesIO()
    for event in events:
        RecordWriter(content).write(event.SerializeToString())
    return content.getvalue()


def _image_summary(tag: str, pixels: np.ndarray) -> Summary:
    from harness.pictures import png_bytes

    height, width, *colors = pixels.shape
    colorspace = 3 if colors else 1
    image = Summary.Image(height=height, width=width, colorspace=colorspace, encoded_image_string=png_bytes(pixels))
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _hparams_summaries(values: dict) -> tuple[Summary, ...]:
    """The experiment's columns, this run's values, and the end of the session, as the HParams tab wants them."""
    from torch.utils.tensorboard.summary import hparams as summaries_of

    metrics = (*reversed(BEST_TAGS), EPOCHS_TAG)  # the test accuracy is the first column of the metrics
    summaries = summaries_of(values, dict.fromkeys(metrics, 0.0))
    for summary in summaries:
        data = summary.value[0].metadata.plugin_data
        content = HParamsPluginData.FromString(data.content)
        for info in content.experiment.hparam_infos:  # the tab has those that are said to differ first, and shows five
            info.differs = info.name in FIRST_HPARAMS
        # Protocol buffers write a map in any order unless asked; the same values must give the same bytes.
        data.content = content.SerializeToString(deterministic=True)
    return summaries
