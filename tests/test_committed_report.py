"""The report that is in the repository is what report.py writes from the runs in it: words, numbers and charts."""

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

import report

GIT = shutil.which("git")
SVG = re.compile(r'data:image/svg[^"]*')
PIXELS = 1.0  # by which Matplotlib's versions may differ in where they draw a shape: 3.9 and 3.11 do by 0.5 at most


@pytest.fixture
def repository(in_project: Path) -> Path:
    """A folder with what git has staged or committed, without what someone trained here or wrote since."""
    if not GIT or not (PROJECT / ".git").exists():
        pytest.skip("not in a git checkout, so committed runs cannot be told from others")
    parts = ("runs", "report", "docs", "experiments.toml")
    listed = subprocess.run([GIT, "ls-files", "-z", *parts], cwd=PROJECT, check=True, capture_output=True)
    command = [GIT, "checkout-index", "-z", "--stdin", f"--prefix={in_project.as_posix()}/"]
    subprocess.run(command, cwd=PROJECT, check=True, input=listed.stdout)
    return in_project


def test_committed_report_is_what_the_committed_runs_give(
    repository: Path, run_main: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the words were changed on purpose: python report.py --no-train --seeds 3, and git add report."""
    committed = {
        name: (repository / "report" / name).read_text(encoding="utf-8") for name in ("README.md", "index.html")
    }
    seeds = {file: file.read_bytes() for file in (repository / "runs" / "seeds").rglob("*") if file.is_file()}
    shutil.rmtree(repository / "runs" / "seeds")
    monkeypatch.setattr(report, "PROJECT", repository)
    monkeypatch.setattr("harness.report._SETTINGS_PAGE", repository / "docs" / "original-settings.md")
    monkeypatch.setattr("sys.argv", ["report.py"])
    committed_charts = {file: drawn(file) for file in repository.glob("report/figures/*.svg")}
    shutil.rmtree(repository / "report" / "figures")

    code, out, err = run_main("report", "--no-train", "--seeds", "3")

    assert (code, err) == (0, "") and "all 57 runs are complete" in out
    written = {name: (repository / "report" / name).read_text(encoding="utf-8") for name in committed}
    assert written["README.md"].splitlines() == committed["README.md"].splitlines()
    assert SVG.sub("", written["index.html"]) == SVG.sub("", committed["index.html"])
    assert seeds and {file: file.read_bytes() for file in seeds} == seeds
    assert len(committed_charts) > 20 and {*repository.glob("report/figures/*.svg")} == committed_charts.keys()
    for file, (texts, looks, places) in committed_charts.items():
        assert drawn(file) == (texts, looks, pytest.approx(places, abs=PIXELS)), file.name


def drawn(file: Path) -> tuple[list[str], list[str | None], list[float]]:
    """What a chart says, the looks of the shapes in it, and where these are."""
    picture = ElementTree.parse(file)
    shapes = [each for each in picture.iter() if each.tag.rpartition("}")[2] in ("path", "use")]
    where = " ".join(each.get(name, "") for each in shapes for name in ("d", "x", "y", "transform"))
    texts = [each.text for each in picture.iter() if each.tag.endswith("}text")]
    return texts, [each.get("class") for each in shapes], [float(each) for each in re.findall(r"-?\d+\.?\d*", where)]
