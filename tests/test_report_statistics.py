"""The report's numbers against published tables, against NumPy, and against what was worked out by hand."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from report_grids import cell_row, cnn_row, row_runs, run, write_run
from scipy import stats

from harness.grid.runs import RowRuns
from harness.metrics import EpochMetrics
from harness.report import write_report
from harness.report.conclusions import (
    Comparison,
    by_chance,
    by_maker,
    compare,
    direction,
    named,
    repeats,
    same_bits,
)
from harness.report.results import (
    bests,
    distances,
    duration,
    in_order,
    lasts,
    learned,
    seconds_a_seed,
    setting,
    tried_settings,
    worst_drop,
)
from harness.report.statistics import (
    Sample,
    difference_of_shares,
    interval_width,
    number,
    prediction_interval,
    share_interval,
    span,
    weighted_sum,
)

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
    assert compare(RowRuns(row, runs, (0, 1)), "test_accuracy").verdict == "agrees"
    alone = compare(RowRuns(row, {0: runs[0]}, (0,)), "test_accuracy")
    assert (alone.verdict, alone.interval, alone.distance) == ("cannot tell", None, None)


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
    assert compare(row, "train_accuracy").verdict == ("agrees" if inside else "differs")


def test_differences_have_as_many_decimals_as_their_metrics_and_no_negative_zero():
    small, large = Sample((0.041, 0.041), metric="test_loss"), Sample((1.41, 1.41), metric="test_loss")
    assert str(weighted_sum([small, Sample((0.0414, 0.0414))], [1, -1])) == "−0.0004"
    difference = weighted_sum([large, Sample((1.4096, 1.4096))], [1, -1])
    assert (str(difference), difference.ends) == ("+0.000", "+0.000 … +0.000")
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
        for each in complete_runs(PROJECT / "report" / "runs" / "rnn_mnist")
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


def judged(printed: float, values: list[float], metric: str = "test_accuracy", loss: float = 0.5) -> Comparison:
    """The comparison of a printed value with runs that have these values of the metric."""
    row = cnn_row(printed={metric: printed})
    plain = EpochMetrics(1, loss, 0.5, loss, 0.5, 1.0)
    runs = {s: run(row, s, Path("runs"), epochs=[plain._replace(**{metric: each})]) for s, each in enumerate(values)}
    return compare(RowRuns(row, runs, tuple(runs)), metric)


@pytest.mark.parametrize(
    ("printed", "values", "verdict", "distance"),
    [
        (0.52, [0.50, 0.51, 0.52], "agrees", "+1.0"),  # 0.51 ± 4.97 · 0.01: 0.0994 wide
        (0.57, [0.50, 0.51, 0.52], "differs", "+6.0"),
        (0.52, [0.49, 0.51, 0.53], "cannot tell", "+0.5"),  # twice as wide
        (0.80, [0.49, 0.51, 0.53], "differs", "+14.5"),  # a wide interval can still say no
        (0.97, [0.93, 0.96, 0.99], "cannot tell", "+0.3"),  # 0.96 ± 0.149, cut off at 1: 0.189
        (0.99, [0.97, 0.98, 0.99], "agrees", "+1.0"),  # 0.98 ± 0.0497, cut off at 1: 0.0697
    ],
)
def test_an_interval_wider_than_a_tenth_of_the_range_agrees_with_nothing(printed, values, verdict, distance):
    found = judged(printed, values)
    assert (found.verdict, found.distance) == (verdict, distance)
    assert found.mark == {"agrees": "✓", "differs": "✗", "cannot tell": "?"}[verdict]


@pytest.mark.parametrize(("step", "verdict"), [(0.023, "agrees"), (0.024, "cannot tell")])
def test_a_loss_ranges_from_zero_to_that_of_guessing(step, verdict):
    """A tenth of ln(10) is 0.2303, which is the width of the interval of values 0.02317 apart."""
    assert judged(1.0, [1 - step, 1, 1 + step], "test_loss").verdict == verdict


def test_where_some_seeds_learn_and_others_do_not_the_range_of_ours_judges():
    """Losses that learn are below 0.9 · ln(10) = 2.072."""
    row = cnn_row(printed={"test_accuracy": 0.6})
    values = ((0.59, 1.1), (0.6, 1.2), (0.61, 1.0), (0.55, 2.073))
    runs = {
        seed: run(row, seed, Path("runs"), epochs=[EpochMetrics(1, loss, 0.5, loss, accuracy, 1.0)])
        for seed, (accuracy, loss) in enumerate(values)
    }
    results = RowRuns(row, runs, tuple(runs))
    assert learned(results) == (3, 4)
    found = compare(results, "test_accuracy")
    assert (found.extent, found.verdict) == ((0.55, 0.61), "agrees")
    for printed, verdict in ((0.62, "cannot tell"), (0.8, "differs")):  # the interval reaches from 0.49 to 0.68
        other = dataclasses.replace(row, printed={"test_accuracy": printed})
        assert compare(RowRuns(other, runs, tuple(runs)), "test_accuracy").verdict == verdict
    runs[3] = dataclasses.replace(runs[3], status="diverged")
    assert learned(results) == (3, 4) and compare(results, "test_accuracy").extent == (0.59, 0.61)


def test_ten_values_that_are_plainly_not_normal_are_judged_by_their_range():
    normal = [0.5 + 0.01 * z for z in (-1.5, -1, -0.7, -0.4, -0.1, 0.1, 0.4, 0.7, 1, 1.5)]
    skewed = [0.60, 0.60, 0.601, 0.601, 0.602, 0.602, 0.603, 0.603, 0.604, 0.52]
    assert stats.shapiro(normal).pvalue > 0.01 > stats.shapiro(skewed).pvalue
    assert judged(0.5, normal).extent is None
    assert (judged(0.53, skewed).extent, judged(0.53, skewed).verdict) == ((0.52, 0.604), "agrees")
    assert judged(0.62, skewed).verdict == "cannot tell"  # in the interval, where none of ours was
    assert judged(0.6, skewed[3:]).extent is None  # seven values cannot show it


def test_the_direction_of_differences_has_the_sign_tests_p():
    """10 of 11: twice (11 + 1) / 2¹¹ = 0.01172."""
    rows = [cnn_row(f"r{n}", printed={"test_accuracy": 1.0 if n else 0.1}) for n in range(11)]
    higher, count, p = direction([row_runs(row, (0, 1), Path("runs")) for row in rows])
    assert (higher, count, p) == (10, 11, pytest.approx(24 / 2048))
    assert direction([row_runs(cnn_row(), (0,), Path("runs"))]) is None
    assert by_chance(72) == "3 to 4"


def test_numbers_as_text():
    assert str(Sample((0.5,), metric="test_accuracy")) == "0.5000"
    assert str(Sample((0.5, 0.7), metric="test_accuracy")) == "0.6000 ± 0.1414"
    assert str(Sample((0.04, 0.05), metric="test_loss")) == "0.0450 ± 0.0071"
    assert str(Sample((1.04, 1.05), metric="test_loss")) == "1.045 ± 0.007"
    assert str(Sample((0.99340, 0.99342), metric="test_accuracy")) == "0.9934 ± 0.00001"
    assert (number(None, 4), span(None, 4), number(math.nan, 1)) == ("–", "–", "–")


def test_an_interval_ends_where_no_metric_can_lie():
    assert judged(0.5, [0.1, 0.9]).ends == "0.0000 … 1.0000"
    assert judged(0.5, [0.5, 1.9], "test_loss").ends == "0.000 … 16.605"  # 1.2 + 12.706 · 0.98995 · √1.5


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


# -- stability, power, and what made the runs --------------------------------------------------------------------------


def test_a_detectable_difference_is_shown_four_times_in_five():
    """2000 draws of ten seeds, moved by what is called detectable of a spread of 1 (standard error of 80 %: 0.9 %)."""
    seeds, draws = tuple(range(10)), np.random.default_rng(0).normal(size=(2000, 10))
    nothing = Sample((0.0,) * 10, seeds)
    drawn = Sample(tuple(draws[0].tolist()), seeds)
    size = weighted_sum([drawn, nothing], [1, -1]).detectable / drawn.sd
    moved = [Sample(tuple(values.tolist()), seeds) for values in draws + size]
    shown = np.mean([weighted_sum([each, nothing], [1, -1]).sign > 0 for each in moved])
    assert shown == pytest.approx(0.8, abs=0.03)
    assert weighted_sum([Sample((1.0,)), Sample((2.0,))], [1, -1]).detectable is None


def test_differences_of_shares_are_newcombes():
    """Newcombe (1998), his method 10, table II: 56/70 less 48/80, 9/10 less 3/10 and 5/56 less 0/29."""
    published = {
        ((56, 70), (48, 80)): (0.0524, 0.3339),
        ((9, 10), (3, 10)): (0.1705, 0.8090),
        ((5, 56), (0, 29)): (-0.0381, 0.1926),
    }
    for shares, interval in published.items():
        assert difference_of_shares(*shares).interval == pytest.approx(interval, abs=5e-5)
    assert share_interval(0, 10) == (0, pytest.approx(1 - 0.025 ** (1 / 10)))  # in closed form


def test_a_detectable_share_is_told_four_times_in_five():
    """From none of 40: five failures are the fewest that are told; with a share of 0.16 there are so many, 4 in 5."""
    found = difference_of_shares((0, 40), (0, 40))
    assert difference_of_shares((5, 40), (0, 40)).sign == 1 and difference_of_shares((4, 40), (0, 40)).sign == 0
    assert stats.binom.sf(4, 40, found.detectable) == pytest.approx(0.8)


def test_spread_is_the_mean_distance_from_the_median():
    """As SciPy's Brown-Forsythe test has it: of two rows its F is Student's t of the distances, squared."""
    values = {"rnn": (0.5, 0.6, 0.9, 0.7), "lstm": (0.81, 0.80, 0.82, 0.85)}
    rows = []
    for cell, accuracies in values.items():
        runs = {
            seed: run(cell_row(cell), seed, Path("runs"), epochs=[EpochMetrics(1, 0.5, 0.5, 0.5, accuracy, 1.0)])
            for seed, accuracy in enumerate(accuracies)
        }
        rows.append(RowRuns(cell_row(cell), runs, tuple(runs)))
    samples = [distances(row) for row in rows]
    assert samples[0].values == pytest.approx((0.15, 0.05, 0.25, 0.05)) and samples[0].seeds == (0, 1, 2, 3)
    f = stats.levene(*values.values(), center="median").statistic
    t = stats.ttest_ind(samples[0].values, samples[1].values).statistic
    assert t**2 == pytest.approx(f)
    two = distances(dataclasses.replace(rows[0], runs={seed: rows[0].runs[seed] for seed in (0, 1)}))
    assert two.values == pytest.approx((0.05,)) and weighted_sum([two, two], [1, -1]).interval is None


def test_a_seeds_time_is_that_of_the_rows_own_runs():
    """Rows of 2 · 3600 and of 1800 seconds a run, the second by the mean of two."""
    slow, quick = ([EpochMetrics(n, 0.5, 0.5, 0.5, 0.5, seconds) for n in (1, 2)] for seconds in (3600.0, 900.0))
    rows = [row_runs(cnn_row("slow"), (0,), Path("runs"), epochs=slow)]
    rows.append(row_runs(cnn_row("quick"), (0, 1), Path("runs"), epochs=quick))
    assert seconds_a_seed(rows) == pytest.approx(9000)
    assert (duration(9000), duration(3596), duration(3597)) == ("2.5 hours", "59.9 minutes", "1.0 hours")


def test_an_interval_width_is_that_of_the_interval():
    sample = Sample((1.0, 2.0, 4.0, 3.0))
    low, high = prediction_interval(sample)
    assert interval_width(4) * sample.sd == pytest.approx(high - low)
    assert interval_width(4, of_mean=True) / 2 == pytest.approx(stats.t.ppf(0.975, 3) / 2)


def test_runs_by_what_made_them_and_those_made_twice(tmp_path):
    row, other = cnn_row("a"), cnn_row("b", flags={"optimizer": "adam", "lr": 0.01})
    rows = [row_runs(row, (0, 1, 2), tmp_path), row_runs(other, (0, 1), tmp_path)]
    rows[0].runs[1].config["torch"] = "1.0"
    rows[1].runs[1].config["torch"] = "1.0"
    complete = [each for row in rows for each in row.complete]
    found = {maker: named(rows, runs) for maker, runs in by_maker(complete).items()}
    commit = "commit unknown, PyTorch"
    assert found == {f"{commit} 2.0": "seeds 0 and 2 of a; seed 0 of b", f"{commit} 1.0": "seed 1 of all 2 rows"}
    assert repeats(rows) == []
    for each in complete:
        write_run(each)
    twin = rows[0].runs[1]
    again = dataclasses.replace(twin, path=twin.path.with_name("again"))
    write_run(again)
    ((of_row, kept, repeated),) = repeats(rows)
    assert (of_row, kept, repeated.path) == (rows[0], twin, again.path)
    assert same_bits(kept, repeated) and not same_bits(kept, rows[0].runs[0])


def test_a_run_that_was_made_twice_is_shown_beside_itself(tmp_path, monkeypatch):
    """With the same numbers, and with 0.1 more accuracy of a row whose runs are 0.2 apart: 0.7 of its sd, 0.1414."""
    row = cnn_row("a", flags={"optimizer": "adam", "lr": 0.001, "epochs": 1})
    epochs = [[EpochMetrics(1, 0.5, 0.5, 0.5, accuracy, 1.0)] for accuracy in (0.5, 0.7)]
    of_row = RowRuns(row, {s: run(row, s, tmp_path / "runs", epochs=own) for s, own in enumerate(epochs)}, (0, 1))
    for seed, shift in ((0, 0.0), (1, 0.1)):
        write_run(of_row.runs[seed])
        again = [epoch._replace(test_accuracy=epoch.test_accuracy + shift, seconds=9.0) for epoch in epochs[seed]]
        path = of_row.runs[seed].path.with_name(f"a-s{seed}-again")
        write_run(dataclasses.replace(of_row.runs[seed], path=path, history=again))
    monkeypatch.setattr("harness.report.charts.svg", lambda _: b"<svg/>")
    options = {
        "problems": [],
        "grid": Path("g.toml"),
        "precision": "fp32",
        "data": "real",
        "command": "python report.py",
    }
    write_report([of_row], out=tmp_path / "report", count_parameters=lambda _: 1, **options)
    text = (tmp_path / "report" / "README.md").read_text(encoding="utf-8")
    makers = "commit unknown, PyTorch 2.0 | commit unknown, PyTorch 2.0"
    assert f"| a, seed 0 | 0.5000 | 0.5000 | same bits | {makers} |" in text
    assert f"| a, seed 1 | 0.7000 | 0.8000 | +0.7 | {makers} |" in text
    assert "- **commit unknown, PyTorch 2.0**, 2 runs: seeds 0 and 1 of a\n" in text


def test_a_flags_values_of_several_kinds_have_an_order() -> None:
    values = ["shift:2", False, None, 0.5, "alternate", True]
    assert sorted(values, key=in_order) == [None, False, 0.5, True, "alternate", "shift:2"]
