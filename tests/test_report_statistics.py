"""The report's numbers against published tables, against NumPy, and against what was worked out by hand."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from report_grids import cell_row, cnn_row, row_runs, run
from scipy import stats

from harness.grid.runs import RowRuns
from harness.metrics import EpochMetrics
from harness.report.conclusions import compare
from harness.report.results import bests, lasts, setting, tried_settings, worst_drop
from harness.report.statistics import Sample, number, prediction_interval, span, weighted_sum

PROJECT = Path(__file__).resolve().parent.parent

# Upper quantiles (0.975) of Student's t as any textbook prints them (NIST/SEMATECH e-Handbook, section 1.3.6.7.2).
PUBLISHED = [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (100, 1.984)]


@pytest.mark.parametrize(("degrees", "published"), PUBLISHED)
def test_intervals_have_the_t_quantiles_of_the_published_table(degrees, published):
    """Of n values -1, …, 1 in equal steps: mean 0, and the interval's reach is t(n - 1) · s · √(1 + 1/n)."""
    values = tuple(np.linspace(-1, 1, degrees + 1).tolist())
    low, high = prediction_interval(Sample(values))
    assert high / np.std(values, ddof=1) / math.sqrt(1 + 1 / len(values)) == pytest.approx(published, abs=6e-4)
    assert low == pytest.approx(-high)


def test_prediction_interval_by_hand():
    """1, 2, 3: mean 2, s = 1, t(2) = 4.30265, √(1 + 1/3) = 1.1547: 2 ± 4.9683."""
    low, high = prediction_interval(Sample((1.0, 2.0, 3.0)))
    assert (low, high) == (pytest.approx(2 - 4.96827, abs=1e-4), pytest.approx(2 + 4.96827, abs=1e-4))


def test_without_spread_the_interval_is_a_point_and_one_seed_has_none():
    assert prediction_interval(Sample((0.1, 0.1, 0.1))) == (pytest.approx(0.1), pytest.approx(0.1))
    assert prediction_interval(Sample((0.1,))) is None
    row = cnn_row(printed={"test_accuracy": 0.5})
    same = [EpochMetrics(1, 2.0, 0.1, 2.0, 0.5, 1.0)]
    runs = {seed: run(row, seed, Path("runs"), epochs=same) for seed in (0, 1)}
    assert compare(RowRuns(row, runs, (0, 1)), "test_accuracy").inside is True
    alone = compare(RowRuns(row, {0: runs[0]}, (0,)), "test_accuracy")
    assert (alone.inside, alone.interval) == (None, None)


def test_prediction_interval_covers_as_often_as_it_says():
    """Of 4000 draws of 3 + 1 normal numbers about 95 % cover the fourth (standard error 0.35 %)."""
    numbers = np.random.default_rng(0).normal(size=(4000, 4))
    covered = 0
    for *seen, further in numbers.tolist():
        low, high = prediction_interval(Sample(tuple(seen)))
        covered += low <= further <= high
    assert covered / 4000 == pytest.approx(0.95, abs=0.014)


def test_difference_of_means_has_welchs_interval():
    """By hand for (1, 2, 3) and (2, 6): means 2 and 4, s²/n = 1/3 and 4; ν = (13/3)² / ((1/3)²/2 + 16/1) = 1.1695."""
    difference = weighted_sum([Sample((1.0, 2.0, 3.0)), Sample((2.0, 6.0))], [1, -1])
    reach = stats.t.ppf(0.975, (13 / 3) ** 2 / (1 / 18 + 16)) * math.sqrt(13 / 3)
    assert difference.value == -2
    assert difference.interval == (pytest.approx(-2 - reach), pytest.approx(-2 + reach))
    assert difference.interval == pytest.approx(
        tuple(stats.ttest_ind([1, 2, 3], [2, 6], equal_var=False).confidence_interval())
    )
    assert difference.sign == 0
    assert weighted_sum([Sample((5.0, 5.1)), Sample((1.0, 1.1))], [1, -1]).sign == 1
    assert weighted_sum([Sample((5.0,)), Sample((1.0, 1.1))], [1, -1]).interval is None
    assert weighted_sum([Sample((2.0, 2.0)), Sample((1.0, 1.0))], [1, -1]).interval == (1, 1)


def test_difference_of_runs_with_the_same_seeds_is_taken_seed_by_seed():
    """By hand: differences 1, 2 and 3 have mean 2, s = 1 and t(2) = 4.30265: 2 ± 2.48414, though the means scatter."""
    seeds = (0, 1, 2)
    difference = weighted_sum([Sample((11.0, 22.0, 33.0), seeds), Sample((10.0, 20.0, 30.0), seeds)], [1, -1])
    assert (difference.value, difference.paired, difference.sign) == (2, True, 0)
    assert difference.interval == (pytest.approx(2 - 2.48414, abs=1e-4), pytest.approx(2 + 2.48414, abs=1e-4))
    others = weighted_sum([Sample((11.0, 22.0, 33.0), seeds), Sample((10.0, 20.0, 30.0), (0, 1, 3))], [1, -1])
    assert not others.paired and others.interval[1] > 20
    alone = weighted_sum([Sample((11.0,), (0,)), Sample((10.0,), (0,))], [1, -1])
    assert (alone.value, alone.interval) == (1, None)


@pytest.mark.parametrize(
    ("printed", "inside"), [(0.9932, True), (0.9931, False), (0.993, False), (0.99317, False), (0.99322, True)]
)
def test_printed_metric_is_inside_if_a_number_that_rounds_to_it_is(monkeypatch, printed, inside):
    """The interval begins at 0.993223; 0.9932 stands for what lies between 0.99315 and 0.99325."""
    monkeypatch.setattr("harness.report.conclusions.prediction_interval", lambda _: (0.993223, 0.9935))
    row = row_runs(cnn_row(printed={"train_accuracy": printed}), (0, 1), Path("runs"))
    assert compare(row, "train_accuracy").inside is inside


def test_differences_have_as_many_decimals_as_their_metrics_and_no_negative_zero():
    small, large = Sample((0.041, 0.041), metric="test_loss"), Sample((0.41, 0.41), metric="test_loss")
    assert str(weighted_sum([small, Sample((0.04141, 0.04141))], [1, -1])) == "−0.00041"
    difference = weighted_sum([large, Sample((0.4096, 0.4096))], [1, -1])
    assert (str(difference), difference.ends) == ("+0.0004", "+0.0004 … +0.0004")
    assert number(-1e-6, 4, "+") == "+0.0000"
    assert span((-0.012, 0.03), 4, "+") == "−0.0120 … +0.0300"


def test_absurdly_large_metrics_stay_short():
    assert str(Sample((1e30, 3e30), metric="test_loss")) == "2e+30 ± 1.414e+30"
    assert str(Sample((1.0, 3e9), metric="test_loss")) == "1.5e+09 ± 2.121e+09"
    assert span((0.0, 2.5e9), 5) == "0.00000 … 2.5e+09"


def test_metrics_of_the_committed_runs_are_numpys():
    """Best and last of three seeds, mean and sample standard deviation, straight from metrics.csv."""
    from harness.grid.runs import complete_runs

    runs = {
        each.seed: each
        for each in complete_runs(PROJECT / "runs" / "rnn_mnist")
        if each.path.name.startswith("lstm-h128-adam-lr0.001-e10-s") and each.config["flags"]["precision"] == "fp32"
    }
    assert len(runs) >= 3
    row = RowRuns(cell_row("lstm"), runs, tuple(runs))
    columns = []
    for each in runs.values():
        with (each.path / "metrics.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        columns.append({name: [float(line[name]) for line in lines] for name in ("test/loss", "test/accuracy")})
    losses = np.array([min(each["test/loss"]) for each in columns])
    accuracies = np.array([each["test/accuracy"][-1] for each in columns])
    assert bests(row.complete, "test_loss").mean == pytest.approx(losses.mean(), rel=1e-12)
    assert bests(row.complete, "test_loss").sd == pytest.approx(losses.std(ddof=1), rel=1e-9)
    assert lasts(row.complete, "test_accuracy").mean == pytest.approx(accuracies.mean(), rel=1e-12)
    drops = [max(0, float(-np.diff(each["test/accuracy"]).min())) for each in columns]
    assert [worst_drop(each) for each in runs.values()] == pytest.approx(drops)


def test_a_verdict_says_on_which_side_the_original_lies():
    row = cnn_row(printed={"test_accuracy": 0.9, "test_loss": 0.1, "train_loss": 0.52})
    values = ((0.5, 0.6), (0.52, 0.61), (0.54, 0.62))
    runs = {
        seed: run(row, seed, Path("runs"), epochs=[EpochMetrics(1, loss, 0.5, loss, accuracy, 1.0)])
        for seed, (loss, accuracy) in enumerate(values)
    }
    results = RowRuns(row, runs, (0, 1, 2))
    assert compare(results, "test_accuracy").verdict == "outside: original higher"
    assert compare(results, "test_loss").verdict == "outside: original lower"
    assert compare(results, "train_loss").verdict == "inside"
    assert compare(results, "train_accuracy").verdict is None
    one = RowRuns(row, {0: runs[0]}, (0,))
    assert compare(one, "test_accuracy").verdict == "ours − original: −0.3000"


def test_numbers_as_text():
    assert str(Sample((0.5,), metric="test_accuracy")) == "0.5000"
    assert str(Sample((0.5, 0.7), metric="test_accuracy")) == "0.6000 ± 0.1414"
    assert str(Sample((0.04, 0.05), metric="test_loss")) == "0.04500 ± 0.00707"
    assert str(Sample((0.99340, 0.99342), metric="test_accuracy")) == "0.9934 ± 0.00001"
    assert (number(None, 4), span(None, 4), number(math.nan, 1)) == ("–", "–", "–")


def test_an_interval_ends_where_no_metric_can_lie_and_has_a_decimal_more():
    wide = {"train_accuracy": (0.1, 0.9), "test_loss": (0.5, 1.9)}
    epochs = [EpochMetrics(1, 1.0, accuracy, loss, 0.5, 1.0) for accuracy, loss in zip(*wide.values(), strict=True)]
    row = cnn_row()
    runs = {seed: run(row, seed, Path("runs"), epochs=[epoch]) for seed, epoch in enumerate(epochs)}
    results = RowRuns(row, runs, (0, 1))
    assert compare(results, "train_accuracy").ends == "0.00000 … 1.00000"
    assert compare(results, "train_loss").ends == "1.00000 … 1.00000"
    assert compare(results, "test_loss").ends.startswith("0.00000 … 16.6")  # 1.2 + 12.706 · 0.98995 · √1.5


def test_settings_are_those_of_the_runs_else_of_the_row_else_the_scripts_default():
    row = cell_row("lstm")
    made = row_runs(row, (0,), Path("runs"), epochs=[EpochMetrics(1, 0.5, 0.5, 0.5, 0.5, 1.0)])
    made.runs[0].config["flags"]["epochs"] = 3
    bare = RowRuns(cell_row("gru", flags={"cell": "gru", "lr": 0.01}), {}, (0,))
    assert [setting(each, "epochs") for each in (made, bare)] == [3, 10]
    assert [setting(each, "cell") for each in (made, bare)] == ["lstm", "gru"]
    assert tried_settings([made, bare]) == [
        ["<parameter", "value 1", "value 2"],
        ["learning rate", "0.001", "0.01"],
        ["epochs", "3", "10"],
        ["hidden size", "128", ""],
        ["optimizer", "Adam", ""],
    ]
