"""The reports in the repository are what report.py writes from the runs in it: words, numbers and pictures."""

import io
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import PROJECT
from PIL import Image

import report

GIT = shutil.which("git")
PICTURE = re.compile(r'(?<="data:image)/[^"]*|(?<=<svg).*?</svg>')  # in the page
PAPER = ["--grid", "paper.toml", "--no-train", "--seeds", "3"]
RECIPES = ["--grid", "recipes.toml", "--no-train", "--precision", "bf16"]
PIXELS = 1.0  # by which Matplotlib's versions may differ in where they draw a shape: 3.9 and 3.11 do by 0.5 at most


@pytest.fixture
def repository(in_project: Path) -> Path:
    """A folder with what git has staged or committed, without what someone trained here or wrote since."""
    if not GIT or not (PROJECT / ".git").exists():
        pytest.skip("not in a git checkout, so committed runs cannot be told from others")
    parts = ("report", "docs", "experiments.toml", "recipes.toml", "paper.toml")
    listed = subprocess.run([GIT, "ls-files", "-z", *parts], cwd=PROJECT, capture_output=True)
    if listed.returncode or not listed.stdout:
        pytest.skip(f"git does not tell what is committed: {listed.stderr.decode(errors='replace').strip()}")
    command = [GIT, "checkout-index", "-z", "--stdin", f"--prefix={in_project.as_posix()}/"]
    subprocess.run(command, cwd=PROJECT, check=True, input=listed.stdout)
    return in_project


@pytest.mark.parametrize(
    ("where", "flags", "charts"),
    [("report", ["--no-train", "--seeds", "10"], 30), ("report/recipes", RECIPES, 5), ("report/paper", PAPER, 5)],
    ids=["the original's grid", "recipes", "the paper's"],
)
def test_committed_report_is_what_the_committed_runs_give(
    repository: Path, run_main: Callable, monkeypatch: pytest.MonkeyPatch, where: str, flags: list[str], charts: int
) -> None:
    """If the words were changed on purpose: `make report`, and git add report."""
    folder, of_seeds = repository / where, repository / where / "runs" / "seeds"
    readme, page, files = contents_of(folder)
    seeds = {file: file.read_bytes() for file in of_seeds.rglob("*") if file.is_file()}
    shutil.rmtree(folder / "figures")
    shutil.rmtree(of_seeds)
    monkeypatch.setattr(report, "PROJECT", repository)
    monkeypatch.setattr("harness.report.render.SETTINGS_PAGE", repository / "docs" / "original-settings.md")
    monkeypatch.setattr("sys.argv", ["report.py"])

    code, _, err = run_main("report", *flags, "--runs-dir", f"{where}/runs", "--out", where)

    assert (code, err) == (0, "")
    new_readme, new_page, new_files = contents_of(folder)
    assert new_readme == readme
    assert PICTURE.sub("", new_page) == PICTURE.sub("", page)
    assert new_files.keys() == files.keys() and len(files) > charts
    for name, content in files.items():
        assert_same_picture(new_files[name], content, name)
    assert page.count("<svg") > charts
    assert seeds and {file: file.read_bytes() for file in seeds} == seeds


def contents_of(folder: Path) -> tuple[list[str], str, dict[str, bytes]]:
    """A report's README.md by lines, its page, and its pictures by name."""
    readme, page = ((folder / name).read_text(encoding="utf-8") for name in ("README.md", "index.html"))
    return readme.splitlines(), page, {file.name: file.read_bytes() for file in (folder / "figures").iterdir()}


def assert_same_picture(new: bytes, old: bytes, name: str) -> None:
    """The same pixels of a PNG, however they are packed; the same words and shapes of an SVG."""
    if old.startswith(b"\x89PNG"):
        assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (new, old))), name
        return
    texts, looks, places = drawn(old)
    assert drawn(new) == (texts, looks, pytest.approx(places, abs=PIXELS)), name


def drawn(svg: bytes) -> tuple[list[str | None], list[list[str]], list[float]]:
    """What a chart says, and of its shapes the looks and the places; where a text stands is Matplotlib's affair."""
    elements = [(each.tag.rpartition("}")[2], each) for each in ElementTree.fromstring(svg).iter()]
    sheet = "".join(each.text or "" for kind, each in elements if kind == "style")
    shapes = [each for kind, each in elements if kind in ("path", "use")]
    where = " ".join(each.get(name, "") for each in shapes for name in ("d", "x", "y", "transform"))
    looks = [re.findall(rf"\.{each.get('class')}{{(.*?)}}", sheet) for each in shapes]
    texts = [each.text for kind, each in elements if kind == "text"]
    return texts, looks, [float(number) for number in re.findall(r"-?\d+\.?\d*", where)]
