"""The report's statistics against published tables, against NumPy, and against numbers worked out by hand."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from report_grids import cell_row, cnn_row, row_runs, run

from harness.grid.runs import RowRuns
from harness.metrics import EpochMetrics
from harness.report.conclusions import stability
from harness.report.names import Names
from harness.report.results import bests, compare, interval_of, interval_text, lasts, signed, spread, worst_drop
from harness.report.statistics import Estimate, Sample, prediction_interval, t_quantile, t_upper_tail, weighted_sum

PROJECT = Path(__file__).resolve().parent.parent

# Upper quantiles of Student's t as any textbook prints them (for example NIST/SEMATECH e-Handbook, section 1.3.6.7.2).
PUBLISHED = [
    (0.975, 1, 12.706),
    (0.975, 2, 4.303),
    (0.975, 3, 3.182),
    (0.975, 4, 2.776),
    (0.975, 9, 2.262),
    (0.975, 30, 2.042),
    (0.975, 100, 1.984),
    (0.95, 2, 2.920),
    (0.95, 7, 1.895),
    (0.99, 5, 3.365),
    (0.995, 1, 63.657),
    (0.999, 2, 22.327),
    (0.999, 40, 3.307),
]


@pytest.mark.parametrize(("probability", "degrees", "published"), PUBLISHED)
def test_t_quantiles_are_those_of_the_published_table(probability, degrees, published):
    assert t_quantile(probability, degrees) == pytest.approx(published, abs=6e-4)


def test_t_quantile_in_closed_form_for_one_and_two_degrees_of_freedom():
    """Cauchy: cot(π(1 - p)); for two degrees: 2(p - ½)·√(2 / (4p(1 - p)))."""
    for p in (0.6, 0.9, 0.975, 0.9999, 0.99999999):
        assert t_quantile(p, 1) == pytest.approx(1 / math.tan(math.pi * (1 - p)), rel=1e-9)
        assert t_quantile(p, 2) == pytest.approx((2 * p - 1) * math.sqrt(1 / (2 * p * (1 - p))), rel=1e-9)


def test_t_quantile_is_odd_tends_to_the_normal_and_takes_fractions_of_a_degree():
    assert t_quantile(0.025, 2) == -t_quantile(0.975, 2)
    assert t_quantile(0.5, 3) == 0
    assert t_quantile(0.975, 1e6) == pytest.approx(1.959966, abs=1e-5)
    assert t_quantile(0.975, 3) < t_quantile(0.975, 2.5) < t_quantile(0.975, 2)
    for probability, degrees in ((0, 2), (1, 2), (0.9, 0), (0.9, math.inf)):
        with pytest.raises(ValueError, match="no t quantile"):
            t_quantile(probability, degrees)


def test_upper_tail_is_the_integral_of_the_density():
    for degrees in (1, 2.5, 7):
        constant = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
        t = np.linspace(0, 1.7, 20_001)
        density = constant * (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
        below = (density[:-1] + density[1:]).sum() / 2 * 1.7 / 20_000
        assert t_upper_tail(1.7, degrees) == pytest.approx(0.5 - below, abs=1e-8)


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
    reach = t_quantile(0.975, (13 / 3) ** 2 / (1 / 18 + 16)) * math.sqrt(13 / 3)
    assert difference.value == -2
    assert difference.interval == (pytest.approx(-2 - reach), pytest.approx(-2 + reach))
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
def test_printed_figure_is_inside_if_a_number_that_rounds_to_it_is(monkeypatch, printed, inside):
    """The interval begins at 0.993223; 0.9932 stands for what lies between 0.99315 and 0.99325."""
    monkeypatch.setattr("harness.report.results.prediction_interval", lambda _: (0.993223, 0.9935))
    row = row_runs(cnn_row(printed={"train_accuracy": printed}), (0, 1), Path("runs"))
    assert compare(row, "train_accuracy").inside is inside


def test_differences_have_as_many_decimals_as_their_figures_and_no_negative_zero():
    assert signed(-0.00041, "test_loss", 0.041) == "−0.00041"
    assert signed(0.00041, "test_loss", 0.41) == "+0.0004"
    assert signed(-1e-6, "test_accuracy", 0.9) == "+0.0000"
    assert interval_of(Estimate(0.0, (-0.012, 0.03)), "test_accuracy", 0.9) == "−0.0120 … +0.0300"


def test_absurdly_large_figures_stay_short():
    assert spread(Sample((1e30, 3e30)), "test_loss") == "2e+30 ± 1.414e+30"
    assert spread(Sample((1.0, 3e9)), "test_loss") == "1.5e+09 ± 2.121e+09"
    assert interval_text((-1.0, 2.5e9), "test_loss") == "0 … 2.5e+09"


def test_figures_of_the_committed_runs_are_numpys():
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
    assert bests(row, "test_loss").mean == pytest.approx(losses.mean(), rel=1e-12)
    assert bests(row, "test_loss").sd == pytest.approx(losses.std(ddof=1), rel=1e-9)
    assert lasts(row, "test_accuracy").mean == pytest.approx(accuracies.mean(), rel=1e-12)
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
    assert compare(results, "train_accuracy") is None
    one = RowRuns(row, {0: runs[0]}, (0,))
    assert compare(one, "test_accuracy").verdict == "ours − original: −0.3000"


def test_numbers_as_text():
    assert spread(Sample((0.5,)), "test_accuracy") == "0.5000"
    assert spread(Sample((0.5, 0.7)), "test_accuracy") == "0.6000 ± 0.1414"
    assert spread(Sample((0.04, 0.05)), "test_loss") == "0.04500 ± 0.00707"
    assert spread(Sample((0.99340, 0.99342)), "test_accuracy") == "0.9934 ± 0.00001"
    assert spread(None, "test_loss") == "–"
    assert interval_text((-0.2, 1.3), "test_accuracy") == "0.00000 … 1.00000"
    assert interval_text((1.02, 1.3), "test_loss") == "1.02000 … 1.30000"


@pytest.mark.parametrize(("rough", "verdict"), [("rnn", "it holds"), ("lstm", "it is contradicted")])
def test_stability_follows_the_numbers_whichever_way_they_go(rough, verdict):
    """One cell falls by 0.3 in the middle of each run, the other by 0.01."""
    results = []
    for cell in ("rnn", "lstm"):
        drop = 0.3 if cell == rough else 0.01
        runs = {}
        for seed in range(3):
            accuracies = (0.9, 0.9 - drop - seed / 1000, 0.91)
            epochs = [EpochMetrics(i, 0.3, 0.9, 0.3, each, 1.0) for i, each in enumerate(accuracies, 1)]
            runs[seed] = run(cell_row(cell), seed, Path("runs"), epochs=epochs)
        results.append(RowRuns(cell_row(cell), runs, (0, 1, 2)))
    text = str(stability(results, Names(results, synthetic=False)))
    smooth = {"rnn": "LSTM", "lstm": "RNN"}[rough]
    assert f"{smooth} is the most stable and {rough.upper()} the least" in text
    assert f"for LSTM {verdict}" in text
    assert f"{rough.upper()} − {smooth}: +0.2900" in text  # 0.301 - 0.011
    assert "cannot tell that from chance" not in text

    results[0].runs[2] = dataclasses.replace(results[0].runs[2], status="diverged")
    text = str(stability(results, Names(results, synthetic=False)))
    assert "No cell is called the most stable" in text and "1 of 3 runs of RNN" in text
    assert "The original says" not in text and "is the most stable and" not in text
    results[0].runs[2] = dataclasses.replace(results[0].runs[2], status="complete")

    without_drops = RowRuns(cell_row("gru"), {}, (0, 1))
    assert "gru-a" not in str(stability([*results, without_drops], Names(results, synthetic=False)))
    lost = row_runs(cell_row("rnn", "rnn-lost", flags=cell_row("rnn").flags | {"lr": 0.1}), (0, 1), Path("runs"))
    lost.runs.update({seed: dataclasses.replace(each, status="diverged") for seed, each in lost.runs.items()})
    text = str(stability([*results, lost], Names([*results, lost], synthetic=False)))
    assert "No cell is called the most stable" in text and "2 of 5 runs of RNN" in text and "rnn-lost" in text


def test_stability_that_chance_explains_is_called_that():
    """The cells' drops, seed by seed: RNN 0.01, 0.05, 0.03, LSTM 0.03, 0.02, 0.01; they differ by 0.01 ± 0.06."""
    results = []
    for cell, drops in (("rnn", (0.01, 0.05, 0.03)), ("lstm", (0.03, 0.02, 0.01))):
        runs = {}
        for seed, drop in enumerate(drops):
            epochs = [EpochMetrics(i, 0.3, 0.9, 0.3, each, 1.0) for i, each in enumerate((0.9, 0.9 - drop), 1)]
            runs[seed] = run(cell_row(cell), seed, Path("runs"), epochs=epochs)
        results.append(RowRuns(cell_row(cell), runs, (0, 1, 2)))
    text = str(stability(results, Names(results, synthetic=False)))
    assert "LSTM is the most stable and RNN the least" in text and "these seeds cannot tell that from chance" in text
    assert "for LSTM it is neither confirmed nor refuted (our means point its way)" in text
    assert "RNN − LSTM: +0.0100" in text and "not to be told from chance with these seeds" in text


def test_one_seed_gives_no_interval_and_no_verdict_on_stability():
    results = [row_runs(cell_row(cell), (0,), Path("runs")) for cell in ("rnn", "gru")]
    text = str(stability(results, Names(results, synthetic=False)))
    assert "a single seed gives no interval" in text
    assert "our runs, too few for an interval" in text
