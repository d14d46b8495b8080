"""The events file, as TensorBoard's readers see it: what is logged, and nothing twice after a resume."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_runs import logged_values, make_runs_small, metrics_of
from tensorboard.backend.event_processing import event_accumulator, event_multiplexer, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util

from harness.checkpoint import load_checkpoint
from harness.data import load_images
from harness.tensorboard import (
    CONFUSION_TAG,
    FILTERS_TAG,
    HPARAMS,
    MISTAKES_TAG,
    EventsFile,
    is_whole,
    read_events,
    write_events,
)
from models import build_model

TINY = ("--data", "synthetic", "--hidden-size", "8", "--batch-size", "16", "--name", "run")
RUN = Path("runs/rnn_synthetic/run")
PIXEL = np.zeros((1, 1), dtype=np.uint8)
EPOCH_TAGS = ["train/loss", "train/accuracy", "test/loss", "test/accuracy"]
BEST_TAGS = ["best/train_loss", "best/train_accuracy", "best/test_loss", "best/test_accuracy"]


class Killed(BaseException):
    """Stands for a kill, within this process: nothing may catch it."""


@pytest.fixture(autouse=True)
def small_runs(monkeypatch, in_project):
    make_runs_small(monkeypatch.setattr)


def die_before_last(monkeypatch, run_main, epoch: int, *flags: object) -> None:
    """Run rnn_mnist, and let it be killed in this epoch when all is written but last.pt."""
    import harness.run

    real = harness.run.RunFolder.write_checkpoint

    def write(self, name, content):
        if name == "last.pt" and content["epoch"] == epoch:
            raise Killed
        real(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(harness.run.RunFolder, "write_checkpoint", write)
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
    assert sorted(scalars) == sorted(EPOCH_TAGS + BEST_TAGS)
    columns = list(zip(*metrics_of(RUN), strict=True))
    for tag, column in zip(EPOCH_TAGS, columns[1:], strict=True):
        assert column[0] == tag
        logged = accumulator.Scalars(tag)
        assert [event.step for event in logged] == [1, 2, 3]
        assert [event.value for event in logged] == pytest.approx([float(value) for value in column[1:]], rel=1e-6)
        best = max if tag.endswith("accuracy") else min
        (event,) = accumulator.Scalars("best/" + tag.replace("/", "_"))
        assert event.value == pytest.approx(best(float(value) for value in column[1:]), rel=1e-6)


def test_hparams_lie_in_the_same_file_and_are_declared_alike_by_both_scripts(run_main):
    assert run_main("rnn_mnist", *TINY, "--epochs", 1, "--lr", 0.25)[0] == 0
    assert run_main("cnn_cifar10", "--data", "synthetic", "--augment", "--epochs", 1, "--name", "run")[0] == 0
    cnn = Path("runs/cnn_synthetic/run")
    first, second = (hparams_of(run, metadata.EXPERIMENT_TAG) for run in (RUN, cnn))
    for experiment in (first, second):
        assert [info.name for info in experiment.hparam_infos] == list(HPARAMS)
        assert [info.name.tag for info in experiment.metric_infos] == BEST_TAGS
    assert [info.type for info in first.hparam_infos] == [info.type for info in second.hparam_infos]
    recorded = hparams_of(RUN, metadata.SESSION_START_INFO_TAG).hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in recorded.items()}
    assert values["lr"] == 0.25
    assert (values["cell"], values["hidden_size"], values["augment"], values["fc_activation"]) == ("gru", 8, "no", "-")
    values = hparams_of(cnn, metadata.SESSION_START_INFO_TAG).hparams
    assert (values["augment"].string_value, values["cell"].string_value) == ("yes", "-")


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
        shares = model(images.normalise(images.test.images)).softmax(dim=1)
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
    die_before_last(monkeypatch, run_main, 2, "--epochs", 4)
    assert (2, "test/loss") in logged_values(RUN)  # it is there, and last.pt knows nothing of it
    die_before_last(monkeypatch, run_main, 3, "--epochs", 4, "--resume")
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


def test_tensorboards_data_server_reads_a_resumed_run_once(monkeypatch, run_main):
    """The reader that `tensorboard` starts by default, a program of its own."""
    server_ingester = pytest.importorskip("tensorboard.data.server_ingester")
    binary = pytest.importorskip("tensorboard_data_server").server_binary()
    if binary is None:
        pytest.skip("no data server for this system")
    from tensorboard.context import RequestContext
    from tensorboard.data.provider import RunTagFilter
    from tensorboard.util.grpc_util import ChannelCredsType

    die_before_last(monkeypatch, run_main, 2, "--epochs", 3)
    assert run_main("rnn_mnist", *TINY, "--epochs", 3, "--resume")[0] == 0
    ingester = server_ingester.SubprocessServerDataIngester(
        server_ingester.ServerBinary(binary, version=None),
        str(Path("runs").resolve()),
        reload_interval=0,
        channel_creds_type=ChannelCredsType.LOCAL,
    )
    ingester.start()
    asked = {
        "experiment_id": "",
        "plugin_name": "scalars",
        "run_tag_filter": RunTagFilter(runs=["rnn_synthetic/run"], tags=EPOCH_TAGS),
    }
    for _ in range(100):  # it answers before it has read everything
        answer = ingester.data_provider.read_scalars(RequestContext(), **asked, downsample=1000)
        if len(answer.get("rnn_synthetic/run", {})) == 4:
            break
        time.sleep(0.1)
    ingester._stdin_handle.close()  # ends the server
    logged = answer["rnn_synthetic/run"]
    assert {tag: [point.step for point in logged[tag]] for tag in logged} == {tag: [1, 2, 3] for tag in EPOCH_TAGS}


def test_tensorboard_that_watched_the_kill_shows_nothing_twice(monkeypatch, run_main):
    """A reader that stays open over the kill and the resumption."""
    die_before_last(monkeypatch, run_main, 2, "--epochs", 4)
    watching = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory("runs").Reload()
    assert len(watching.Tensors("rnn_synthetic/run", "test/loss")) == 2
    assert run_main("rnn_mnist", *TINY, "--epochs", 4, "--resume")[0] == 0
    watching.AddRunsFromDirectory("runs").Reload()
    assert [event.step for event in watching.Tensors("rnn_synthetic/run", "test/loss")] == [1, 2, 3, 4]


def test_what_a_torn_or_damaged_file_lost_is_written_again_in_order(tmp_path):
    curves = [(float(epoch),) * 4 for epoch in (1, 2, 3)]
    events = EventsFile.open(tmp_path, {}, curves=[])
    for epoch, values in enumerate(curves, 1):
        events.curves(values, epoch)
        events.image(FILTERS_TAG, np.zeros((4, 4), dtype=np.uint8), epoch)
    events.close()
    file = events_file(tmp_path)
    whole, logged = file.read_bytes(), logged_values(tmp_path)
    for damaged in (whole[:-1], whole[:-30], whole[:-5] + b"\xff" + whole[-4:], whole + b"\0" * 11):
        file.write_bytes(damaged)
        read = [(event.step, value.tag) for event in read_events(file) for value in event.summary.value]
        assert read == logged if damaged.startswith(whole) else read == logged[:-1]
        EventsFile.open(tmp_path, {}, curves=curves).close()
        assert logged_values(tmp_path) == read
    for lost in ([1, 3], [2], [3, 1, 2, 2]):  # as an earlier version of this program left it
        kept = [event for event in read_events(file) if event.step]
        chosen = [event for epoch in lost for event in kept if event.step == epoch]
        write_events(file, chosen)
        EventsFile.open(tmp_path, {}, curves=curves).close()
        scalars = [step for step, tag in logged_values(tmp_path) if tag == EPOCH_TAGS[0]]
        assert scalars == [1, 2, 3] and is_whole(tmp_path, 3, ended=False)
        write_events(file, kept)


def test_several_events_files_become_one(tmp_path):
    EventsFile.open(tmp_path, {}, curves=[]).close()
    (tmp_path / "events.out.tfevents.9999999999.other").write_bytes(b"")
    EventsFile.open(tmp_path, {}, curves=[]).close()
    events_file(tmp_path)  # there is one


@pytest.mark.parametrize(
    ("epochs", "later"),
    [(20, []), (21, [21]), (50, [21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 50]), (400, list(range(40, 401, 20)))],
)
def test_filters_are_shown_each_epoch_up_to_20_and_then_some_twenty_times(epochs: int, later: list[int]) -> None:
    from harness.train import _shows_filters

    class Network:
        features = None

    assert [n for n in range(1, epochs + 1) if _shows_filters(Network, n, epochs)] == [*range(1, 21), *later]
    assert not _shows_filters(object(), 1, epochs)


def test_events_file_of_a_long_cnn_run_stays_below_300_kilobytes(tmp_path, monkeypatch):
    """20 epochs' filters, the confusion matrix and the sheet of worst images, as the CNN logs them."""
    monkeypatch.undo()
    import harness.train
    from harness.pictures import confusion_figure, filters_grid, worst_figure

    random = np.random.default_rng(0)
    for epochs in (20, 100, 600):
        folder = tmp_path / str(epochs)
        folder.mkdir()
        events = EventsFile.open(folder, {}, curves=[])

        class Network:
            features = None

        for epoch in range(1, epochs + 1):
            events.curves([1.0] * 4, epoch)
            if harness.train._shows_filters(Network, epoch, epochs):
                filters = random.normal(size=(32, 3, 5, 5)).astype(np.float32)  # in colour: the larger ones
                events.image("filters/conv1", filters_grid(filters), epoch)
        names = tuple("0123456789")
        events.image("c", confusion_figure(random.integers(0, 999, (10, 10)), names, "t"), epochs)
        photos = random.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)  # noise: nothing compresses worse
        answers = [0] * 30
        events.image("w", worst_figure(photos, answers, answers, [0.5] * 30, names, "t"), epochs)
        events.close()
        assert events_file(folder).stat().st_size < 300_000
