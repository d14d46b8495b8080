"""Search for settings of the original's recurrent networks that it does not name and the scripts have no flag for.

    python benchmarks/variants.py
    python benchmarks/variants.py --cell gru --only default lr-decay
    python benchmarks/variants.py --no-train

Adam's two rows of a cell with 128 hidden units (lr 0.001 and 0.01) are trained with one change at a time, then with the
best three together, on seeds 0 to 2. The nearest settings are trained again on seeds 10 to 14, which had no part in the
choice: of so many changes some fit three seeds by chance. What only changes how the metrics are read is computed from
the default's trainings. Each training is a line of variants.jsonl and is never made twice; stop and repeat at will. The
result is variants.md. One thread; an RNN takes one to two minutes a training on one core, an LSTM or GRU three to six.
"""

import argparse
import functools
import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import PROJECT, table
from harness.cli import run_script
from harness.data import EpochOrder, ImageSet, load_images
from harness.evaluate import predict
from harness.files import write_atomically
from harness.flags import flag_words
from harness.grid.rows import Row, load_grid, parser_of
from harness.grid.runs import RowRuns, Run
from harness.metrics import METRICS, EpochMetrics
from harness.optimizers import make_optimizer
from harness.report.conclusions import MARKS, compare_all
from harness.report.results import bests_of, printed_of
from harness.train import train_epoch
from models import build_model, initialize

SEARCHED, CONFIRMED = (0, 1, 2), (10, 11, 12, 13, 14)  # seeds
SMOOTHING = 0.6  # TensorBoard's, unless one moves the slider
PLAIN_ONLY = ("init-torch", "relu")  # LSTM and GRU begin as PyTorch's do, and have no tanh to replace

# By the name for --only: what the table calls it, and what it changes. Two that change the same exclude each other.
VARIANTS = {
    "default": ("nothing", {}),
    "own-order": ("images in the set's own order", {"order": "own"}),
    "one-order": ("shuffled once, the same order each epoch", {"order": "once"}),
    "drop-last": ("last incomplete batch dropped", {"drop_last": True}),
    "batch-32": ("batches of 32", {"batch_size": 32}),
    "batch-128": ("batches of 128", {"batch_size": 128}),
    "sum-loss": ("loss summed over a batch", {"summed": True}),
    "lr-decay": ("lr × 0.7 after each epoch", {"decay": (1, 0.7)}),
    "lr-step": ("lr × 0.1 after epoch 5", {"decay": (5, 0.1)}),
    "weight-decay-4": ("weight decay 1e-4", {"weight_decay": 1e-4}),
    "weight-decay-5": ("weight decay 1e-5", {"weight_decay": 1e-5}),
    "carried": ("hidden state carried over between batches", {"carried": True}),
    "one-bias": ("one bias a unit", {"one_bias": True}),
    "columns": ("columns as steps", {"columns": True}),
    "pixels-255": ("pixels in [0, 255]", {"scale": (0, 1 / 255)}),
    "pixels-1": ("pixels in [0, 1]", {"scale": (0, 1)}),
    "pixels-sym": ("pixels in [−1, 1]", {"scale": (0.5, 0.5)}),
    "two-linear": ("a second linear layer, with ReLU", {"second": True}),
    "dropout": ("dropout 0.5 before the linear layer", {"dropout": 0.5}),
    "init-torch": ("PyTorch's first weights", {"init": "torch"}),
    "init-keras": ("Xavier, orthogonal, zero biases, also of the last layer", {"init": "keras"}),
    "relu": ("ReLU for tanh in the cell", {"relu": True}),
    "mean-steps": ("mean over the steps' outputs", {"features": "mean"}),
    "all-steps": ("every step's output into the linear layer", {"features": "all"}),
    "read-means": ("read as the mean of batch means (64)", {"reading": "means"}),
    "read-256": ("test read as the mean of batch means (256)", {"reading": "means-256"}),
    "read-best": ("best batch in place of the epoch's mean", {"reading": "best batch"}),
    "read-last": ("train read over the epoch's last 100 batches", {"reading": "last 100"}),
    "read-smooth": (f"TensorBoard's smoothing, {SMOOTHING}", {"reading": "smoothed"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", choices=("rnn", "lstm", "gru"), default="rnn")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these changes alone, a+b for two together")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEARCHED, help="of --only (default: 0 1 2)")
    parser.add_argument("--no-train", action="store_true", help="write the tables from what there is")
    parser.add_argument("--images", type=int, help="use the first so many only, to try this script")
    parser.add_argument("--epochs", type=int, help="fewer epochs, to try this script")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--results", type=Path, default=PROJECT / "benchmarks" / "variants.jsonl")
    flags = parser.parse_args()
    for name in (part for key in flags.only or () for part in key.split("+")):
        if name not in VARIANTS:
            parser.error(f"--only {name}: there are {', '.join(VARIANTS)}")
    torch.set_num_threads(1)

    rows = printed_rows(flags.cell)
    if not flags.no_train:
        images = load_images("mnist", data_dir=flags.data_dir)
        images = images.first(flags.images) if flags.images else images
        train_lacking = functools.partial(train_what_lacks, rows=rows, images=images, flags=flags)
        every = [name for name in VARIANTS if flags.cell == "rnn" or name not in PLAIN_ONLY]
        train_lacking(flags.only or every, seeds=flags.seeds)
        if not flags.only:
            nearest = best_changes(rows, read_results(flags.results))
            train_lacking(["+".join(nearest)], seeds=SEARCHED)
            train_lacking(confirmed_changes(nearest), seeds=CONFIRMED)
    text = "\n".join(tables(printed_rows(cell), cell, read_results(flags.results)) for cell in ("rnn", "lstm", "gru"))
    write_atomically(flags.results.with_suffix(".md"), text.encode())
    print(text)
    return 0


def printed_rows(cell: str) -> list[Row]:
    """The rows of the grid that the original printed with this cell, Adam and 128 hidden units, smaller lr first."""
    rows, _ = load_grid(PROJECT / "experiments.toml")
    wanted = {"cell": cell, "optimizer": "adam", "hidden_size": 128}
    return sorted((row for row in rows if wanted.items() <= row.flags.items()), key=lambda row: row.flags["lr"])


def changes_of(name: str) -> dict:
    """What a name of VARIANTS changes, or several with + between."""
    return {what: value for part in name.split("+") for what, value in VARIANTS[part][1].items()}


def title_of(name: str) -> str:
    return ", ".join(VARIANTS[part][0] for part in name.split("+"))


def trained_as(name: str) -> str:
    """The name without what only changes how metrics are read."""
    return "+".join(part for part in name.split("+") if "reading" not in VARIANTS[part][1]) or "default"


# -- training ----------------------------------------------------------------------------------------------------------


def train_what_lacks(
    names: Iterable[str], *, rows: list[Row], images: ImageSet, flags: Namespace, seeds: Iterable[int]
) -> None:
    """Train what the results lack of these changes, seed by seed, so that all have their first seed first."""
    names = dict.fromkeys(map(trained_as, names))
    for seed, name, row in ((seed, name, row) for seed in seeds for name in names for row in rows):
        key = name, row.name, seed
        if key in read_results(flags.results):
            continue
        own = parser_of(row.script).parse_args(flag_words(row.flags | {"seed": seed}))
        own.epochs = flags.epochs or own.epochs
        started = time.perf_counter()
        readings = train_changed(images, own, changes_of(name))
        record = {"change": name, "row": row.name, "seed": seed, "readings": readings}
        with flags.results.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(record))  # the line break first: a line that a kill has torn ends there
        accuracy = max(epoch[3] for epoch in readings["epoch"])
        print(f"{row.name}, seed {seed}, {name}: {accuracy:.4f}, {time.perf_counter() - started:.0f} s", flush=True)


def train_changed(images: ImageSet, flags: Namespace, changes: dict) -> dict[str, list[list[float]]]:
    """Train with a row's flags and these changes as harness.train does; returns the four metrics of each epoch.

    They are there once for each way to read them; "epoch" is the project's.
    """
    flags.batch_size = changes.get("batch_size", flags.batch_size)
    flags.weight_decay = changes.get("weight_decay", flags.weight_decay)
    images = changed_images(images, changes)
    torch.manual_seed(flags.seed)  # of dropout
    model = changed_model(images, flags, changes)
    optimizer = make_optimizer(flags, model, torch.device("cpu"))
    generator = torch.Generator().manual_seed(flags.seed)
    count = len(images.train)
    first_order = EpochOrder.draw(count, torch.Generator().manual_seed(flags.seed))
    orders = {"own": EpochOrder(torch.arange(count)), "once": first_order}
    every, factor = changes.get("decay", (1, 1))
    readings: dict[str, list[list[float]]] = {}
    for epoch in range(1, flags.epochs + 1):
        order, part = orders.get(changes.get("order")) or EpochOrder.draw(count, generator), images
        if changes.get("drop_last"):  # other images each epoch
            whole = count - count % flags.batch_size
            part = replace(images, train=images.train.part(order.indices[:whole]))
            order = EpochOrder(torch.arange(whole))
        steps = [(0, 0.0, 0.0)]

        def keep(count: int, sums: Tensor, steps: list[tuple] = steps) -> None:
            steps.append((count, *sums.tolist()))

        train = train_epoch(model, optimizer, part, order, flags, keep)
        for name, metrics in each_reading(np.array(steps), *test_each(model, images)).items():
            readings.setdefault(name, []).append([*train, *metrics[2:]] if name == "epoch" else metrics)
        if not all(map(math.isfinite, readings["epoch"][-1])):
            break
        if epoch % every == 0:
            optimizer.param_groups[0]["lr"] *= factor
    return readings


def test_each(model: nn.Module, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Loss of each test image, and whether the answer is right."""
    logits, labels = predict(model, images, "fp32"), images.test.labels
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(dim=1) == labels


def each_reading(steps: np.ndarray, losses: Tensor, right: Tensor) -> dict[str, list[float]]:
    """An epoch's train loss and accuracy, test loss and accuracy, in each way to read them.

    `steps` (steps + 1, 3): the images of each step, then the sums of loss and of right answers up to it.
    """
    train = np.diff(steps[:, 1:], axis=0) / steps[1:, :1]  # the mean of each batch
    whole = [losses.sum(dtype=torch.float64).item() / len(losses), right.sum().item() / len(right)]

    def batches(size: int) -> np.ndarray:
        means = [[part.double().mean().item() for part in values.split(size)] for values in (losses, right)]
        return np.array(means).T

    def best(means: np.ndarray) -> list[float]:
        return [means[:, 0].min().item(), means[:, 1].max().item()]

    last = steps[max(0, len(steps) - 101) :]
    mean_of_last = ((last[-1, 1:] - last[0, 1:]) / last[1:, 0].sum()).tolist()
    epoch = (steps[-1, 1:] / steps[:, 0].sum()).tolist()
    return {
        "epoch": [*epoch, *whole],
        "means": [*train.mean(axis=0).tolist(), *batches(64).mean(axis=0).tolist()],
        "means-256": [*epoch, *batches(256).mean(axis=0).tolist()],
        "best batch": [*best(train), *best(batches(64))],
        "last 100": [*mean_of_last, *whole],
    }


def changed_images(images: ImageSet, changes: dict) -> ImageSet:
    mean, std = changes.get("scale", (images.mean, images.std))
    images = replace(images, mean=mean, std=std)
    if changes.get("columns"):
        for name, split in images.splits.items():
            images = replace(images, **{name: replace(split, images=split.images.transpose(2, 3).contiguous())})
    return images


# -- the network -------------------------------------------------------------------------------------------------------


def changed_model(images: ImageSet, flags: Namespace, changes: dict) -> nn.Module:
    """The row's network, drawn from its seed, with the changes made to it."""
    _, _, steps, pixels = images.train.images.shape
    classes, width = len(images.classes), flags.hidden_size
    sizes = {"cell": flags.cell, "input_size": pixels, "hidden_size": width, "classes": classes}
    model = build_model({"model": {"name": "RecurrentClassifier", **sizes}}, seed=flags.seed)
    generator = torch.Generator().manual_seed(flags.seed)
    features = changes.get("features", "last")
    inputs = width * (steps if features == "all" else 1)
    if changes.get("second"):
        model.fc = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))
        initialize(model.fc, generator)
    elif inputs != width:
        model.fc = nn.Linear(inputs, classes)
        initialize(model.fc, generator)
    if "dropout" in changes:
        model.fc = nn.Sequential(nn.Dropout(changes["dropout"]), model.fc)
    if "init" in changes:
        {"torch": draw_as_torch, "keras": draw_as_keras}[changes["init"]](model, generator)
    second_bias = model.recurrent.bias_hh_l0
    if changes.get("one_bias"):
        nn.init.zeros_(second_bias)
        second_bias.register_hook(torch.zeros_like)  # and it never moves
    if changes.get("summed"):
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient * flags.batch_size)
    if changes.get("relu"):
        model.recurrent.mode = "RNN_RELU"  # which PyTorch's layer goes by
    own_layer = features != "last" or changes.get("carried") or changes.get("relu")
    return ByPyTorch(model, features, bool(changes.get("carried"))) if own_layer else model


class ByPyTorch(nn.Module):
    """The same network with PyTorch's own layer, for what models/recurrence.py leaves out as it is faster."""

    def __init__(self, model: nn.Module, features: str, carried: bool) -> None:
        super().__init__()
        self.recurrent, self.fc, self.features, self.carried = model.recurrent, model.fc, features, carried
        self.state: Tensor | tuple[Tensor, ...] | None = None

    def forward(self, images: Tensor) -> Tensor:
        rows = images.squeeze(1).transpose(0, 1).contiguous()  # (steps, batch, pixels)
        before = self.state if self.carried else None
        hidden = before[0] if isinstance(before, tuple) else before  # (1, batch, hidden), an LSTM's before its cell's
        if hidden is not None and hidden.shape[1] != rows.shape[1]:
            before = None  # the batch is of another size: it starts from zero
        outputs, state = self.recurrent(rows, before)  # outputs (steps, batch, hidden)
        self.state = tuple(each.detach() for each in state) if isinstance(state, tuple) else state.detach()
        if self.features == "all":
            return self.fc(outputs.transpose(0, 1).flatten(1))
        return self.fc(outputs.mean(dim=0) if self.features == "mean" else outputs[-1])


@torch.no_grad()
def draw_as_torch(model: nn.Module, generator: torch.Generator) -> None:
    """The recurrent layer as PyTorch draws it, which the project does for LSTM and GRU alone."""
    bound = 1 / math.sqrt(model.recurrent.hidden_size)
    for parameter in model.recurrent.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)


@torch.no_grad()
def draw_as_keras(model: nn.Module, generator: torch.Generator) -> None:
    """As Keras does: Xavier from the input and in linear layers, orthogonal from step to step, biases zero."""
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
            continue
        draw = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
        # PyTorch stacks the weights of all gates in one tensor; each gate is a matrix of its own.
        gates = parameter.shape[0] // model.recurrent.hidden_size if "recurrent" in name else 1
        for gate in parameter.chunk(gates):
            draw(gate, generator=generator)


# -- results -----------------------------------------------------------------------------------------------------------

Results = dict[tuple[str, str, int], dict]  # by change as trained, row and seed


def read_results(path: Path) -> Results:
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:  # empty, or torn by a kill
            continue
        results[record["change"], record["row"], record["seed"]] = record["readings"]
    return results


def runs_of(row: Row, name: str, seeds: Iterable[int], results: Results) -> RowRuns:
    """The row's runs with a change, as the report has those of the grid; with the seeds that are there."""
    reading, runs = changes_of(name).get("reading", "epoch"), {}
    for seed in seeds:
        if readings := results.get((trained_as(name), row.name, seed)):
            epochs = smoothed(readings["epoch"]) if reading == "smoothed" else readings[reading]
            history = [EpochMetrics(number, *epoch, 0.0) for number, epoch in enumerate(epochs, start=1)]
            status = "complete" if history[-1].finite else "diverged"
            runs[seed] = Run(Path(), seed, status, {"flags": {"data": "mnist"}}, history)
    return RowRuns(row, runs, tuple(seeds))


def smoothed(epochs: list[list[float]]) -> list[list[float]]:
    """TensorBoard's: an exponential mean, without the bias of its start at zero."""
    means, last = [], np.zeros(len(METRICS))
    for number, epoch in enumerate(epochs, start=1):
        last = SMOOTHING * last + (1 - SMOOTHING) * np.array(epoch)
        means.append((last / (1 - SMOOTHING**number)).tolist())
    return means


def off_by(rows: list[RowRuns]) -> float:
    """By what factor losses and shares of errors differ from the printed ones, on the geometric mean over all."""
    logs = []
    for row in rows:
        for metric, ours, printed in zip(METRICS, bests_of(row.complete), printed_of(row), strict=True):
            if ours is None:
                return math.inf
            pair = [1 - ours.mean, 1 - printed] if metric.endswith("accuracy") else [ours.mean, printed]
            logs.append(abs(math.log(max(pair[0], 1e-4) / pair[1])))
    return math.exp(sum(logs) / len(logs))


def best_changes(rows: list[Row], results: Results) -> list[str]:
    """The three changes nearest to the printed values of all rows, of those that are nearer than the default.

    Of two that exclude each other the nearer counts.
    """
    distance = {name: off_by([runs_of(row, name, SEARCHED, results) for row in rows]) for name in VARIANTS}
    chosen: list[str] = []
    for name in sorted(VARIANTS, key=distance.get):
        taken = changes_of("+".join(chosen)) if chosen else {}
        if distance[name] < distance["default"] and not taken.keys() & changes_of(name).keys():
            chosen.append(name)
    return chosen[:3] or ["default"]


def confirmed_changes(nearest: list[str]) -> list[str]:
    return [*dict.fromkeys(["default", *nearest, "+".join(nearest)])]


def tables(rows: list[Row], cell: str, results: Results) -> str:
    """What was found for a cell, as Markdown; empty if nothing was trained."""
    trained = [*dict.fromkeys(name for name, row, _ in results if row in {each.name for each in rows})]
    if not trained:
        return ""
    readings = [name for name in VARIANTS if trained_as(name) != name and "default" in trained]
    nearest = best_changes(rows, results)
    names = [*dict.fromkeys([*trained, *readings, "+".join(nearest)])]
    rates = [f"lr {row.flags['lr']}" for row in rows]

    def found(name: str, seeds: Iterable[int]) -> list[RowRuns]:
        return [runs_of(row, name, seeds, results) for row in rows]

    def marks(row: RowRuns) -> str:
        return " ".join(each.mark or "–" for each in compare_all(row))

    def test_accuracy(row: RowRuns) -> str:
        ours, diverged = bests_of(row.complete)[3], len(row.runs) - len(row.complete)
        return f"{ours or '–'}" + (f" ({diverged} of {len(row.runs)} diverged)" if diverged else "")

    lines = []
    for name in names:
        of_rows = found(name, SEARCHED)
        if any(row.runs for row in of_rows):
            cells = [cell for row in of_rows for cell in (f"{off_by([row]):.2f}", test_accuracy(row), marks(row))]
            lines.append((off_by(of_rows), [title_of(name), *cells, str(min(len(row.runs) for row in of_rows))]))
    lines.sort(key=lambda line: line[0])
    head = [
        "change",
        "off by",
        *(text for rate in rates for text in (f"{rate}: off by", "test accuracy", "verdicts")),
        "seeds",
    ]
    searched = [[cells[0], f"{factor:.2f}", *cells[1:]] for factor, cells in lines]
    printed = ["**printed**", "1"] + [cell for row in rows for cell in ("1", row.printed["test_accuracy"], "")] + [""]
    text = [f"### {cell.upper()}, one change at a time\n", *table(head, [printed, *searched])]

    confirmed, reached = [], []
    for name in names:
        for row, rate in zip(found(name, CONFIRMED), rates, strict=True):
            if row.complete and (name not in readings or name in nearest):
                compared = compare_all(row)
                cells = [f"{each.mark} {each.ours}" for each in compared]
                confirmed.append([rate, title_of(name), *cells, str(len(row.complete))])
                together = compare_all(runs_of(row.row, name, SEARCHED + CONFIRMED, results))
                if all(each.verdict == "agrees" for each in compared + together):
                    reached.append(f"{title_of(name)} ({rate})")
    if confirmed:
        for row in rows:
            confirmed.append([f"lr {row.flags['lr']}", "**printed**", *(row.printed[metric] for metric in METRICS), ""])
        confirmed.sort(key=lambda line: (line[0], line[1] != "**printed**"))
        head = ["", "change", *(metric.replace("_", " ") for metric in METRICS), "seeds"]
        text += [f"\n### {cell.upper()}, on seeds that had no part in the choice\n", *table(head, confirmed, left=2)]
        reached = "; ".join(reached) or "nothing that was tried"
        text += [f"\nAll four printed values agree, on these seeds and on all eight, with: {reached}."]
    legend = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    return "\n".join([*text, f"\nVerdicts on {', '.join(m.replace('_', ' ') for m in METRICS)}: {legend}.\n"])


if __name__ == "__main__":
    sys.exit(run_script(main))
