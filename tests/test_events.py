"""The events file, as TensorBoard's readers see it: what is logged, nothing twice, and all of it to an open reader."""

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import logged_values, make_runs_small, metrics_of
from tensorboard.backend.event_processing import event_accumulator, event_multiplexer, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

import harness.publish
from harness.checkpoint import load_checkpoint
from harness.data import load_images
from harness.errors import UserError
from harness.flags import hparams
from harness.tensorboard import (
    CONFUSION_TAG,
    FILTERS_TAG,
    MISTAKES_TAG,
    EventsFile,
    add_images,
    read_events,
)
from models import build_model

TINY = ("--data", "synthetic", "--hidden-size", "8", "--batch-size", "16", "--name", "run")
RUN = Path("runs/rnn_synthetic/run")
PIXEL = np.zeros((1, 1), dtype=np.uint8)
EPOCH_TAGS = ["train/loss", "train/accuracy", "test/loss", "test/accuracy"]
BEST_TAGS = [f"whole_run/best_{metric}" for metric in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")]
EPOCHS_TAG = "whole_run/epochs"


class Killed(BaseException):
    """Stands for a kill, within this process: nothing may catch it."""


@pytest.fixture(autouse=True)
def small_runs(monkeypatch, in_project):
    make_runs_small(monkeypatch.setattr)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody pulls the plug


def kill_in_epoch(monkeypatch, run_main, epoch: int, *flags: object, torn: int = 0) -> None:
    """Run rnn_mnist and let it be killed once this epoch is in last.pt: before its events, or with the last one torn.

    `torn` is how many bytes of the events file's end the system had not taken when the kill came.
    """
    log = harness.publish.log_events

    def log_or_die(run, state, *rest, **options):
        if state.epoch < epoch:
            return log(run, state, *rest, **options)
        if torn:
            log(run, state, *rest, **options)
            os.truncate(run.events.path, run.events.path.stat().st_size - torn)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(harness.publish, "log_events", log_or_die)
        with pytest.raises(Killed):
            run_main("rnn_mnist", *TINY, *flags)


def events_file(run: Path = RUN) -> Path:
    (file,) = run.glob("events.out.tfevents.*")
    return file


def hparams_of(run: Path, tag: str):
    kind = "experiment" if tag == metadata.EXPERIMENT_TAG else "session_start_info"
    parse = getattr(metadata, f"parse_{kind}_plugin_data")
    (content,) = (
        value.metadata.plugin_data.content
        for event in EventFileLoader(str(events_file(run))).Load()
        for value in event.summary.value
        if value.tag == tag
    )
    return parse(content)


def test_scalars_are_four_an_epoch_and_four_best_ones_with_the_values_of_metrics_csv(run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 3)[0] == 0
    accumulator = event_accumulator.EventAccumulator(str(RUN)).Reload()
    scalars = accumulator.Tags()["scalars"]  # written as TensorFlow 1 did, which every reader knows
    assert sorted(scalars) == sorted([*EPOCH_TAGS, *BEST_TAGS, EPOCHS_TAG])
    assert [(event.step, event.value) for event in accumulator.Scalars(EPOCHS_TAG)] == [(3, 3.0)]
    columns = list(zip(*metrics_of(RUN), strict=True))
    for tag, column in zip(EPOCH_TAGS, columns[1:], strict=True):
        assert column[0] == tag
        logged = accumulator.Scalars(tag)
        assert [event.step for event in logged] == [1, 2, 3]
        assert [event.value for event in logged] == pytest.approx([float(value) for value in column[1:]], rel=1e-6)
        best = max if tag.endswith("accuracy") else min
        (event,) = accumulator.Scalars("whole_run/best_" + tag.replace("/", "_"))
        assert event.value == pytest.approx(best(float(value) for value in column[1:]), rel=1e-6)


def test_what_is_measured_on_held_out_images_is_a_curve_that_sorts_after_the_four(run_main):
    more = ("--validation", 10, "--average-weights", 0.5, "--test-time-augmentation")
    assert run_main("rnn_mnist", *TINY, "--epochs", 2, *more)[0] == 0
    accumulator = event_accumulator.EventAccumulator(str(RUN)).Reload()
    header, *rows = [line.split(",") for line in (RUN / "metrics.csv").read_text().splitlines()]
    for tag in header[6:]:
        assert max(EPOCH_TAGS) < tag < min(CONFUSION_TAG, *BEST_TAGS) or tag.startswith("average")
        expected = [float(row[header.index(tag)]) for row in rows if row[header.index(tag)]]
        assert len(expected) == (1 if "tta" in tag else 2)
        assert [event.value for event in accumulator.Scalars(tag)] == pytest.approx(expected, rel=1e-6)
    assert hparams_of(RUN, metadata.SESSION_START_INFO_TAG).hparams["validation"].number_value == 10


def test_hparams_lie_in_the_same_file_and_are_declared_alike_by_both_scripts(run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 1, "--lr", 0.25)[0] == 0
    assert run_main("cnn_cifar10", "--data", "synthetic", "--augment", "--epochs", 1, "--name", "run")[0] == 0
    cnn = Path("runs/cnn_synthetic/run")
    first, second = (hparams_of(run, metadata.EXPERIMENT_TAG) for run in (RUN, cnn))
    for experiment in (first, second):
        assert [info.name for info in experiment.hparam_infos] == list(hparams({}, ""))
        assert [info.name.tag for info in experiment.metric_infos] == [*reversed(BEST_TAGS), EPOCHS_TAG]
        shown = [info.name for info in experiment.hparam_infos if info.differs]  # the columns that are there at first
        assert sorted(shown) == ["cell", "data", "hidden_size", "lr", "optimizer"]
    assert [info.type for info in first.hparam_infos] == [info.type for info in second.hparam_infos]
    recorded = hparams_of(RUN, metadata.SESSION_START_INFO_TAG).hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in recorded.items()}
    assert values["lr"] == 0.25
    names = ("cell", "hidden_size", "augment", "fc_activation")
    assert [values[name] for name in names] == ["gru", "8", "no", "-"]
    values = hparams_of(cnn, metadata.SESSION_START_INFO_TAG).hparams
    assert [values[name].string_value for name in ("augment", "cell", "hidden_size")] == ["yes", "-", "-"]


def test_what_is_no_curve_sorts_after_the_curves_so_that_tensorboard_opens_on_them():
    assert min(*BEST_TAGS, EPOCHS_TAG, CONFUSION_TAG, MISTAKES_TAG, FILTERS_TAG) > max(EPOCH_TAGS)


def pictures_of(run: Path) -> dict[str, dict[int, bytes]]:
    """Tag -> step -> PNG."""
    found: dict[str, dict[int, bytes]] = {}
    for event in read_events(events_file(run)):
        for value in event.summary.value:
            if value.HasField("image"):
                found.setdefault(value.tag, {})[event.step] = value.image.encoded_image_string
    return found


def test_cnn_logs_its_filters_each_epoch_and_any_run_its_mistakes_at_the_end(run_main):
    from harness.pictures import filters_grid, png_bytes

    flags = ("--data", "synthetic", "--epochs", 2, "--name", "run")
    assert run_main("cnn_cifar10", *flags)[0] == run_main("rnn_mnist", *TINY, "--epochs", 2)[0] == 0
    cnn = pictures_of(Path("runs/cnn_synthetic/run"))
    steps = {tag: list(of_tag) for tag, of_tag in cnn.items()}
    assert steps == {FILTERS_TAG: [1, 2], CONFUSION_TAG: [2], MISTAKES_TAG: [2]}
    weights = load_checkpoint(Path("runs/cnn_synthetic/run/last.pt"))["model"]["features.conv1.weight"]
    assert cnn[FILTERS_TAG][2] == png_bytes(filters_grid(weights.numpy())) != cnn[FILTERS_TAG][1]
    assert {tag: list(of_tag) for tag, of_tag in pictures_of(RUN).items()} == {CONFUSION_TAG: [2], MISTAKES_TAG: [2]}


def test_confusions_and_mistakes_are_those_of_the_last_epochs_model(run_main, monkeypatch):
    """Against the network out of last.pt, image by image."""
    drawn = {}
    for name in ("confusion_figure", "worst_figure"):
        monkeypatch.setattr(f"harness.pictures.{name}", lambda *given, name=name: drawn.update({name: given}) or PIXEL)
    assert run_main("rnn_mnist", *TINY, "--epochs", 1)[0] == 0
    content, images = load_checkpoint(RUN / "last.pt"), load_images("synthetic-digits", data_dir=Path("data"))
    model = build_model(content["config"]).eval()
    model.load_state_dict(content["model"])
    with torch.no_grad():
        shares = model(images.normalize(images.test.images)).softmax(dim=1)
    labels, answers = images.test.labels.tolist(), shares.argmax(dim=1).tolist()

    counts, classes, title = drawn["confusion_figure"]
    expected = np.zeros((10, 10), dtype=int)
    for label, answer in zip(labels, answers, strict=True):
        expected[label, answer] += 1
    assert counts.tolist() == expected.tolist() and (expected != expected.T).any()
    assert (classes, title) == (images.classes, "synthetic-digits, test images, epoch 1")

    of_label = [float(shares[index, label]) for index, label in enumerate(labels)]
    worst = sorted(range(len(labels)), key=of_label.__getitem__)[:30]
    pictures, their_labels, their_answers, probabilities, classes, _ = drawn["worst_figure"]
    assert probabilities == pytest.approx([of_label[index] for index in worst], rel=1e-4)
    assert (their_labels, their_answers) == ([labels[index] for index in worst], [answers[index] for index in worst])
    assert np.array_equal(pictures, images.test.images[worst].numpy()) and classes == images.classes


def test_resumed_run_logs_nothing_twice_in_any_loader(monkeypatch, run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 4, "--runs-dir", "whole")[0] == 0
    kill_in_epoch(monkeypatch, run_main, 2, "--epochs", 4)
    assert (2, "test/loss") not in logged_values(RUN)  # it is in last.pt, and the events file knows nothing of it
    kill_in_epoch(monkeypatch, run_main, 3, "--epochs", 4, "--resume", torn=9)
    assert run_main("rnn_mnist", *TINY, "--epochs", 4, "--resume")[0] == 0
    once = Counter({(step, tag): 1 for tag in EPOCH_TAGS for step in range(1, 5)})

    for read in (read_events, lambda file: EventFileLoader(str(file)).Load()):
        seen = Counter((e.step, value.tag) for e in read(events_file()) for value in e.summary.value)
        assert set(seen.values()) == {1}
        assert {key: count for key, count in seen.items() if key[1] in EPOCH_TAGS} == once

    accumulator = event_accumulator.EventAccumulator(str(RUN), purge_orphaned_data=False).Reload()
    legacy = event_multiplexer.EventMultiplexer(purge_orphaned_data=False).AddRunsFromDirectory("runs").Reload()
    plugin = plugin_event_multiplexer.EventMultiplexer(purge_orphaned_data=False).AddRunsFromDirectory("runs").Reload()
    name = "rnn_synthetic/run"
    assert list(plugin.Runs()) == list(legacy.Runs()) == [name]
    expected = {tag: [float(row[1 + i]) for row in metrics_of(RUN)[1:]] for i, tag in enumerate(EPOCH_TAGS)}
    for tag in EPOCH_TAGS:
        for events in (accumulator.Scalars(tag), legacy.Scalars(name, tag)):
            assert [event.step for event in events] == [1, 2, 3, 4]
            assert [event.value for event in events] == pytest.approx(expected[tag], rel=1e-6)
        tensors = plugin.Tensors(name, tag)
        assert [e.step for e in tensors] == [1, 2, 3, 4]
        values = [tensor_util.make_ndarray(e.tensor_proto).item() for e in tensors]
        assert values == pytest.approx(expected[tag], rel=1e-6)
    assert logged_values(RUN) == logged_values(Path("whole/rnn_synthetic/run"))


# -- readers that are open over a kill and a resume --------------------------------------------------------------------


def legacy_reader() -> Callable[[], list[int]]:
    """What the accumulator of scalars has of test/loss: its steps, read on at each call."""
    reader = event_accumulator.EventAccumulator(str(RUN))
    return lambda: [event.step for event in reader.Reload().Scalars("test/loss")]


def plugin_reader() -> Callable[[], list[int]]:
    """The same of the loader that TensorBoard uses without its data server."""
    reader = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory("runs")
    return lambda: [event.step for event in reader.Reload().Tensors("rnn_synthetic/run", "test/loss")]


@pytest.mark.parametrize("reader", [legacy_reader, plugin_reader])
@pytest.mark.parametrize("torn", [0, 1, 9, 100])
def test_reader_that_was_open_before_a_resume_sees_the_epochs_that_it_adds(monkeypatch, run_main, reader, torn):
    """Also one that has read a torn record, cut off in its checksum or its data."""
    kill_in_epoch(monkeypatch, run_main, 2, "--epochs", 4, torn=torn)
    steps = reader()
    assert steps() == [1]
    assert run_main("rnn_mnist", *TINY, "--epochs", 4, "--resume")[0] == 0
    assert steps() == [1, 2, 3, 4]


def test_reader_that_was_open_before_a_run_was_made_longer_sees_both_ends_once(run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 1)[0] == 0
    reader = event_accumulator.EventAccumulator(str(RUN)).Reload()
    before = events_file().read_bytes()
    assert run_main("rnn_mnist", *TINY, "--epochs", 3, "--resume")[0] == 0
    assert events_file().read_bytes().startswith(before)
    reader.Reload()
    assert [event.step for event in reader.Scalars("test/loss")] == [1, 2, 3]
    assert [(event.step, event.value) for event in reader.Scalars(EPOCHS_TAG)] == [(1, 1), (3, 3)]
    assert [event.step for event in reader.Images(CONFUSION_TAG)] == [1, 3]
    assert max(Counter(logged_values(RUN)).values()) == 1


@pytest.mark.parametrize("torn", [0, 3, 100])
def test_reader_that_was_open_before_figures_were_added_sees_them_though_a_full_disk_tore_one(run_main, torn):
    assert run_main("rnn_mnist", *TINY, "--epochs", 2)[0] == 0
    reader = event_accumulator.EventAccumulator(str(RUN)).Reload()
    plugin = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory("runs").Reload()
    drawn = {"figures/a": np.arange(64, dtype=np.uint8).reshape(8, 8), "figures/b": PIXEL}
    add_images(RUN, drawn, step=1)
    whole = events_file().read_bytes()
    os.truncate(events_file(), len(whole) - torn)
    reader.Reload()
    plugin.Reload()
    add_images(RUN, drawn, step=1)
    assert events_file().read_bytes() == whole
    reader.Reload()
    plugin.Reload()
    for tag in drawn:
        assert [event.step for event in reader.Images(tag)] == [1]
        assert [event.step for event in plugin.Tensors("rnn_synthetic/run", tag)] == [1]


def test_ending_that_a_kill_tore_is_completed_before_a_longer_run_goes_on(run_main):
    """A reader that has read half of the last record waits for its other half and for no other bytes."""
    assert run_main("rnn_mnist", *TINY, "--epochs", 1)[0] == 0
    whole = events_file().read_bytes()
    os.truncate(events_file(), len(whole) - 5)
    assert run_main("rnn_mnist", *TINY, "--epochs", 2, "--resume")[0] == 0
    assert events_file().read_bytes().startswith(whole)


@pytest.fixture
def data_server() -> Iterator[Callable[[], dict[str, list[int]]]]:
    """The reader that `tensorboard` starts by default, a program of its own: steps by tag, as far as read."""
    server_ingester = pytest.importorskip("tensorboard.data.server_ingester")
    binary = pytest.importorskip("tensorboard_data_server").server_binary()
    if binary is None:
        pytest.skip("no data server for this system")
    from tensorboard.context import RequestContext
    from tensorboard.data.provider import RunTagFilter
    from tensorboard.util.grpc_util import ChannelCredsType

    ingester = server_ingester.SubprocessServerDataIngester(
        server_ingester.ServerBinary(binary, version=None),
        str(Path("runs").resolve()),
        reload_interval=1,
        channel_creds_type=ChannelCredsType.LOCAL,
    )
    wanted = RunTagFilter(runs=["rnn_synthetic/run"], tags=EPOCH_TAGS)
    asked = {"experiment_id": "", "plugin_name": "scalars", "run_tag_filter": wanted, "downsample": 1000}

    def steps() -> dict[str, list[int]]:
        answer = ingester.data_provider.read_scalars(RequestContext(), **asked).get("rnn_synthetic/run", {})
        return {tag: [point.step for point in points] for tag, points in answer.items()}

    Path("runs").mkdir()
    ingester.start()
    yield steps
    ingester._stdin_handle.close()  # ends the server


def wait_for(what: Callable[[], object], wanted: object) -> None:
    while (seen := what()) != wanted:  # the suite's own limit ends it if it never comes
        assert max(map(len, (seen or {"": []}).values())) <= 4, seen
        time.sleep(0.05)


def test_tensorboards_data_server_follows_a_run_over_a_kill_and_a_resume(monkeypatch, run_main, data_server):
    kill_in_epoch(monkeypatch, run_main, 2, "--epochs", 4, torn=30)
    wait_for(data_server, {tag: [1] for tag in EPOCH_TAGS})
    assert run_main("rnn_mnist", *TINY, "--epochs", 4, "--resume")[0] == 0
    wait_for(data_server, {tag: [1, 2, 3, 4] for tag in EPOCH_TAGS})


# -- what a resume finds in the file -----------------------------------------------------------------------------------


def test_record_that_is_written_again_has_the_same_bytes(monkeypatch, run_main):
    kill_in_epoch(monkeypatch, run_main, 2, "--epochs", 3, torn=40)
    half = events_file().read_bytes()
    assert run_main("rnn_mnist", *TINY, "--epochs", 3, "--resume")[0] == 0
    assert events_file().read_bytes().startswith(half)


def test_what_a_torn_or_damaged_file_lost_is_written_again(run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 3)[0] == 0
    file = events_file()
    whole, logged = file.read_bytes(), logged_values(RUN)
    middle = len(whole) // 2
    for damaged in (b"", whole[:5], whole[:200], whole[:-1], whole[:-30], whole + b"\0" * 11):
        file.write_bytes(damaged)
        assert run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume")[0] == 0
        assert file.read_bytes() == whole
    for damaged in (whole[:-5] + b"\xff" + whole[-4:], whole[:middle] + b"\xff\xff" + whole[middle + 2 :]):
        file.write_bytes(damaged)
        assert len(list(read_events(file))) < len(list(logged))
        assert run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume")[0] == 0
        assert logged_values(RUN) == logged
    file.unlink()
    assert run_main("rnn_mnist", "--data", "synthetic", "--name", "run", "--resume")[0] == 0
    assert logged_values(RUN) == logged


def test_event_of_an_epoch_that_last_pt_does_not_know_is_not_written_twice(run_main):
    """As the former order of writing left it when a kill came before last.pt."""
    assert run_main("rnn_mnist", *TINY, "--epochs", 1)[0] == 0
    last = (RUN / "last.pt").read_bytes()
    assert run_main("rnn_mnist", *TINY, "--epochs", 3, "--resume")[0] == 0
    (RUN / "last.pt").write_bytes(last)
    assert run_main("rnn_mnist", *TINY, "--epochs", 3, "--resume")[0] == 0
    assert max(Counter(logged_values(RUN)).values()) == 1
    assert legacy_reader()() == [1, 2, 3]


def test_figures_are_appended_and_the_same_one_only_once(run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 1)[0] == 0
    before, drawn = events_file().read_bytes(), np.full((2, 2), 7, dtype=np.uint8)
    for _ in range(2):
        add_images(RUN, {"figures/a": drawn, "figures/b": drawn + 1}, step=1)
    after = events_file().read_bytes()
    assert after.startswith(before) and logged_values(RUN)[-2:] == [(1, "figures/a"), (1, "figures/b")]
    os.truncate(events_file(), len(after) - 3)
    add_images(RUN, {"figures/a": drawn, "figures/b": drawn + 2}, step=1)
    assert logged_values(RUN)[-2:] == [(1, "figures/a"), (1, "figures/b")]


# -- what a SummaryWriter of the user's wrote into the run folder ------------------------------------------------------


def write_own_events(name: str) -> Path:
    """A file as PyTorch's SummaryWriter writes it, with 100 points."""
    with SummaryWriter(str(RUN)) as writer:
        for step in range(100):
            writer.add_scalar("train/loss", step, step)
    (file,) = (path for path in RUN.glob("events.out.tfevents.*") if str(os.getpid()) in path.name)
    return file.rename(RUN / f"events.out.tfevents.{name}")


@pytest.mark.parametrize("name", ["0.mine", "9999999999.mine"])
def test_events_file_of_the_users_is_neither_cut_nor_deleted(run_main, name):
    """One whose name sorts before ours, or after it."""
    assert run_main("rnn_mnist", *TINY, "--epochs", 1)[0] == 0
    ours = events_file()
    begun, mine = ours.read_bytes(), write_own_events(name)
    os.truncate(mine, mine.stat().st_size - 5)  # it is being written
    points = mine.read_bytes()
    assert run_main("rnn_mnist", *TINY, "--epochs", 1, "--resume")[0] == 0  # of a complete run
    assert ours.read_bytes() == begun
    assert run_main("rnn_mnist", *TINY, "--epochs", 2, "--resume")[0] == 0
    add_images(RUN, {"figures/a": PIXEL}, step=1)
    assert ours.read_bytes().startswith(begun) and b"figures/a" in ours.read_bytes()
    assert mine.read_bytes() == points
    (RUN / "last.pt").unlink()
    for way in ("--overwrite", "--resume"):
        assert run_main("rnn_mnist", *TINY, "--epochs", 1, way)[0] == 0
        assert mine.read_bytes() == points and len(list(RUN.glob("events.out.tfevents.*"))) == 2
        shutil.rmtree(RUN / "figures")
        for name in ("last.pt", "config.json", "best.pt", "metrics.csv"):  # nothing of a run is left but events
            (RUN / name).unlink()


def test_folder_with_no_events_but_the_users_gets_no_figures(run_main):
    RUN.mkdir(parents=True)
    mine = write_own_events("0.mine")
    points = mine.read_bytes()
    with pytest.raises(UserError, match="has no events file to add figures to"):
        add_images(RUN, {"figures/a": PIXEL}, step=1)
    assert mine.read_bytes() == points


@pytest.mark.parametrize(
    ("epochs", "later"),
    [(20, []), (21, [21]), (50, [21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 50]), (400, list(range(40, 401, 20)))],
)
def test_filters_are_shown_each_epoch_up_to_20_and_then_some_twenty_times(epochs: int, later: list[int]) -> None:
    from harness.publish import shows_filters

    assert [n for n in range(1, epochs + 1) if shows_filters(n, epochs)] == [*range(1, 21), *later]


def test_events_file_of_a_long_cnn_run_stays_below_300_kilobytes(tmp_path, monkeypatch):
    """Filters, the confusion matrix and the sheet of worst images, as the CNN logs them in 600 epochs."""
    monkeypatch.undo()
    from harness.pictures import confusion_figure, filters_grid, worst_figure

    random, names = np.random.default_rng(0), tuple("0123456789")
    filters = filters_grid(random.normal(size=(32, 3, 5, 5)).astype(np.float32))  # in color: the larger ones
    confusion = confusion_figure(random.integers(0, 999, (10, 10)), names, "t")
    photos = random.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)  # noise: nothing compresses worse
    worst = worst_figure(photos, [0] * 30, [0] * 30, [0.5] * 30, names, "t")

    epochs, events = 600, EventsFile(tmp_path)
    for epoch in range(1, epochs + 1):
        events.scalars(dict.fromkeys(EPOCH_TAGS, 1.0), epoch, 0.0)
        if harness.publish.shows_filters(epoch, epochs):
            events.image(FILTERS_TAG, filters, epoch, 0.0)
    events.image("c", confusion, epochs, 0.0)
    events.image("w", worst, epochs, 0.0)
    events.flush()
    assert events_file(tmp_path).stat().st_size < 300_000


def test_a_complete_run_of_an_earlier_version_gets_only_what_its_file_lacks(tmp_path: Path) -> None:
    best = dict.fromkeys(BEST_TAGS, 0.5)
    events = EventsFile(tmp_path)
    events.head(hparams({}, "rnn_mnist"), 1.0)
    events.scalars(best, 2, 1.0)  # earlier versions had no tag of the number of epochs
    events.flush()
    resumed = EventsFile(tmp_path)
    resumed.scalars(best | {EPOCHS_TAG: 2}, 2, 1.0)
    resumed.flush()
    counts = Counter(logged_values(tmp_path))
    assert counts[2, EPOCHS_TAG] == 1 and set(counts.values()) == {1}
