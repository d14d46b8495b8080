"""The verdicts of the committed report, worked out a second time from metrics.csv, by NumPy and SciPy alone."""

import csv
import itertools
import math
import re
import tomllib
from collections import Counter

import numpy as np
import pytest
from conftest import PROJECT
from scipy import stats

from harness.grid.rows import load_grid
from harness.grid.runs import find_runs
from models import build_model

CELLS = ("rnn", "lstm", "gru")
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
GUESSING = math.log(10)  # the loss of a network that gives each of ten classes the same probability


def test_verdicts_of_the_committed_report_are_those_of_its_metrics() -> None:
    readme = (PROJECT / "report" / "README.md").read_text(encoding="utf-8")
    grid = tomllib.loads((PROJECT / "experiments.toml").read_text(encoding="utf-8"))
    printed = {row["name"]: row.get("printed", {}) for row in grid["row"]}
    sections = dict(re.findall(r'<summary><a id="row-([^"]+)"></a>(.*?)</details>', readme, re.DOTALL))
    assert sections.keys() == printed.keys()
    found, above = Counter(), []
    for name, best in bests_by_row(sections).items():
        learns = best["test_loss"] <= 0.9 * GUESSING
        for metric, original in printed[name].items():
            verdict = verdict_of(original, best[metric], metric, learns)
            (line,) = table_lines(sections[name], metric)
            assert f"| {verdict} |" in line, (name, metric)
            found[verdict] += 1
            if metric == "test_accuracy" and name.startswith(("rnn", "lstm", "gru")):
                above.append(original > best[metric].mean())
    assert sum(found.values()) == 72
    assert (
        f"**Of 72 printed values**: ✓ {found['✓ agrees']} agree, ✗ {found['✗ differs']} differ, "
        f"? {found['? cannot tell']} where our runs cannot tell."
    ) in readme
    share = f"{sum(above)} of {len(above)} rows of RNN with MNIST"
    p = min(1, 2 * stats.binom.sf(max(sum(above), len(above) - sum(above)) - 1, len(above), 0.5))
    assert re.search(rf"{share} \(p = {p:.2g}, more than chance\)", readme)


def table_lines(section: str, metric: str) -> list[str]:
    return re.findall(rf"^\| {metric.replace('_', ' ')} .*$", section, re.MULTILINE)


def test_stability_of_the_committed_report_is_that_of_its_metrics() -> None:
    """Each cell against each, by the mean over its four settings of the worst drop, seed by seed."""
    readme = (PROJECT / "report" / "README.md").read_text(encoding="utf-8")
    settings, drops = ("adam-lr0.01", "adam-lr0.001", "adam-lr0.001-h64", "adagrad-lr0.01"), {}
    rows, _ = load_grid(PROJECT / "experiments.toml")
    runs = find_runs(rows, PROJECT / "report" / "runs", seeds=(), precision="auto", data=None)
    by_name = {row.row.name: row.complete for row in runs}
    if len({tuple(run.seed for run in by_name[f"{cell}-{each}"]) for cell in CELLS for each in settings}) > 1:
        pytest.skip("not all rows have the same seeds yet")
    for cell in CELLS:
        accuracies = [
            [[e.test_accuracy for e in run.history] for run in by_name[f"{cell}-{each}"]] for each in settings
        ]
        drops[cell] = np.maximum(-np.diff(accuracies, axis=2).min(axis=2), 0).mean(axis=0)  # one a seed
    for other, cell in itertools.combinations(CELLS, 2):
        values = drops[cell] - drops[other]
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        answer = "yes" if high < 0 else "no" if low > 0 else "cannot tell"
        power = stats.t.ppf(0.975, len(values) - 1)
        found = re.search(
            rf"{cell.upper()} − {other.upper()} \| worst drop \| {answer} \| (.*?) \|$", readme, re.MULTILINE
        )
        numbers = [float(text.replace("−", "-")) for text in re.findall(r"[−+]?\d\.\d+", found[1])]
        *estimate, shown = numbers
        assert estimate == pytest.approx([values.mean(), low, high], abs=6e-5)
        noncentrality = shown / stats.sem(values)
        assert stats.nct.sf(power, len(values) - 1, noncentrality) == pytest.approx(0.8, abs=0.002)


def bests_by_row(sections: dict[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """The best value of each metric, one a run, of the seeds that each row's section names."""
    rows, _ = load_grid(PROJECT / "experiments.toml")
    runs = find_runs(
        rows, PROJECT / "report" / "runs", seeds=range(100), precision="auto", data=None, build_model=build_model
    )
    found = {}
    for row in runs:
        named = re.search(r"complete runs? \(seeds? ([^)]*)\)", sections[row.row.name])[1]
        columns = []
        for seed in map(int, re.findall(r"\d+", named)):
            with (row.runs[seed].path / "metrics.csv").open(newline="") as file:
                lines = list(csv.DictReader(file))
            columns.append({m: np.array([float(line[m.replace("_", "/")]) for line in lines]) for m in METRICS})
        found[row.row.name] = {
            metric: np.array([each[metric].max() if "accuracy" in metric else each[metric].min() for each in columns])
            for metric in METRICS
        }
    return found


def verdict_of(original: float, values: np.ndarray, metric: str, learns: np.ndarray) -> str:
    """As "Method and provenance" of the report says it."""
    if len(values) == 1:
        return "? cannot tell"
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / len(values))
    interval = max(values.mean() - reach, 0), min(values.mean() + reach, 1 if "accuracy" in metric else math.inf)
    skewed = len(values) >= 8 and np.ptp(values) and stats.shapiro(values).pvalue < 0.01
    mixed = 0 < learns.sum() < len(learns)
    low, high = (values.min(), values.max()) if skewed or mixed else interval
    rounding = 0.5 * 10.0 ** (math.floor(math.log10(original)) - 3)  # four digits that count
    if low - rounding <= original <= high + rounding:
        widest = 0.1 if "accuracy" in metric else 0.1 * GUESSING
        return "✓ agrees" if high - low <= widest else "? cannot tell"
    between = interval[0] - rounding <= original <= interval[1] + rounding
    return "? cannot tell" if between else "✗ differs"
