"""One TensorBoard events file a run, written by us so that a resumed run can cut it back and go on in the same file.

PyTorch's SummaryWriter starts a new file each time and hides later duplicates by step, which some readers do not
honour. Here the file is rewritten atomically up to the last checkpointed epoch, and appended to from there on.
"""

import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from harness.errors import UserError
from harness.files import flush_to_disk, write_atomically

EPOCH_TAGS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy")
BEST_TAGS = ("best/train_loss", "best/train_accuracy", "best/test_loss", "best/test_accuracy")

CONFUSION_TAG, MISTAKES_TAG, FILTERS_TAG = "test/confusion_matrix", "test/worst_classified", "filters/conv1"
_SESSION_END_TAG = "_hparams_/session_end_info"
_AT_THE_END = frozenset((*BEST_TAGS, CONFUSION_TAG, MISTAKES_TAG, _SESSION_END_TAG))  # written anew by `finish`

# The HParams tab takes its columns from one run, so every run of either script declares all of these. The value given
# here stands where a script has no such flag.
HPARAMS = {
    "experiment": "",
    "data": "",
    "channels": "gray",
    "fc_activation": "-",
    "augment": "no",
    "cell": "-",
    "hidden_size": 0,
    "optimizer": "",
    "lr": 0.0,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "clip_grad_norm": 0.0,
    "batch_size": 0,
    "epochs": 0,
    "precision": "",
    "seed": 0,
}


class EventsFile:
    """The events file of one run folder; opened by `open`, closed by `close`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        self._records = RecordWriter(self._file)

    @classmethod
    def open(cls, folder: Path, hparams: dict, *, curves: Sequence[Sequence[float]]) -> "EventsFile":
        """The folder's events file, holding the hyper-parameters and what was written of the epochs given, and no more.

        `hparams` maps names of HPARAMS to values; missing ones take the value there. `curves` has the values of
        EPOCH_TAGS of each epoch from 1 on, to be written where they are not in the file.
        """
        found = sorted(folder.glob("events.out.tfevents.*"))
        path = found[0] if found else folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        kept, seen = [], set()
        for event in read_events(path) if found else ():
            tag = event.summary.value[0].tag if event.summary.value else ""
            if 1 <= event.step <= len(curves) and tag not in (*_AT_THE_END, "") and (tag, event.step) not in seen:
                kept.append(event)
                seen.add((tag, event.step))
        for epoch, values in enumerate(curves, 1):
            if (EPOCH_TAGS[0], epoch) not in seen:
                kept.append(Event(wall_time=time.time(), step=epoch, summary=_scalars_summary(values)))
        kept.sort(key=lambda event: event.step)
        head = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        experiment, session_start, _ = _hparams_summaries(hparams)
        head += [Event(wall_time=time.time(), summary=summary) for summary in (experiment, session_start)]
        write_atomically(path, b"".join(_framed(event.SerializeToString()) for event in head + kept))
        for extra in found[1:]:
            extra.unlink(missing_ok=True)
        return cls(path)

    def curves(self, values: Sequence[float], epoch: int) -> None:
        """Write an epoch's values of EPOCH_TAGS as one event."""
        self._write(_scalars_summary(values), epoch)

    def best(self, values: Sequence[float], epoch: int) -> None:
        """Write the values of BEST_TAGS as one event."""
        self._write(_scalars_summary(values, BEST_TAGS), epoch)

    def image(self, tag: str, pixels: np.ndarray, step: int) -> None:
        """Write a picture: uint8 (height, width) or (height, width, 3)."""
        self._write(_image_summary(tag, pixels), step)

    def end_session(self, step: int) -> None:
        """Tell the HParams tab that the run is complete."""
        *_, session_end = _hparams_summaries({})
        self._write(session_end, step)

    def flush(self) -> None:
        """Everything written so far is on the disk afterwards. UserError if it cannot be."""
        try:
            self._file.flush()
            flush_to_disk(self._file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def _write(self, summary: Summary, step: int) -> None:
        event = Event(wall_time=time.time(), step=step, summary=summary)
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error


def read_events(path: Path) -> Iterator[Event]:
    """The events of a file in their order, up to the first record that is cut off or damaged.

    TFRecord framing: uint64 length, its masked CRC-32C, the record, its masked CRC-32C; all little-endian.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    position = 0
    while position + 12 <= len(content):
        header, (length, header_crc) = content[position : position + 8], struct.unpack_from("<QI", content, position)
        end = position + 12 + length
        if masked_crc32c(header) != header_crc or end + 4 > len(content):
            return
        record = content[position + 12 : end]
        if masked_crc32c(record) != struct.unpack_from("<I", content, end)[0]:
            return
        try:
            event = Event.FromString(record)
        except DecodeError:
            return
        yield event
        position = end + 4


def is_whole(folder: Path, epochs: int, *, ended: bool) -> bool:
    """Whether the run's events file has the curves of just these epochs and, if it `ended`, what is written then."""
    found = list(folder.glob("events.out.tfevents.*"))
    if len(found) != 1:
        return False
    steps, tags = [], set()
    for event in read_events(found[0]):
        names = [value.tag for value in event.summary.value]
        tags.update(names)
        steps += [event.step] if EPOCH_TAGS[0] in names else []
    return steps == list(range(1, epochs + 1)) and (not ended or tags >= _AT_THE_END)


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Write a whole events file, atomically: the version record, then these events. UserError if it cannot be."""
    events = list(events)
    head = Event(wall_time=events[0].wall_time if events else 0.0, file_version="brain.Event:2")
    write_atomically(path, b"".join(_framed(event.SerializeToString()) for event in (head, *events)))


def find_events(folder: Path) -> Path:
    """The folder's events file. UserError if it has none."""
    found = sorted(folder.glob("events.out.tfevents.*"))
    if not found:
        raise UserError(f"{folder} has no events file to add figures to; name a checkpoint in its run's folder")
    return found[0]


def replace_images(folder: Path, pictures: dict[str, np.ndarray], step: int) -> None:
    """Put pictures, by tag, into the events file of a run whose lock is held; earlier ones of these tags go.

    The file is rewritten atomically; everything else in it stays as it is. A `step` up to the run's last epoch survives
    a resumed training. UserError if there is no events file or it cannot be written.
    """
    path = find_events(folder)
    records = [
        event.SerializeToString()
        for event in read_events(path)
        if not any(value.tag in pictures for value in event.summary.value)
    ]
    for tag, pixels in pictures.items():
        event = Event(wall_time=time.time(), step=step, summary=_image_summary(tag, pixels))
        records.append(event.SerializeToString())
    write_atomically(path, b"".join(map(_framed, records)))


def _scalars_summary(values: Sequence[float], tags: Sequence[str] = EPOCH_TAGS) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in zip(tags, values, strict=True)])


def _image_summary(tag: str, pixels: np.ndarray) -> Summary:
    from harness.pictures import png_bytes

    height, width = pixels.shape[:2]
    picture = Summary.Image(
        height=height, width=width, colorspace=1 if pixels.ndim == 2 else 3, encoded_image_string=png_bytes(pixels)
    )
    return Summary(value=[Summary.Value(tag=tag, image=picture)])


def _framed(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    return length + struct.pack("<I", masked_crc32c(length)) + record + struct.pack("<I", masked_crc32c(record))


def _hparams_summaries(values: dict) -> tuple[Summary, ...]:
    """The experiment's columns, this run's values, and the end of the session, as the HParams tab wants them."""
    from torch.utils.tensorboard.summary import hparams

    declared = {name: values.get(name, default) for name, default in HPARAMS.items()}
    if isinstance(declared["augment"], bool):
        declared["augment"] = "yes" if declared["augment"] else "no"  # the tab would show a bool as 0 or 1
    return hparams(declared, dict.fromkeys(BEST_TAGS, 0.0))
