"""What report.py writes: README.md, index.html and figures/, of whole and of broken grids, in words that fit both."""

import dataclasses
import html
import html.parser
import json
import os
import re
import shlex
import shutil
import subprocess
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_grids import cell_row, cnn_row, history, row_runs, run, write_run

from harness.analyses import OF_REPORT
from harness.analyses.findings import Findings, Picture, Table, write_findings
from harness.errors import UserError
from harness.flags import parse_flags, recorded_flags
from harness.grid.rows import parser_of
from harness.grid.runs import Problem, RowRuns, Run
from harness.metrics import EpochMetrics
from harness.pictures import Drawing
from harness.report import charts, write_report
from harness.report.inside import to_look_into

HOSTILE = "<b>R&D</b> *x* _y_ | `z` [l](u) $a$ <script>alert(1)</script>"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Write a report into tmp_path/report -> (README.md, index.html)."""

    def call(results: list[RowRuns], problems: tuple = (), **changes: object) -> tuple[str, str]:
        arguments = {
            "problems": list(problems),
            "grid": Path("grid.toml"),
            "out": tmp_path / "report",
            "precision": "fp32",
            "data": "real",
            "command": "python report.py --no-train",
            "count_parameters": lambda config: 1_234_567,
        }
        write_report(results, **(arguments | changes))
        return tuple((tmp_path / "report" / name).read_text(encoding="utf-8") for name in ("README.md", "index.html"))

    return call


@pytest.fixture
def quick_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the charts by empty ones, for tests of words and numbers: Matplotlib takes most of the time."""
    for name in ("curve_chart", "dot_chart", "lines_chart"):
        monkeypatch.setattr(charts, name, lambda *_: b'<svg xmlns="http://www.w3.org/2000/svg"/>')


class Page(html.parser.HTMLParser):
    """Tags and text of a page; complains about tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources, self.ids, self.targets, self.tags, self.text, self._open = [], [], [], set(), "", []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.add(tag)
        self.sources += [values["src"]] if "src" in values else []
        self.ids += [values["id"]] if "id" in values else []
        self.targets += [values["href"]] if tag == "a" and "href" in values else []
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def small_grid(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> list[RowRuns]:
    printed = {"test_loss": 0.4, "test_accuracy": 0.85}
    cnn = (
        cnn_row("cnn-a", printed=printed, note="a remark"),
        cnn_row("cnn-b", flags={"optimizer": "adagrad", "lr": 0.01}),
    )
    cells = [cell_row(cell, printed=printed) for cell in ("rnn", "gru")]
    return [row_runs(row, seeds, folder) for row in (*cnn, *cells)]


def test_the_answer_comes_first_and_the_method_last(write, quick_charts, tmp_path):
    readme, page = write(small_grid(tmp_path / "runs"))
    headings = re.findall(r"^##? <a.*</a>(.+)$", readme, re.MULTILINE)
    assert headings == [
        *("Assignment 2, regenerated: CNN with CIFAR10 and RNN with MNIST", "All rows", "CNN with CIFAR10"),
        *("Visualization", "Paper Understanding", "RNN with MNIST", "Comparison with the CNN"),
        *("What was tried", "Method and provenance"),
    ]
    answer = readme.split("\n# ")[1].split("\n![")[0]
    assert re.findall(r"^- \*\*([^*]+)\*\*", answer, re.MULTILINE) == [
        *("Best CNN with CIFAR10", "Best RNN with MNIST", "Of 6 printed values", "In one direction?", "Stability"),
    ]
    assert "\n\n- " not in answer.split("- **Best", 1)[1]  # a list without gaps
    assert answer.index("Stability") < readme.index("overview-cnn.svg") < readme.index("| row |")
    parsed = Page(page)
    assert [each for each in headings[1:] if each not in parsed.text] == []
    assert "a remark" in readme and "a remark" in parsed.text
    assert len(set(parsed.ids)) == len(parsed.ids)
    inner = {target[1:] for target in parsed.targets if target.startswith("#")}
    assert inner <= set(parsed.ids) and len(inner) > 10


def test_tables_hold_the_mean_the_deviation_and_the_interval_of_the_runs(write, quick_charts, tmp_path):
    results = small_grid(tmp_path / "runs")
    readme, page = write(results)
    assert '<td data-head="test accuracy" style="text-align: right;">' in page  # wide: on a phone it is a list
    values = np.array([max(epoch.test_accuracy for epoch in each.history) for each in results[0].complete])
    mean, sd = values.mean(), values.std(ddof=1)
    reach = 4.302653 * sd * np.sqrt(4 / 3)  # t(2; 0.975)
    (line,) = re.findall(r"^\| test accuracy \| [^|]* \| 0\.85 .*$", readme.split('id="row-cnn-b"')[0], re.MULTILINE)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[3] == f"{mean:.4f} ± {sd:.4f}" and cells[4] == f"{(0.85 - mean) / sd:+.1f}".replace("-", "−")
    low, high = map(float, cells[5].split(" … "))
    assert (low, high) == (pytest.approx(max(0, mean - reach), abs=6e-5), pytest.approx(min(1, mean + reach), abs=6e-5))
    assert abs(0.85 - mean) < reach and high - low < 0.1 and cells[1] == "✓ agrees"
    assert readme.count("? cannot tell |") + readme.count("✓ agrees |") + readme.count("✗ differs |") == 6  # once each


def test_a_recipes_row_has_its_cost_its_command_and_what_its_flags_measure(write, quick_charts, tmp_path):
    averaged = [
        [*history(seed)[:2], history(seed)[2]._replace(average_accuracy=0.9 + seed / 10, average_tta_accuracy=0.95)]
        for seed in (0, 1)
    ]
    made = row_runs(cnn_row(), (0, 1), tmp_path / "runs", average_weights=0.9, test_time_augmentation=True)
    runs = {seed: dataclasses.replace(each, history=averaged[seed]) for seed, each in made.runs.items()}
    for each in runs.values():
        each.config["training_flops"] = 3 * 10**14
    readme, _ = write([dataclasses.replace(made, runs=runs)])
    assert "1,234,567 parameters, 0.3 PFLOP, 0.1 minutes a run" in readme
    assert re.search(r"^\| accuracy, averaged weights \| – \|.*\| 0\.9500 ± 0\.0707 \|$", readme, re.MULTILINE)
    assert re.search(r"^\| accuracy, averaged weights, test-time augmentation .*\| 0\.9500 ± 0", readme, re.MULTILINE)
    (command,) = re.findall(r"To train the first of them again: `python cnn_cifar10.py (.*)`", readme)
    again = parse_flags(parser_of("cnn_cifar10"), shlex.split(command))
    assert recorded_flags(again) == runs[0].config["flags"]


def test_rows_of_another_image_set_are_a_section_of_their_own(write, quick_charts, tmp_path):
    rows = [cnn_row("cnn-a"), cnn_row("cnn-b"), cnn_row("cnn-c", data="mnist"), cnn_row("cnn-d", data="mnist")]
    results = [row_runs(row, (0, 1), tmp_path / "runs", data=row.data or "cifar10") for row in rows]
    readme, page = write([*results, RowRuns(cell_row("gru", data="kmnist"), {}, (0,))])
    sections = [
        each for each in re.findall(r"^## .*</a>(.*)$", readme, re.MULTILINE) if "with" in each and "Com" not in each
    ]
    assert sections == ["CNN with CIFAR10", "CNN with MNIST", "RNN with KMNIST"]
    assert re.findall(r"\*\*Best (.*?)\*\*", readme) == ["CNN with CIFAR10", "CNN with MNIST"]
    assert readme.index("the row cnn-b</") < readme.index('id="cnn-mnist"') < readme.index("the row cnn-c</")
    parsed = Page(page)
    assert len(set(parsed.ids)) == len(parsed.ids) and readme.count('## <a id="visualization"') == 1


def test_pictures_of_the_readme_are_there_and_those_of_the_page_are_in_it(write, tmp_path):
    readme, page = write(small_grid(tmp_path / "runs"))
    named = re.findall(r"\]\((figures/[^)]+)\)", readme)
    there = {f"figures/{path.name}" for path in (tmp_path / "report" / "figures").iterdir()}
    assert set(named) == there and len(named) == len(there) >= 8
    parsed = Page(page)
    assert parsed.sources == []
    assert page.count('<svg role="img" aria-label="') == len(named)
    words, shapes = (re.compile(each) for each in ("<text[^>]*>([^<]*)<", ' d="([^"]*)"'))
    for name, drawing in zip(named, re.findall("<svg.*?</svg>", page), strict=True):
        written = (tmp_path / "report" / name).read_text(encoding="utf-8")
        assert all(each.findall(drawing) == each.findall(written) for each in (words, shapes)), name
        classes, ids = re.findall(r'class="([^"]*)"', drawing), re.findall(r' id="([^"]*)"', drawing)
        assert set(classes) == set(re.findall(r"\.(c[\d-]+){", drawing))
        assert all(page.count(f".{each}{{") < 3 for each in classes)  # once for each theme
        assert set(re.findall(r"[#](?:m|p)[\d-]+", drawing)) == {f"#{each}" for each in ids}
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert "script" not in parsed.tags
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//(?!arxiv\.org)", page)


def test_writing_again_gives_the_same_bytes_and_takes_away_what_is_no_longer_shown(write, quick_charts, tmp_path):
    results = small_grid(tmp_path / "runs", (0, 1))
    write(results)
    folder = tmp_path / "report"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    own = folder / "figures" / "mine.png"
    own.write_bytes(b"the user's")
    write(results)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path != own} == before
    write(results[:1])
    left = {path.name for path in (folder / "figures").iterdir()}
    assert "mine.png" in left and "row-cnn-a-loss.svg" in left
    assert "row-rnn-a-loss.svg" not in left and "stability-drops.svg" not in left


def test_a_file_that_is_no_report_is_not_replaced(write, quick_charts, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "README.md").write_text("# my project")
    with pytest.raises(UserError, match="was not written by report"):
        write(small_grid(tmp_path / "runs", (0,)))
    assert (tmp_path / "report" / "README.md").read_text() == "# my project"
    assert len(list((tmp_path / "report").iterdir())) == 1


def test_missing_failed_and_diverged_runs_are_shown_with_what_is_there(write, quick_charts, tmp_path):
    folder = tmp_path / "runs"
    gone = RowRuns(cnn_row("gone", printed={"test_loss": 1.0}), {}, (0, 1))
    row = cnn_row("half")
    half = RowRuns(row, {0: run(row, 0, folder), 1: run(row, 1, folder, status="interrupted")}, (0, 1))
    row = cell_row("rnn", "wild")
    epochs = [EpochMetrics(1, 2.0, 0.3, 2.1, 0.2, 1.0), EpochMetrics(2, float("nan"), 0.1, float("nan"), 0.1, 1.0)]
    wild = RowRuns(row, {0: run(row, 0, folder, status="diverged", epochs=epochs)}, (0, 1))
    problems = (
        Problem("gone", 0, "missing", "not trained yet"),
        Problem("gone", 1, "missing", ""),
        Problem("half", 1, "failed", "it ended with exit code 1: no space left."),
        Problem("wild", 0, "diverged", "its loss is not finite after epoch 2"),
        Problem("wild", 1, "missing", "not trained yet"),
    )
    readme, page = write([gone, half, wild], problems)
    for text in (
        "Seed 0 is missing: not trained yet. Seed 1 is missing.",
        "Seed 1 failed: it ended with exit code 1: no space left. Mean and standard deviation are over",
        "Seed 0 diverged: its loss is not finite after epoch 2. Seed 1 is missing: not trained yet.",
        "No complete run of the 2 seeds asked for.",
        "3 runs missing, 1 run failed, 1 run diverged). See gone, half, wild.",
        "Not judged, for want of a complete run: gone.",
        "Without a complete run of ours beside it yet: 1 printed value.",
        "3 rows, 1 of 6 runs complete; complete seeds a row: 0 to 1.",
    ):
        assert text in re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", readme) and text in Page(page).text
    assert "figures/row-half-loss.svg" in readme and "figures/row-wild-loss.svg" in readme and "row-gone-" not in readme
    assert not re.search(r"\bnan\b", readme)


def test_a_grid_without_any_run_is_a_report_all_the_same(write, quick_charts):
    rows = [cnn_row("a", printed={"test_loss": 1.0}), cnn_row("b"), cell_row("gru"), cell_row("rnn")]
    readme, _ = write([RowRuns(row, {}, (0,)) for row in rows])
    assert readme.count("No run is complete yet, so no setting can be called the best.") == 2
    assert write([])[0].startswith("<!-- written by report.py")


def test_one_seed_is_called_so_and_tells_nothing(write, quick_charts, tmp_path):
    readme, _ = write(small_grid(tmp_path / "runs", (0,)))
    assert " ± " not in re.sub(r"mean ± [a-z(t]+", "", readme)
    assert "? 6 where our runs cannot tell. A single seed has no spread to compare with." in readme
    assert readme.count("? cannot tell |") == 6 and "by chance" not in readme
    assert "A single run." in readme and "distance in sd" not in readme


def test_without_printed_metrics_nothing_is_said_of_an_original(write, quick_charts):
    rows = [cnn_row("a"), cnn_row("b", flags={"optimizer": "sgd", "lr": 0.1})]
    readme, _ = write([row_runs(row, (0, 1), Path("runs")) for row in rows])
    recurrent, _ = write([row_runs(cell_row(cell), (0, 1), Path("runs")) for cell in ("rnn", "lstm")])
    alone, _ = write([row_runs(cell_row("gru"), (0, 1), Path("runs"))])
    assert "settings were tried" not in alone and "steadily" not in alone and "Side by side" not in alone
    for text in (readme, recurrent, alone):
        for word in (
            "riginal",
            "printed",
            "ours",
            "verdict",
            "?",
            "✓",
            "direction",
            "Assignment",
            "Paper",
            "Comparison",
            "agrees",
            "was tried",
        ):
            assert word not in text.replace("report.py", "")
        assert "| best (mean ± sd, n = 2) | 95 % prediction interval | last epoch |\n" in text
    assert "RNN" not in readme and "Visualization" not in recurrent and "</a>RNN with MNIST" in recurrent
    alone, _ = write([row_runs(rows[0], (0,), Path("runs"))])
    assert "prediction interval" not in alone


def test_synthetic_images_are_named_in_every_title(write, tmp_path):
    printed = {"test_accuracy": 0.9}
    rows = (
        cnn_row("a", flags={"data": "synthetic"}, printed=printed),
        cell_row("gru", flags={"cell": "gru", "data": "synthetic"}, printed=printed),
    )
    results = [row_runs(row, (0, 1), tmp_path / "runs") for row in rows]
    readme, _ = write(results, data="synthetic")
    assert readme.split("\n# ")[1].split("\n")[0].endswith("(synthetic)")
    assert "- The images are synthetic, drawn by the program" in readme
    titles = re.findall(r"^<summary><a.*</a>(.*)</summary>$", readme, re.MULTILINE)
    assert len(titles) == 2 and all("synthetic" in title for title in titles)
    pictures = [path.read_text(encoding="utf-8") for path in (tmp_path / "report" / "figures").glob("*.svg")]
    assert len(pictures) >= 4 and all("synthetic" in picture for picture in pictures)
    assert "Not measured on synthetic images" in readme


def test_names_notes_and_titles_are_text_not_markup(write, quick_charts, tmp_path):
    row = cnn_row("a$^$ b#", title=HOSTILE, note="1. first\n# not a heading " + HOSTILE, printed={"test_loss": 0.5})
    twin = cnn_row("A$^$ B#", title="twin")  # the same file name but for its case
    readme, page = write(
        [row_runs(each, (0, 1), tmp_path / "runs") for each in (row, twin)], command=f"python `{HOSTILE}"
    )
    parsed = Page(page)
    assert "script" not in parsed.tags and "b" not in parsed.tags
    assert parsed.text.count(HOSTILE) >= 4
    assert f'"></a>{html.escape(HOSTILE)}</summary>' in readme
    (best,) = re.findall(r"The best setting is \*\*(.*alert.*)\*\*", readme)
    tags = "&lt;script&gt;alert(1)&lt;/script&gt;"
    assert best == r"&lt;b&gt;R&amp;D&lt;/b&gt; \*x\* \_y\_ \| \`z\` \[l\](u) \$a\$ " + tags
    assert r"> Note: 1. first # not a heading &lt;b&gt;R&amp;D" in readme
    spans = [line for line in readme.split("\n") if "<script" in line or "<b>" in line]
    assert spans == [f"- Written by ``python `{HOSTILE}`` from the grid `grid.toml`."]  # in a code span, as it is
    assert not re.search(r"^# not a heading", readme, re.MULTILINE)
    names = sorted(path.name for path in (tmp_path / "report" / "figures").glob("row-*"))
    assert names == [f"row-a-b{part}.svg" for part in ("-2-accuracy", "-2-loss", "-accuracy", "-loss")]
    rules = [line for line in readme.split("\n") if line.startswith("| :---")]
    assert rules
    for block in re.findall(r"(?:^\|.*\n)+", readme, re.MULTILINE):  # every line of a table has the same cells
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().split("\n")}) == 1


MARKUP = (
    *('a]( "x" b', "end \\", "- item", "# head #", "1. x", "&amp; &#36; ~~s~~ **b** __u__", "{{ 7*7 }} {% x %}"),
    *("![i](j) http://e.org <http://e.org>", "a  b\n\n# c", "[ref]: http://x", "| a |", "x^2^ {#id} {: .c}"),
)


def test_whatever_a_row_is_called_reads_so_on_the_page(write, quick_charts):
    rows = [cnn_row(f"r{n}", title=text, note=text) for n, text in enumerate(MARKUP)]
    page = write([row_runs(row, (0,), Path("runs")) for row in rows])[1]
    for text in (" ".join(text.split()) for text in MARKUP):
        shown = html.escape(text, quote=False)
        assert re.search(f'<summary><a id="row-r[0-9]+"></a>{re.escape(shown)}</summary>', page), text
        assert f"Note: {shown}</p>" in page


def draw_inside(run: Run, epoch: int, *analyses: str, **dataset: str) -> Path:
    """Files as visualize.py leaves them in a run's figures/: red pictures, a table, and the record of what they are."""
    folder = run.path / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ("activations", "mean", "std", "original mean", "original std", "share of zeros", "dead maps")
    pixels = np.full((30, 40, 3), (255, 0, 0), dtype=np.uint8)
    for name in analyses:
        parts = ("_conv1", "_conv2") if name in ("filters", "deconvnet", "evolution") else ("",)
        drawing = Drawing(pixels, b"<svg><script>alert(1)</script></svg>")
        pictures = [Picture(f"{name}{part}", drawing, "a title") for part in parts]
        table = Table(name, "a title", columns, [("ReLU1", 0.08845, 0.1618, 0.0657, 0.1373, 0.494, 0)])
        images = {key: run.config["dataset"][key] for key in ("name", "checksum")} | dataset
        provenance = {"network": "LeNet5", "checkpoint": "best.pt", "epoch": epoch, "trained_on": images}
        provenance |= {"channels": "gray", "dataset": images, "command": "python visualize.py"}
        write_findings(folder, name, Findings(name, "how to read it", pictures, [table]), provenance)
    return folder


def test_pictures_of_visualize_py_and_the_statistics_of_the_relus_are_taken_up(write, quick_charts, tmp_path):
    results = small_grid(tmp_path / "runs", (0, 1))
    run = results[1].runs[0]
    epoch = max(run.history, key=lambda row: row.test_accuracy).epoch
    figures = draw_inside(run, epoch, "filters", "occlusion", "activations")
    readme, page = write(results)
    assert (
        "| ReLU1 | 0.08845 | 0.1618 | 0.06570 | 0.1373 | 0.4940 | 0 |" in readme
        and "<sub>how to read it</sub>" in readme
    )
    assert f"seed 0, after epoch {epoch}, at its best test accuracy" in readme and "the row cnn-b" in readme
    shown = tmp_path / "report" / "figures" / "inside-filters-conv1.svg"
    assert shown.read_bytes() == (figures / "filters_conv1.svg").read_bytes()
    sources = [urllib.parse.unquote(source) for source in Page(page).sources]
    assert sources == [f"data:image/svg+xml,{shown.read_text()}"] * 4 and "script" not in Page(page).tags
    assert "Left out" not in readme
    assert "inside-confusion" not in readme
    matrix = "true class,cat,dog,accuracy\ncat,1,3,0.25\ndog,1,7,0.875\n"  # as the training leaves it
    (figures / "confusion.csv").write_text(matrix)
    readme = write(results)[0]
    assert "inside-confusion.svg" in readme and "\nAccuracy by class: dog 87.5 %, cat 25.0 %.\n" in readme
    paper = readme.split("</a>Paper Understanding")[1].split("\n## ")[0]
    assert "(#inside-occlusion)" in paper and "(#inside-deconvnet" not in paper
    for other, images in ((epoch, {"name": "mnist"}), (epoch, {"checksum": "another"}), (epoch + 10, {})):
        draw_inside(run, other, "activations", **images)
        readme = write(results)[0]
        assert "Left out: activations. " in readme and "ReLU1" not in readme and "inside-occlusion.svg" in readme
    (figures / "occlusion.json").unlink()  # the picture alone says nothing of what it shows
    assert "Left out: activations and occlusion. " in write(results)[0]
    for damaged in ("", "damaged", matrix[:40], matrix.replace("3", "-3"), matrix + "owl,1,1,0\n"):
        (figures / "confusion.csv").write_text(damaged)
        assert "Confusion matrix" not in write(results)[0], damaged
    shutil.rmtree(figures)
    assert "python visualize.py" in write(results)[0].split("</a>Visualization")[1].split("\n## ")[0]


def test_first_filters_that_differ_in_kind_are_compared(write, quick_charts, tmp_path):
    kinds = {
        "small": {"kernel_size": 3},
        "again": {"kernel_size": 3, "lr": 0.01},
        "strided": {"stride": 2},
        "plain": {},
    }
    results = [row_runs(cnn_row(name, flags=flags), (0,), tmp_path) for name, flags in kinds.items()]
    runs = {row.row.name: row.runs[0] for row in results}
    runs["again"].history[-1] = runs["again"].history[-1]._replace(test_accuracy=0.99)
    few = ("filters", "activations")
    wanted = {run.path: names for run, names in to_look_into(results)}
    assert wanted == {runs[name].path: OF_REPORT if name == "again" else few for name in kinds}

    for name in ("small", "again", "strided"):
        draw_inside(runs[name], 3, *few)
    assert "First filters" not in write(results[:2])[0]  # of one kind
    readme = write(results)[0].split("</a>First filters")[1].split("\n## ")[0]
    table = [line.split("|")[1:-1] for line in readme.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[0]][2:4] == ["filters", "dead maps"]
    accuracy = f"{runs['small'].history[-1].test_accuracy:.4f}"
    assert [cell.strip() for cell in table[2]] == ["[small](#row-small)", accuracy, "", "0", "", "", "", ""]
    assert len(table) == 4 and "[strided]" in table[3][0]
    assert re.findall(r"figures/(\S+)\)", readme) == ["row-small-filters-conv1.svg", "row-strided-filters-conv1.svg"]


def test_pictures_of_one_epoch_are_shown_and_called_the_best_only_if_they_are(write, quick_charts, tmp_path):
    results = small_grid(tmp_path / "runs", (0, 1))
    run = results[1].runs[0]
    low, high = (run.history[0]._replace(test_accuracy=accuracy) for accuracy in (0.5, 0.6))
    run.history[:] = [row._replace(epoch=1 + index) for index, row in enumerate((low, high, high))]
    draw_inside(run, 3, "evolution")
    draw_inside(run, 1, "filters")
    readme = write(results)[0]
    assert "after epoch 1, which is not that of its best test accuracy." in readme
    assert "inside-filters-conv1.svg" in readme and "inside-evolution-conv1.svg" in readme and "Left" not in readme
    draw_inside(run, 3, "occlusion", "activations")  # as good as the first best, which was lost
    readme = write(results)[0]
    assert "after epoch 3, at its best test accuracy" in readme and "Left out: filters. " in readme
    assert "inside-occlusion.svg" in readme and "inside-evolution-conv2.svg" in readme

    figures = run.path / "figures"
    (figures / "occlusion.csv").unlink()
    assert "Left out: filters and occlusion. " in write(results)[0]
    content = (figures / "evolution_conv2.png").read_bytes()
    (figures / "evolution_conv2.png").write_bytes(content[: len(content) // 2])
    readme = write(results)[0]
    assert "Left out: filters, evolution and occlusion. " in readme and "inside-evolution" not in readme
    (figures / "evolution_conv2.png").write_bytes(content)

    other = results[1].runs[1]
    other.history[:] = [row._replace(test_accuracy=0.9) for row in run.history]
    draw_inside(other, 3, "evolution")  # a better run, but looked into at one point only
    assert "seed 0, after epoch 3" in write(results)[0]
    draw_inside(other, 1, "occlusion", "activations")
    assert "seed 1, after epoch 1, at its best" in write(results)[0]


def test_the_commands_of_a_folder_that_begins_with_a_dash_can_be_typed(write, quick_charts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = small_grid(Path("-my runs"), (0, 1))
    assert "`python visualize.py './-my runs/cnn_cifar10/" in write(results)[0]


def test_the_cnn_on_mnist_is_compared_at_equal_epochs(write, quick_charts, monkeypatch, tmp_path):
    drawn, panels = [], {}
    monkeypatch.setattr(charts, "lines_chart", lambda *arguments: drawn.append(arguments[3]) or b"<svg/>")
    monkeypatch.setattr(charts, "dot_chart", lambda title, lines, *_: panels.update({title: lines}) or b"<svg/>")
    folder = tmp_path / "runs"
    results = [row_runs(cell_row(cell), (0, 1), folder) for cell in ("rnn", "lstm", "gru")]
    assert "has not been trained on MNIST yet" not in write(results)[0]  # nor does the grid ask for it
    cnn = cnn_row("any", flags={"data": "mnist", "optimizer": "adam", "lr": 0.001})
    assert "has not been trained on MNIST yet" in write(results, on_mnist=RowRuns(cnn, {}, (0, 1)))[0]
    on_mnist = row_runs(cnn, (0, 1), folder)
    for network, scale in ((folder / "cnn_mnist" / "any-s0", 1.0), (results[2].runs[0].path, 0.9)):
        (network / "figures").mkdir(parents=True)
        lines = [f"{k},{scale * k / 28},1.5\n" for k in range(1, 29)]
        (network / "figures" / "first_rows.csv").write_text("rows,accuracy,loss\n" + "".join(lines))
    readme, _ = write(results, on_mnist=on_mnist)
    assert "Rows needed for a test accuracy of 0.9: CNN: 26; GRU, h128: 28." in readme
    (line,) = re.findall(r"^\| CNN \|.*$", readme, re.MULTILINE)
    accuracies = [
        max(epoch.test_accuracy for epoch in each.history) for each in (run(cnn, 0, folder), run(cnn, 1, folder))
    ]
    assert f"| {np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f} |" in line and "| 1,234,567 |" in line
    assert "the same number of epochs (Adam, lr 0.001, 3 epochs)" in readme
    accuracy, size, time = (panels[title] for title in ("Best test accuracy", "Size", "Time"))
    assert [each.label for each in time] == ["CNN", "RNN, h128", "LSTM, h128", "GRU, h128"]
    assert accuracy[0].values == tuple(accuracies) and size[3].values == (1_234_567,)
    assert time[0].values == tuple(np.median([epoch.seconds for epoch in history(seed)]) for seed in (0, 1))
    assert [len(re.findall(rf"^\| {cell}, h128 \|", readme, re.MULTILINE)) for cell in ("RNN", "LSTM", "GRU")] == [
        1,
        1,
        1,
    ]
    assert [(label, counts[0], counts[-1], shares[13]) for label, counts, shares in drawn[-2]] == [
        ("CNN", 1, 28, 0.5),
        ("GRU, h128", 1, 28, 0.45),
    ]
    for damaged in ("k\n1\n", "rows,accuracy\n1,x\n", f"rows,accuracy\n{'9' * 400},0.5\n", "rows,accuracy\n1,2\n"):
        (results[2].runs[0].path / "figures" / "first_rows.csv").write_text(damaged)
        readme, _ = write(results, on_mnist=on_mnist)  # with a note, and without the line
        assert "Rows needed for a test accuracy of 0.9: CNN: 26." in readme


def test_the_other_precision_is_compared_where_there_are_runs_of_it(write, quick_charts, tmp_path):
    results = [row_runs(cell_row("gru"), (0, 1, 2), tmp_path / "runs")]
    assert "</a>Precision" not in write(results)[0]
    for seed, shift in ((0, 0.0), (1, 0.001), (2, 0.002)):
        epochs = [EpochMetrics(epoch, 0.1, 0.9, 0.2, 0.1 + shift, 1.0) for epoch in (1, 2, 3)]  # far from the row's
        other = run(results[0].row, seed, tmp_path / "runs", precision="bf16", epochs=epochs)
        path = other.path.with_name(f"gru-bf16-s{seed}")
        write_run(type(other)(path, seed, "complete", other.config, epochs))
    for each in results[0].complete:
        write_run(each)
    readme, _ = write(results)
    section = readme.split("</a>Precision")[1]
    assert "bf16: 0.1010 ± 0.0010 | 3 and 3 |" in section and "fp32: " in section
    assert "More than chance: gru-a (test accuracy), gru-a (test loss)." in section


def test_kept_runs_with_another_unstated_setting_stand_beside_the_original(write, quick_charts, tmp_path):
    folder = tmp_path / "runs"
    row = cnn_row("a", printed={"test_loss": 0.4, "test_accuracy": 0.85})
    results = [
        row_runs(row, (0, 1), folder),
        row_runs(cnn_row("b", flags={"optimizer": "adam", "lr": 0.1}), (0,), folder),
    ]
    assert "does not name, these were changed" not in write(results)[0]
    for each in [*results[0].complete, *results[1].complete]:
        write_run(each)

    def keep(name: str, seed: int, **flags: object) -> None:
        epochs = [EpochMetrics(epoch, 0.3, 0.9, 0.5, 0.8 + seed / 100, 1.0) for epoch in (1, 2, 3)]
        made = run(row, seed, folder, epochs=epochs, **flags)
        write_run(Run(folder / "cnn_cifar10" / name, seed, "complete", made.config, epochs))

    for seed in (0, 2):
        keep(f"changed-{seed}", seed, channels="rgb", weight_decay=0.001)
    keep("another rate, which is named", 0, channels="rgb", lr=0.5)
    keep("the other precision", 0, precision="bf16")
    section = write(results)[0].split("</a>What was tried")[1].split("</a>Method")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*$", section, re.M)]
    assert [line[1:4] for line in lines[2:]] == [
        ["the original", "1", "–"],
        ["this report", "2", lines[3][3]],
        ["rgb, weight decay 0.001", "2", "0.3000 ± 0.0000"],
    ]
    assert lines[2][5:] == ["0.4", "0.85"] and lines[4][5:] == ["0.5000 ± 0.0000", "0.8100 ± 0.0141"]


def test_a_row_that_is_the_beginning_of_the_best_one_is_compared_by_its_last_epoch(write, quick_charts, tmp_path):
    accuracies = {0: (0.5, 0.6, 0.8, 0.7), 1: (0.4, 0.7, 0.6, 0.8)}

    def row(name: str, epochs: int, shift: float = 0.0) -> RowRuns:
        runs = {}
        for seed, values in accuracies.items():
            made = [EpochMetrics(n, 0.5, 0.5, 0.5, value + shift, seed + 1.0) for n, value in enumerate(values, 1)]
            runs[seed] = run(cnn_row(name), seed, tmp_path / "runs", epochs=made[:epochs])
        return RowRuns(cnn_row(name), runs, (0, 1))

    longer, shorter = row("long", 4), row("short", 2)
    text = write([longer, shorter])[0].split("The best setting is")[1].split("\n")[0]
    assert (
        "these are the same runs, ended after 2 epochs" in text and "By the last epoch a difference of 0.1000" in text
    )
    text = write([longer, row("other", 2, shift=0.01)])[0].split("The best setting is")[1].split("\n")[0]
    assert "the same runs" not in text and ": a difference of 0.1400" in text  # of the best: 0.8 and 0.8, 0.61 and 0.71


@pytest.mark.parametrize(
    ("printed", "sentence"),
    [
        (0.6, "The original's best is the same one: testing accuracy 0.85."),
        (0.9, "The original's best is another, the row b: testing accuracy 0.9."),
    ],
)
def test_the_originals_best_setting_is_named_beside_ours(write, quick_charts, tmp_path, printed, sentence):
    results = []
    for name, theirs, ours in (("a", 0.85, 0.8), ("b", printed, 0.7)):
        row = cnn_row(name, printed={"test_accuracy": theirs})
        epochs = [EpochMetrics(1, 0.3, 0.9, 0.5, ours, 1.0)]
        results.append(RowRuns(row, {0: run(row, 0, tmp_path, epochs=epochs)}, (0,)))
    assert sentence in write(results)[0]


@pytest.mark.parametrize(("losses", "told"), [((0.4, 0.5), False), ((0.5, 0.4), True)])
def test_another_best_by_loss_is_named(write, quick_charts, tmp_path, losses, told):
    results = []
    for name, loss, accuracy in (("a", losses[0], 0.8), ("b", losses[1], 0.7)):
        row = cnn_row(name)
        epochs = [EpochMetrics(1, 0.3, 0.9, loss, accuracy, 1.0)]
        results.append(RowRuns(row, {0: run(row, 0, tmp_path, epochs=epochs)}, (0,)))
    readme, _ = write(results)
    assert ("By testing loss it is the row b instead, with 0.4000." in readme) == told
    assert ("By testing loss" in readme) == told


@pytest.mark.parametrize(
    ("seconds", "sum_of_both"),
    [(15.0, "0.5 minutes"), (1798.0, "59.9 minutes"), (1799.0, "1.0 hours")],
)
def test_time_of_all_epochs_is_added_up(write, quick_charts, tmp_path, seconds, sum_of_both):
    row = cnn_row()
    runs = {seed: run(row, seed, tmp_path, epochs=[EpochMetrics(1, 0.3, 0.9, 0.5, 0.8, seconds)]) for seed in (0, 1)}
    assert f"The epochs of the complete runs add up to {sum_of_both}, on" in write([RowRuns(row, runs, (0, 1))])[0]


def test_cells_and_optimizers_are_drawn_together_a_panel_for_each_other_setting(write, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        charts, "curve_chart", lambda title, ylabel, curves, scale="": drawn.update({title: curves}) or b"<svg/>"
    )
    monkeypatch.setattr(charts, "dot_chart", lambda *_: b"<svg/>")
    flags = [{"cell": cell, "optimizer": "adam", "lr": lr} for lr in (0.1, 0.2) for cell in ("rnn", "gru")]
    rows = [cell_row(each["cell"], f"{each['cell']}-{each['lr']}", flags=each) for each in flags]
    results = [row_runs(row, (0, 1), tmp_path / "runs") for row in rows]
    readme, _ = write(results)
    panels = {title: curves for title, curves in drawn.items() if ": test " in title}
    assert [*panels] == [f"lr {lr}: test {metric}" for metric in ("accuracy", "loss") for lr in (0.1, 0.2)]
    (rnn, gru), *_ = panels.values()
    assert (rnn.label, gru.label, rnn.style, gru.style) == ("RNN", "GRU", "-", "-") and rnn.color != gru.color
    assert gru.runs == tuple(tuple(epoch.test_accuracy for epoch in each.history) for each in results[1].runs.values())
    assert readme.count("](figures/recurrent-") == 4


def test_settings_too_many_to_be_seen_side_by_side_are_not_drawn(write, quick_charts, tmp_path):
    def results(count: int) -> list[RowRuns]:
        flags = [{"cell": cell, "lr": 0.1 + n} for n in range(count) for cell in ("rnn", "gru")]
        return [
            row_runs(cell_row(each["cell"], f"n{n}", flags=each), (0,), tmp_path / "runs")
            for n, each in enumerate(flags)
        ]

    assert "Side by side" in write(results(8))[0]
    assert "Side by side" not in write(results(9))[0]
    assert "Side by side" not in write(results(1)[:1])[0]


# -- stability ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rough", "verdict"), [("rnn", "✓ LSTM is more stable"), ("lstm", "✗ LSTM is less stable")])
def test_stability_follows_the_numbers_whichever_way_they_go(write, quick_charts, rough, verdict):
    """One cell falls by 0.3 in the middle of each run, the other by 0.01."""
    results = []
    for cell in ("rnn", "lstm"):
        row = cell_row(cell, printed={"test_loss": 0.1})
        drop = 0.3 if cell == rough else 0.01
        runs = {}
        for seed in range(3):
            accuracies = (0.9, 0.9 - drop - seed / 1000, 0.91)
            epochs = [EpochMetrics(i, 0.3, 0.9, 0.3, each, 1.0) for i, each in enumerate(accuracies, 1)]
            runs[seed] = run(row, seed, Path("runs"), epochs=epochs)
        results.append(RowRuns(row, runs, (0, 1, 2)))
    text = write(results)[0]
    smooth = {"rnn": "LSTM", "lstm": "RNN"}[rough]
    assert f"{smooth} is the most stable and {rough.upper()} the least" in text
    assert f"**{verdict}**." in text
    sign, answer = ("−", "yes") if rough == "rnn" else ("+", "no")
    assert (
        f"| LSTM − RNN | worst drop | {answer} | {sign}0.2900 | {sign}0.2900 … {sign}0.2900 |" in text
    )  # 0.301 - 0.011
    assert "| LSTM − RNN | share of runs that fail | cannot tell | +0.00 |" in text
    assert "cannot tell that from chance" not in text

    results[0].runs[2] = dataclasses.replace(results[0].runs[2], status="diverged")
    text = write(results)[0]
    assert "No cell is called the most stable" in text and "1 of 3 runs of RNN" in text
    assert "The original says" not in text and "is the most stable and" not in text
    results[0].runs[2] = dataclasses.replace(results[0].runs[2], status="complete")

    without_drops = RowRuns(cell_row("gru"), {}, (0, 1))
    text = write([*results, without_drops])[0]
    assert "gru-a" not in text.split("</a>How steadily")[1].split("</a>RNN")[0]
    lost = row_runs(cell_row("rnn", "rnn-lost", flags=cell_row("rnn").flags | {"lr": 0.1}), (0, 1), Path("runs"))
    lost.runs.update({seed: dataclasses.replace(each, status="diverged") for seed, each in lost.runs.items()})
    text = write([*results, lost])[0]
    assert "No cell is called the most stable" in text and "2 of 5 runs of RNN" in text and "rnn-lost" in text


def test_stability_that_chance_explains_is_called_that(write, quick_charts):
    """The cells' drops, seed by seed: RNN 0.01, 0.05, 0.03, LSTM 0.03, 0.02, 0.01; they differ by 0.01 ± 0.06."""
    results = []
    for cell, drops in (("rnn", (0.01, 0.05, 0.03)), ("lstm", (0.03, 0.02, 0.01))):
        row, runs = cell_row(cell, printed={"test_loss": 0.1}), {}
        for seed, drop in enumerate(drops):
            epochs = [EpochMetrics(i, 0.3, 0.9, 0.3, each, 1.0) for i, each in enumerate((0.9, 0.9 - drop), 1)]
            runs[seed] = run(row, seed, Path("runs"), epochs=epochs)
        results.append(RowRuns(row, runs, (0, 1, 2)))
    text = write(results)[0]
    assert "LSTM is the most stable and RNN the least" in text and "these seeds cannot tell that from chance" in text
    assert "**? LSTM cannot be told from RNN** (our means point its way)." in text
    # 0.02, -0.03 and -0.02: mean -0.01, s = 0.02646; t(2) · s / √3 = 0.06572.
    assert "| LSTM − RNN | worst drop | cannot tell | −0.0100 | −0.0757 … +0.0557 |" in text


def test_one_seed_gives_no_interval_and_no_verdict_on_stability(write, quick_charts):
    results = [row_runs(cell_row(cell, printed={"test_loss": 0.1}), (0,), Path("runs")) for cell in ("rnn", "gru")]
    text = write(results)[0]
    assert "no interval with a single seed" in text
    assert "**? GRU cannot be told from RNN**" in text


# -- in a browser ------------------------------------------------------------------------------------------------------

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)

# Put into a copy of the page: what went wrong, as text that --dump-dom gives back. `load` comes after all pictures.
PROBE = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(String(event.message || event.target.outerHTML).slice(0, 200)), true);
addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  const root = document.documentElement;
  const images = document.querySelectorAll("img, svg").length;
  const found = {wrong, broken, images, width: innerWidth, page: root.scrollWidth,
    body: Math.ceil(document.body.getBoundingClientRect().right)};
  const place = document.createElement("pre");
  place.id = "probe"; place.textContent = JSON.stringify(found); document.body.append(place);
});
</script>"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_page_is_whole_in_chromium_and_no_wider_than_the_window(write, tmp_path):
    """In iframes as wide as a phone and a screen: Chromium's own window cannot be made so narrow on every system."""
    results = small_grid(tmp_path / "runs", (0, 1))
    long = cnn_row("long", title="a_title_without_any_space_" * 8, note="x" * 300)
    results.append(row_runs(long, (0, 1), tmp_path / "runs"))
    _, page = write(results, command="python report.py --grid " + "folder/" * 40)
    (tmp_path / "probed.html").write_text(page.replace("<head>", "<head>" + PROBE), encoding="utf-8")
    widths = (390, 1280)
    frames = [f'<iframe src="probed.html" style="width:{width}px;height:900px;border:0"></iframe>' for width in widths]
    report = """<script>addEventListener('load', () => {
      const probes = Array.from(frames).map(frame => frame.document.getElementById('probe').textContent);
      document.body.append(Object.assign(document.createElement('pre'), {id: 'answer', textContent: `[${probes}]`}));
    });</script>"""
    (tmp_path / "frames.html").write_text(f"<!doctype html><body>{''.join(frames)}{report}</body>", encoding="utf-8")
    options = (
        *("headless", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync"),
        *("disable-component-update", "allow-file-access-from-files", "enable-logging=stderr", "window-size=1400,1000"),
        *(f"user-data-dir={tmp_path / 'profile'}", "virtual-time-budget=20000", "dump-dom"),
        *(["no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    )
    command = [CHROMIUM, *(f"--{option}" for option in options), (tmp_path / "frames.html").as_uri()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r'<pre id="answer">(.*?)</pre>', answer.stdout)
    assert found, answer.stderr[-2000:]
    probes = json.loads(html.unescape(found[1]))
    assert [probe["width"] for probe in probes] == list(widths)
    for probe in probes:
        assert probe["wrong"] == [] and probe["broken"] == 0
        assert probe["images"] >= 8
        assert probe["page"] <= probe["width"] and probe["body"] <= probe["width"]
    assert "CONSOLE" not in answer.stderr
