"""The report's look inside the CNN: what visualize.py kept in a run's figures/, and the paper it follows."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from harness.errors import UserError
from harness.flags import command_line, typed_path
from harness.grid.runs import RowRuns, Run
from harness.pictures import png_bytes
from harness.report.document import Block, Bullets, Code, Figure, Heading, Link, Part, paragraph, table
from harness.report.drawn import is_best, left_out, to_show
from harness.report.names import Names
from harness.report.results import best, dataset, listed

PAPER = Link("arXiv 1311.2901", "https://arxiv.org/abs/1311.2901")

# visualize.py's pictures, in the order in which they are shown, each with what it is and how to read it.
PICTURES = {
    "filters_conv1": (
        "Filters of the first convolution",
        "Each square is one filter. Mid-gray is weight zero; black and white are the largest absolute weight, one "
        "scale for all. Edges and blobs of opposite sign are what a network for natural images usually learns first.",
    ),
    "activations": (
        "Activations of ReLU1 and ReLU2 over the test set",
        "Left, each feature map's mean and standard deviation; a cross marks a dead map, which is zero at every "
        "position of every test image. Right, how often activations above zero have which size.",
    ),
    "deconvnet_conv1": (
        "Deconvnet, first convolution",
        "For each feature map its nine strongest activations over the test set, at most one an image: left what the "
        "deconvnet projects back to the pixels, right the part of the image that the activation sees. Maps whose nine "
        "patches share something answer to that thing.",
    ),
    "deconvnet_conv2": (
        "Deconvnet, second convolution",
        "As above, one layer deeper: the patches are larger and what they share is more complex.",
    ),
    "evolution_conv1": (
        "Evolution of the first convolution during training",
        "The same maps, a row each, at epochs of the run's snapshots. A jump from one epoch to the next mostly "
        "means that another image has become the strongest.",
    ),
    "evolution_conv2": (
        "Evolution of the second convolution during training",
        "As above; deeper maps usually take longer to settle.",
    ),
    "invariance": (
        "Invariance to shift, scale and rotation",
        "How far the feature vector moves from that of the untransformed image, as a share of its length, at the first "
        "and at the last hidden layer, and the probability of the true class. Thin lines are the images shown, the "
        "thick line is the mean of random test images. A flat low curve is invariance.",
    ),
    "occlusion": (
        "Occlusion",
        "A gray square is slid over the image; each point of a map stands for the square centred there. Where the "
        "probability of the true class drops, the network was looking; if that is beside the object, it answers from "
        "the background.",
    ),
    "correspondence": (
        "Correspondence",
        "Hide the same part in different images and compare how the features change: the Hamming distance of the signs "
        "of the change, smaller is more consistent. Two comparisons: the cell whose hiding costs the whole class most "
        "(dark blue) with a random one, each hidden in all images of the class (light blue), and each image's own most "
        "critical cell (orange) with a random one for each image (gray). If the network related parts, the first bar "
        "of each pair would be the lower one. The reverse does not follow: random cells lie anywhere, also at the "
        "border; and at the last hidden layer choosing each image's own cell by probability makes the changes more "
        "alike even in a network that was never trained.",
    ),
}


def find_inside(rows: Sequence[RowRuns]) -> tuple[RowRuns, Run] | None:
    """The CNN run whose figures/ are shown: of those with the most analyses the highest by `rank`; None without any.

    Whether there is an evolution does not count: a run without snapshots never has one.
    """
    found = [(to_show(run)[0], row, run) for row in rows for run in row.runs.values()]
    looked_into = [each for each in found if each[0]]
    if not looked_into:
        return None
    _, row, run = max(looked_into, key=lambda each: (len(each[0] - {"evolution"}), rank(each[2])))
    return row, run


def rank(run: Run) -> tuple:
    """Which of several runs is shown: the one with the largest of these. Most epochs, then the best test accuracy."""
    accuracy = best(run, "test_accuracy")
    return len(run.history), -1.0 if math.isnan(accuracy) else accuracy, -run.seed


def visualization(rows: Sequence[RowRuns], names: Names) -> tuple[list[Block], dict[str, str]]:
    """The section, and the titles of the pictures that it shows, by visualize.py's names."""
    blocks: list[Block] = [Heading(2, "Visualization", "visualization")]
    found = find_inside(rows)
    if found is None:
        command = next((_command(run) for row in rows for run in row.complete), "python visualize.py runs/…/best.pt")
        blocks.append(
            paragraph(
                "No run of the CNN in this grid has been looked into yet with its own images. ",
                Code(command),
                " computes what belongs here and keeps it in the run's folder; then write the report again.",
            )
        )
        return blocks, {}
    row, run = found
    folder, (analyses, epoch) = run.path / "figures", to_show(run)
    text = f"What follows is computed by visualize.py from one run, {names.title(row)}, seed {run.seed}, "
    if is_best(run, epoch):
        text += f"after epoch {epoch}, at its best test accuracy (chosen on the test set): "
        blocks.append(paragraph(text, Code(_command(run)), "."))
    else:
        text += f"after epoch {epoch}, which is not that of its best test accuracy."
        blocks.append(paragraph(text))
    others = left_out(run, analyses)
    if others:
        text = (
            "What the run's folder has of it is of another epoch or of other images, lacks a file or cannot be read; "
        )
        blocks.append(paragraph(f"Left out: {listed(others)}. {text}", Code(_command(run)), " draws it anew."))
    shown = {}
    for name, (title, how) in PICTURES.items():
        if name.partition("_")[0] not in analyses:
            continue
        title = f"{title} (synthetic)" if dataset(row) == "synthetic" else title
        shown[name] = title
        png, width = _picture(folder / f"{name}.png")
        blocks += [
            Heading(3, title, f"inside-{name.replace('_', '-')}"),
            Figure(f"inside-{name.replace('_', '-')}.png", png, title, (how,), width),
        ]
        if name == "activations":
            blocks += _relu_table(folder / "activations.csv", synthetic=dataset(row) == "synthetic")
    return blocks, shown


def _command(run: Run) -> str:
    return command_line(["python", "visualize.py", typed_path((run.path / "best.pt").as_posix())], windows=False)


def _picture(path: Path) -> tuple[bytes, int]:
    """A picture as a smaller PNG of 256 colours, and its width."""
    pixels = np.asarray(Image.open(path).convert("RGB"))  # whole: `to_show` has looked at it
    return png_bytes(pixels), pixels.shape[1]


def _relu_table(path: Path, *, synthetic: bool) -> list[Block]:
    """The original's table of activations, its four numbers beside the run's."""
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        rows = []
        for line in lines:
            cells = [line["activations"]]
            for quantity in ("mean", "std"):
                original = line.get(f"report {quantity}") or None
                cells += ["–" if original is None else f"{float(original):.4f}", f"{float(line[quantity]):.4f}"]
            cells.append(f"{float(line['share of zeros']):.1%}".replace("%", " %"))
            rows.append((*cells, line["dead maps"]))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not a table that visualize.py wrote; run it again") from error
    header = ("activations", "mean, original", "mean, ours", "std, original", "std, ours", "zeros", "dead maps")
    blocks: list[Block] = [table(header, rows)]
    text = (
        "Mean and standard deviation over all test images, maps and positions. The original does not say of which of "
        "its runs its numbers are."
    )
    if synthetic:
        text += " They are of CIFAR-10, ours of synthetic images."
    blocks.append(paragraph(text))
    return blocks


def paper(shown: dict[str, str]) -> list[Block]:
    """Zeiler & Fergus in a paragraph, with pointers to the pictures above that show each method."""

    def see(*wanted: str) -> tuple[Part, ...]:
        links = [Link(shown[name], f"#inside-{name.replace('_', '-')}") for name in wanted if name in shown]
        if not links:
            return ()
        parts: list[Part] = [" Here: "]
        for index, link in enumerate(links):
            parts += [", " if index else "", link]
        return (*parts, ".")

    items = (
        (
            "Deconvnet (section 2.1). One activation of one feature map is followed back to the pixels by undoing the "
            "network layer by layer: unpool, putting each value where the maximum was, as remembered in switches "
            "during the forward pass; rectify, as the features were rectified; filter, with the transposed filters of "
            "the layer. No training is involved; the result shows which structure in that image caused the activation.",
            *see("deconvnet_conv1", "deconvnet_conv2"),
        ),
        (
            "Evolution (figure 4). Lower layers settle within a few epochs, upper ones take much longer.",
            *see("evolution_conv1", "evolution_conv2"),
        ),
        (
            "Invariance (figure 5). Small shifts, scalings and rotations change the first layer's features strongly "
            "and the top layer's little; invariance to rotation is weak.",
            *see("invariance"),
        ),
        (
            "Architecture (section 4.1). In the filters of Krizhevsky et al.'s network they saw dead filters, a lack "
            "of middle frequencies and aliasing from the stride of 4; with first filters of 7×7 in place of 11×11 and "
            "a stride of 2 the network (now called ZFNet) also made fewer errors on ImageNet 2012.",
            *see("filters_conv1"),
        ),
        (
            "Occlusion (section 4.2). A gray square slid over the image lowers the probability of the true class, and "
            "the strongest feature map, most where it covers the object: the network localises, and does not answer "
            "from the surroundings.",
            *see("occlusion"),
        ),
        (
            "Correspondence (section 4.3). Hiding the same part of the face, such as an eye, in different dogs changes "
            "the features in a more consistent way than hiding random parts.",
            *see("correspondence"),
        ),
        (
            "Transfer (section 5). With its features fixed and only the classifier trained anew, the ImageNet network "
            "beat what was known on Caltech-101 and Caltech-256, and came near on PASCAL 2012. Nothing here repeats "
            "that.",
        ),
    )
    return [
        Heading(2, "Paper Understanding", "paper"),
        paragraph(
            "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (",
            PAPER,
            "), ask why large convolutional networks do so well on ImageNet and how to make them better. Their answer "
            "is to look: they project the activity of any feature back to the pixels and so see what each layer "
            "responds to, diagnose the architecture with it, and test what the network depends on.",
        ),
        Bullets(items),
    ]
