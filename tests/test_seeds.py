"""Aggregates over seeds, as TensorBoard's own readers see them."""

import statistics
from pathlib import Path

import pytest
from report_grids import cell_row, cnn_row, row_runs, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from harness.grid.runs import RowRuns
from harness.report.seeds import write_seed_aggregates
from harness.tensorboard import EPOCH_TAGS


def results(folder: Path) -> list[RowRuns]:
    rows = cnn_row("cnn-a"), cell_row("gru"), cell_row("lstm")
    return [row_runs(rows[0], (0, 1, 2), folder), row_runs(rows[1], (0, 1), folder), row_runs(rows[2], (0,), folder)]


def layouts(folder: Path) -> list[layout_pb2.Layout]:
    """All Custom Scalars layouts in a log directory."""
    return [
        layout_pb2.Layout.FromString(tensor_util.make_ndarray(value.tensor).item())
        for path in sorted(folder.rglob("events.out.tfevents.*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "custom_scalars"
    ]


def test_the_four_tags_hold_the_mean_and_the_margins_one_deviation(tmp_path):
    given = results(tmp_path)
    write_seed_aggregates(given, tmp_path, synthetic=False)
    for row in given[:2]:
        read = EventAccumulator(str(tmp_path / "seeds" / row.row.name)).Reload()
        kinds = ("mean", "lower", "upper")
        assert sorted(read.Tags()["scalars"]) == sorted(
            [*EPOCH_TAGS, *(f"whole_row_{row.row.script}/{tag}/{kind}" for tag in EPOCH_TAGS for kind in kinds)]
        )
        for tag in EPOCH_TAGS:
            columns = [[getattr(epoch, tag.replace("/", "_")) for epoch in each.history] for each in row.complete]
            means = [statistics.mean(values) for values in zip(*columns, strict=True)]
            deviations = [statistics.stdev(values) for values in zip(*columns, strict=True)]
            logged = read.Scalars(tag)
            assert [event.step for event in logged] == [1, 2, 3]
            assert [event.value for event in logged] == pytest.approx(means, rel=1e-6)
            for kind, sign in (("mean", 0), ("lower", -1), ("upper", 1)):
                expected = [mean + sign * sd for mean, sd in zip(means, deviations, strict=True)]
                values = [event.value for event in read.Scalars(f"whole_row_{row.row.script}/{tag}/{kind}")]
                assert values == pytest.approx(expected, rel=1e-5)


def test_rows_of_one_seed_have_none_and_unfinished_runs_do_not_count(tmp_path):
    row = cell_row("rnn")
    half = RowRuns(row, {0: run(row, 0, tmp_path), 1: run(row, 1, tmp_path, status="diverged")}, (0, 1))
    written = write_seed_aggregates([*results(tmp_path), half], tmp_path, synthetic=False)
    assert [path.parent.name for path in written] == ["cnn-a", "gru-a"]
    assert sorted(path.name for path in (tmp_path / "seeds").iterdir()) == ["cnn-a", "gru-a"]


def test_there_is_exactly_one_layout_and_it_lists_a_margin_chart_for_each_script_and_tag(tmp_path):
    write_seed_aggregates(results(tmp_path), tmp_path, synthetic=False)
    (layout,) = layouts(tmp_path)
    assert [category.title for category in layout.category] == ["cnn_cifar10", "rnn_mnist"]
    for category in layout.category:
        assert not category.closed
        series = [chart.margin.series[0] for chart in category.chart]
        assert [(each.value, each.lower, each.upper) for each in series] == [
            tuple(f"whole_row_{category.title}/{tag}/{kind}" for kind in ("mean", "lower", "upper"))
            for tag in EPOCH_TAGS
        ]


def test_aggregates_are_replaced_and_outdated_ones_go(tmp_path):
    given = results(tmp_path)
    before = {path: path.read_bytes() for path in write_seed_aggregates(given, tmp_path, synthetic=False)}
    assert {path: path.read_bytes() for path in write_seed_aggregates(given, tmp_path, synthetic=False)} == before
    own = tmp_path / "seeds" / "mine" / "events.out.tfevents.1.machine"
    own.parent.mkdir()
    own.write_bytes(b"")
    newest = given[1].runs[1].path / "events.out.tfevents.1795469163.vm"
    newest.parent.mkdir(parents=True)
    newest.write_bytes(b"")
    lost = RowRuns(given[0].row, {0: given[0].runs[0]}, (0, 1, 2))
    (written,) = write_seed_aggregates([lost, *given[1:]], tmp_path, synthetic=False)
    assert written.name == "events.out.tfevents.1795469163.seeds"
    assert files(tmp_path) == sorted([written, own])
    assert {path.name for path in (tmp_path / "seeds").iterdir() if path.is_dir()} == {
        own.parent.name,
        written.parent.name,
    }
    assert len(layouts(tmp_path / "seeds")) == 1


def test_another_grid_s_aggregates_stay_and_there_is_still_one_category_a_script(tmp_path):
    given = results(tmp_path)
    cnn, gru = write_seed_aggregates(given, tmp_path, synthetic=False)
    assert write_seed_aggregates([given[1]], tmp_path, synthetic=False) == [gru]
    (lstm,) = write_seed_aggregates([row_runs(cell_row("lstm"), (0, 1), tmp_path)], tmp_path, synthetic=False)
    assert files(tmp_path) == sorted([cnn, gru, lstm])
    titles = {category.title for layout in layouts(tmp_path / "seeds") for category in layout.category}
    assert titles == {"cnn_cifar10", "rnn_mnist"}  # by which TensorBoard merges them
    drawn = row_runs(cell_row("gru"), (0, 1), tmp_path, data="synthetic")
    (synthetic,) = write_seed_aggregates([drawn], tmp_path, synthetic=True)
    assert synthetic.parent.name == "gru-a-synthetic"
    assert files(tmp_path) == sorted([cnn, gru, lstm, synthetic])
    none = RowRuns(drawn.row, {}, (0, 1))
    assert write_seed_aggregates([none], tmp_path, synthetic=True) == []
    assert files(tmp_path) == sorted([cnn, gru, lstm])
    lost = RowRuns(given[0].row, {}, (0, 1))
    assert write_seed_aggregates([lost], tmp_path, synthetic=False) == []
    assert files(tmp_path) == sorted([gru, lstm])


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "seeds").rglob("*") if path.is_file())


def test_an_aggregate_is_not_taken_for_a_run(tmp_path):
    write_seed_aggregates(results(tmp_path), tmp_path, synthetic=False)
    assert {path.suffix for path in (tmp_path / "seeds").rglob("*") if path.is_file()} == {".seeds"}
    assert not list((tmp_path / "seeds").rglob("config.json"))
