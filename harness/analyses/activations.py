"""How strongly each ReLU responds to the test images, beside the two numbers of the original report."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.ticker import EngFormatter, LogLocator

from harness.analyses.base import Subject, short
from harness.analyses.findings import Findings, Picture, Table
from harness.pictures import INK, TEST, TRAIN, Drawing, both, titled_figure
from interpret.activations import LayerStatistics, activation_statistics

NEEDS = ("images",)
HEADER = (
    *("activations", "mean", "std", "original mean", "original std"),
    *("share of zeros", "dead maps", "maps active in every image"),
)
REPORT = ((0.0657, 0.1373), (0.1000, 0.3112))  # mean and standard deviation of ReLU1 and ReLU2, as printed there

TEXT = """\
Mean and standard deviation over all images, maps and positions, the standard deviation divided by n. A dead map is \
zero at every position of every image; one active in every image is above zero somewhere in each."""


def analyze(subject: Subject) -> Findings:
    layers = activation_statistics(subject.model, subject.inputs[subject.searched])
    where = f"{subject.source}, {subject.searched_images}"
    title = f"Activations: {where}"
    picture, tables = Picture("activations", draw(layers, title), title), make_tables(layers, where)
    return Findings("Activation statistics", TEXT, [picture], tables, printed_table(tables[0].rows, where))


def make_tables(layers: Sequence[LayerStatistics], where: str) -> list[Table]:
    """The report's table, a row a ReLU; the same of each feature map; and the histograms."""
    rows, by_map, bins = [], [], []
    for number, layer in enumerate(layers, start=1):
        name = f"ReLU{number}"
        report = REPORT[number - 1] if len(layers) == len(REPORT) else (None, None)  # of another network: nothing
        rows.append((name, layer.mean, layer.std, *report, layer.zeros, len(layer.dead), len(layer.active_in_all)))
        columns = (layer.map_mean, layer.map_std, layer.map_zeros, layer.map_images, layer.map_max)
        by_map += [(name, index, *row) for index, row in enumerate(torch.stack(columns, dim=1).tolist())]
        edges, counts = layer.histogram_edges.tolist(), layer.histogram_counts.tolist()
        bins.append((name, None, None, layer.zero_count))
        bins += [(name, *each) for each in zip(edges[:-1], edges[1:], counts, strict=True)]
    title = f"Activations, {where}; the original's numbers are of one of its networks on CIFAR-10"
    header_by_map = ("activations", "map", "mean", "std", "share of zeros", "share of images", "max")
    histogram = f"Histogram of activations, {where}; the row without a range counts the zeros"
    return [
        Table("activations", title, HEADER, rows),
        Table("activations_maps", f"Activations of each feature map, {where}", header_by_map, by_map),
        Table("activations_histogram", histogram, ("activations", "from", "below", "count"), bins),
    ]


def printed_table(rows: Sequence[tuple], where: str) -> str:
    """The report's table for the terminal."""
    lines = ["", f"  {where}", "", "  activations     mean      std    original      std    zeros  dead  active in all"]
    for name, mean, std, report_mean, report_std, zeros, dead, in_all in rows:
        report = " " * 16 if report_mean is None else f"{report_mean:7.4f}  {report_std:7.4f}"
        lines.append(f"  {name:11}  {mean:7.4f}  {std:7.4f}     {report}   {zeros:6.1%}  {dead:4}  {in_all:13}")
    return "\n".join([*lines, ""])


def draw(layers: Sequence[LayerStatistics], title: str) -> Drawing:
    """Of each layer mean and standard deviation of each map, and the histogram of all outputs."""
    figure = titled_figure(title, 8, 2.6 * len(layers) + 0.4)
    grid = figure.subplots(len(layers), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), layer in zip(grid, layers, strict=True):
        borders = np.arange(len(layer.map_mean) + 1) - 0.5
        left.stairs(layer.map_mean.numpy(), borders, color=TRAIN, alpha=0.6, fill=True, label="mean")
        left.stairs(layer.map_std.numpy(), borders, color=INK, linewidth=0.8, label="standard deviation")
        if layer.dead:
            left.plot(layer.dead, np.zeros(len(layer.dead)), "x", color=TEST, label="dead", clip_on=False)
        if not 1e-3 < layer.map_std.max() < 1e4:
            left.yaxis.set_major_formatter("{x:g}")  # a common factor would stand where the legend does
        left.set(xlabel="feature map", ylabel=f"activation, {short(layer.layer)}", xlim=(-1, len(layer.map_mean)))
        left.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 0.99), borderaxespad=0)
        # Without the first bin, which holds all that is smaller still.
        edges, counts = layer.histogram_edges[1:].numpy(), layer.histogram_counts[1:].numpy()
        if counts.any():
            right.stairs(counts / np.log2(edges[1:] / edges[:-1]), edges, fill=True, color=TRAIN)
            right.set(xscale="log", yscale="log", xlabel="activation above zero", ylabel="how many per factor of 2")
            right.xaxis.set(major_locator=LogLocator(numticks=5), major_formatter="{x:g}")
            right.yaxis.set_major_formatter(EngFormatter(sep=""))
        else:  # the whole layer is dead
            right.set_axis_off()
            right.text(0.5, 0.5, "no activation above zero", transform=right.transAxes, ha="center")
            left.set_ylim(0, 1)
        right.set_title(f"{layer.zeros:.1%} of all are zero")
    return both(figure)
