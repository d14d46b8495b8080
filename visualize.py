"""Look inside a trained CNN: its filters and activations, and every analysis of Zeiler & Fergus (arXiv 1311.2901).

Writes figures, tables and an index.html that shows them all to figures/ in the run's folder; see the README.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import Interrupted, UserError
from harness.flags import Help, Parser, command_line, program, seed_number
from harness.script import run_script

if TYPE_CHECKING:  # PyTorch takes seconds to import; the flags are answered before
    import numpy as np
    from torch import Tensor, nn

    from harness.data import ImageSet
    from harness.gallery import Findings
    from harness.trained import Trained

STRONGEST = 9  # activations shown of a map, as in the paper
MAPS_SHOWN, MAPS_EVOLVING = 12, 6  # of each convolution, if --maps names none
AVERAGED = 200  # random images that the invariance curves' mean is over
OF_EACH_CLASS = 10  # images in the correspondence table
REPORT = ((0.0657, 0.1373), (0.1000, 0.3112))  # mean and standard deviation of ReLU1 and ReLU2, as printed there


@dataclass
class Subject:
    """What is looked at: the network, the test images (None where no analysis needs them), and what was asked for.

    `inputs` are the test images as the network takes them, float32 (n, channels, height, width), and `labels` their
    classes (n,); `snapshots` maps epochs to convolution weights; `maps` convolutions to the numbers given by --maps.
    """

    trained: "Trained"
    flags: argparse.Namespace
    images: "ImageSet | None" = None
    inputs: "Tensor | None" = None
    labels: "Tensor | None" = None
    snapshots: dict | None = None
    maps: dict[str, list[int]] | None = None

    @property
    def model(self) -> "nn.Module":
        return self.trained.model

    @property
    def source(self) -> str:
        """What stands in every title: on what the network was trained, and what it is shown if that is another set."""
        return self._source(f", epoch {self.trained.epoch}")

    @property
    def source_of_all_epochs(self) -> str:
        return self._source("")

    def _source(self, epoch: str) -> str:
        learnt = f"{self.trained.dataset} {self.trained.channels}{epoch}"
        if self.images is None or self.images.name == self.trained.dataset:
            return learnt
        return f"trained on {learnt}; images of {self.images.name}"

    @property
    def gray(self) -> float:
        """Mid-gray, as the network's input has it."""
        return (0.5 - self.images.mean) / self.images.std

    def pixels(self, inputs: "Tensor") -> "np.ndarray":
        """The network's input as uint8 pixels again."""
        return ((inputs * self.images.std + self.images.mean) * 255).round().clamp(0, 255).byte().cpu().numpy()

    @cached_property
    def order(self) -> "Tensor":
        """The random order of the test images, from --seed, of which every analysis takes the first that it can use."""
        import torch

        return torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(self.flags.seed))

    @cached_property
    def layers(self) -> dict[str, str]:
        """Each convolution and the layer whose maps are looked at: the ReLU behind it or, without one, itself."""
        from torch import nn

        from interpret import trace

        chain = trace(self.model, self.inputs)
        pairs = zip(chain, [*chain[1:], None], strict=True)
        return {
            layer.name: after.name if after and isinstance(after.module, nn.ReLU) else layer.name
            for layer, after in pairs
            if isinstance(layer.module, nn.Conv2d)
        }

    @cached_property
    def strongest(self) -> dict:
        """The strongest activations of each map of each looked-at layer over the test images."""
        from interpret import strongest_activations

        return strongest_activations(self.model, self.inputs, list(self.layers.values()), count=STRONGEST)

    def chosen_maps(self, convolution: str, count: int) -> list[int]:
        """The maps of --maps or, as in the paper, a random few of those that respond to anything."""
        import torch

        if convolution in self.maps:
            return self.maps[convolution]
        responds = self.strongest[self.layers[convolution]].values[:, 0] > 0
        order = torch.randperm(len(responds), generator=torch.Generator().manual_seed(self.flags.seed))
        if responds.any():  # else the layer is dead as a whole, which is to be seen, too
            order = order[responds[order]]
        return sorted(order[:count].tolist())

    @cached_property
    def shown(self) -> "Tensor":
        """Indices of --images random test images of as many classes as there are, if possible classified rightly."""
        import torch

        order = self.order[:1000]
        with torch.no_grad():
            right = (self.model(self.inputs[order]).argmax(dim=1) == self.labels[order]).tolist()
        labels = self.labels[order].tolist()
        seen: dict[int, int] = {}
        ranks = []  # wrong ones last; then the first of each class, the second of each class, ...
        for label, is_right in zip(labels, right, strict=True):
            seen[label] = seen.get(label, -1) + is_right
            ranks.append((not is_right, seen[label]))
        best = sorted(range(len(order)), key=ranks.__getitem__)
        return order[torch.tensor(best[: self.flags.images])]


def visualize_weight(subject: Subject) -> "Findings":
    """The filters of every convolution as pictures, on one scale or, with --per-filter, on each one's own."""
    from harness import findings
    from interpret import convolutions, filter_pictures, filter_weights

    layers = []
    for layer in convolutions(subject.model):
        weights = filter_weights(subject.model, layer)
        drawn, limit = filter_pictures(weights, per_filter=subject.flags.per_filter)
        layers.append((layer, weights.numpy(), drawn.numpy(), limit.numpy()))
    return findings.filters(layers, subject.source, per_filter=subject.flags.per_filter)


def show_activation_statistics(subject: Subject) -> "Findings":
    """Mean and standard deviation of every ReLU over the test set, printed as the report's table; and more of each."""
    from harness import findings
    from interpret import activation_statistics

    layers = activation_statistics(subject.model, subject.inputs)
    rows = []
    for number, layer in enumerate(layers):
        report = REPORT[number] if number < len(REPORT) else (None, None)
        maps = len(layer.dead), len(layer.always_on)
        rows.append((f"ReLU{number + 1}", layer.mean, layer.std, *report, layer.zeros, *maps))
    print(f"\n  {subject.source}, {layers[0].images:,} test images\n")
    print("  activations     mean      std      report      std    zeros  dead  always on")
    for name, mean, std, report_mean, report_std, zeros, dead, always_on in rows:
        report = " " * 16 if report_mean is None else f"{report_mean:7.4f}  {report_std:7.4f}"
        print(f"  {name:11}  {mean:7.4f}  {std:7.4f}     {report}   {zeros:6.1%}  {dead:4}  {always_on:9}")
    print()
    return findings.activations(layers, rows, subject.source)


def show_deconvnet(subject: Subject) -> "Findings":
    """The nine strongest activations of some maps, each projected to pixels, beside the patches (figure 2)."""
    import torch

    from harness import findings
    from interpret import reconstruct

    shown = []
    for convolution, layer in subject.layers.items():
        strongest = subject.strongest[layer]
        maps = subject.chosen_maps(convolution, MAPS_SHOWN)
        count = strongest.images.shape[1]
        numbers = torch.tensor(maps).repeat_interleave(count)
        found = [
            each[maps].flatten() for each in (strongest.images, strongest.rows, strongest.columns, strongest.values)
        ]
        pixels = reconstruct(subject.model, subject.inputs[found[0]], layer, numbers, found[1], found[2])
        projected, patches = _tiles(subject, layer, pixels, *found)
        entries = []
        for index, number in enumerate(maps):
            value, here = float(strongest.values[number, 0]), slice(index * count, (index + 1) * count)
            heading = f"map {number}: {value:.3g}" if value > 0 else f"map {number}: dead"
            entries.append((heading, projected[here], patches[here]))
        ranks = [*range(1, count + 1)] * len(maps)
        shown.append((convolution, entries, _rows(subject, layer, numbers.tolist(), ranks, *found)))
    return findings.deconvnet(shown, subject.source)


def show_evolution(subject: Subject) -> "Findings":
    """The strongest activation of some maps at each snapshot of the run, projected to pixels (figure 4)."""
    import torch

    from harness import findings
    from interpret import evolution

    shown = []
    for convolution, layer in subject.layers.items():
        maps = subject.chosen_maps(convolution, MAPS_EVOLVING)
        stages = evolution(subject.model, subject.inputs, layer, maps, subject.snapshots)
        pixels = torch.cat([stage.reconstructions for stage in stages])
        fields = ("images", "rows", "columns", "values")
        found = [torch.cat([getattr(stage, field) for stage in stages]) for field in fields]
        projected, patches = _tiles(subject, layer, pixels, *found)
        of_map = [slice(index, None, len(maps)) for index in range(len(maps))]
        entries = [(f"map {maps[index]}", projected[of], patches[of]) for index, of in enumerate(of_map)]
        epochs = [stage.epoch for stage in stages for _ in maps]
        shown.append((convolution, entries, _rows(subject, layer, maps * len(stages), epochs, *found)))
    return findings.evolution(shown, sorted(subject.snapshots), subject.source_of_all_epochs)


def show_invariance(subject: Subject) -> "Findings":
    """How far features move, and the true class's probability, under translation, scale and rotation (figure 5)."""
    import torch

    from harness import findings
    from harness.figures import IMAGE_COLOURS, framed, image_tile, mosaic
    from interpret import invariance, transform

    reach = max(1, round(subject.inputs.shape[-1] * 60 / 224))  # the paper's 60 pixels of 224
    kinds = {  # the amounts of the curves, and of the examples shown beside them
        "translation": (range(-reach, reach + 1), (-reach, 0, reach)),
        "scale": ([step / 10 for step in range(6, 19)], (0.6, 1, 1.8)),
        "rotation": (range(0, 360, 15), (0, 45, 90)),
    }
    shown = subject.shown
    chosen = torch.cat([shown, subject.order[:AVERAGED]])
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    results, examples = [], []
    for kind, (amounts, moves) in kinds.items():
        results.append(invariance(subject.model, inputs, labels, kind, list(amounts), fill=subject.gray))
        moved = [subject.pixels(transform(inputs[: len(shown)], kind, each, fill=subject.gray)) for each in moves]
        tiles = [framed(image_tile(images[row]), IMAGE_COLOURS[row]) for row in range(len(shown)) for images in moved]
        examples.append(mosaic(tiles, len(moves), zoom=2, gap=3))
    names = [subject.images.classes[label] for label in labels[: len(shown)].tolist()]
    return findings.invariance(results, examples, shown.tolist(), names, subject.source)


def show_occlusion(subject: Subject) -> "Findings":
    """What a gray square slid over the image does to the answer and to the strongest map (figure 7)."""
    from harness import findings
    from interpret import occlusion, reconstruct_maps

    shown = subject.shown
    inputs, labels = subject.inputs[shown], subject.labels[shown]
    maps = occlusion(subject.model, inputs, labels, size=subject.inputs.shape[-1] // 4, value=subject.gray)
    projected = reconstruct_maps(subject.model, inputs, maps.layer, maps.strongest_map).cpu().numpy()
    images, classes = subject.images.test.images[shown].numpy(), subject.images.classes
    return findings.occlusion(maps, images, projected, shown.tolist(), labels.tolist(), classes, subject.source)


def show_correspondence(subject: Subject) -> "Findings":
    """Whether hiding the same part changes different images' features alike (table 1), adapted to these images."""
    import torch

    from harness import findings
    from interpret import correspondence
    from interpret.correspondence import LAYERS, PARTS

    order = subject.order
    labels = subject.labels.cpu()[order]
    chosen = torch.cat([order[labels == label][:OF_EACH_CLASS] for label in range(len(subject.images.classes))])
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    size = subject.inputs.shape[-1] // 4
    settings = {"size": size, "stride": max(1, size // 2), "value": subject.gray, "seed": subject.flags.seed}
    cells = correspondence(subject.model, inputs, labels, **settings)
    return findings.correspondence(cells, PARTS, LAYERS, subject.source)


ANALYSES = {
    "filters": visualize_weight,
    "activations": show_activation_statistics,
    "deconvnet": show_deconvnet,
    "evolution": show_evolution,
    "invariance": show_invariance,
    "occlusion": show_occlusion,
    "correspondence": show_correspondence,
}


def main(argv: Sequence[str] | None = None) -> int:
    flags = _parse(argv)

    from harness.files import FolderLock, check_writable, make_folder
    from harness.trained import load_snapshots, load_test_images, load_trained
    from models import build_model

    trained = load_trained(flags.checkpoint, build_model)
    subject = Subject(trained, flags, maps=_maps_of(flags.maps or [], _convolutions(trained)))
    analyses = list(flags.only or ANALYSES)
    if "evolution" in analyses:
        subject.snapshots = load_snapshots(trained)
        if not subject.snapshots and flags.only:
            raise UserError(f"{trained.folder} has no snapshots to show the evolution of; train with --snapshot-epochs")
        if not subject.snapshots:
            print(f"note: evolution left out, {trained.folder} has no snapshots (--snapshot-epochs)")
            analyses.remove("evolution")
    if analyses != ["filters"]:
        import torch

        from harness.train import choose_device, choose_threads

        device = choose_device(flags.device)
        choose_threads()
        subject.images = load_test_images(trained, flags.data, data_dir=flags.data_dir, mirror=flags.mirror)
        if subject.images.name != trained.dataset:
            print(
                f"note: trained on {trained.dataset}; a class of {subject.images.name} counts as the one of its number"
            )
        elif subject.images.checksum != trained.checksum:
            print(f"note: {subject.images.name} here is not the very set that {flags.checkpoint} was trained on")
        test = subject.images.test.to(device)
        # Laid out as in training, which is how convolutions are fastest.
        trained.model.to(device, memory_format=torch.channels_last)
        subject.inputs = subject.images.normalise(test.images).contiguous(memory_format=torch.channels_last)
        subject.labels = test.labels
    lock = FolderLock(
        trained.folder / ".lock", refusal=f"a training is writing in {trained.folder}; wait for it to add to its events"
    )
    if flags.tensorboard:
        from harness.events import find_events

        find_events(trained.folder)
        check_writable(trained.folder)
        with lock:  # early, so that nothing is computed in vain
            pass
    folder = flags.out or trained.folder / "figures"
    make_folder(folder)
    check_writable(folder)  # now rather than after the first analysis
    pictures = _run(analyses, subject, folder)
    if flags.tensorboard:
        from harness.events import replace_images

        with lock:
            replace_images(trained.folder, {f"figures/{each.name}": each.pixels for each in pictures}, trained.epoch)
        shown_by = command_line([program("tensorboard"), "--logdir", str(trained.folder)])
        print(f"{len(pictures)} figures are in the Images tab: {shown_by}")
    print(f"{folder / 'index.html'} shows them all")
    return 0


def _run(analyses: list[str], subject: Subject, folder: Path) -> list:
    """Compute, draw and write one analysis after the other, and say so; returns the pictures."""
    from tqdm import tqdm

    from harness.gallery import write_findings

    pictures, flags = [], subject.flags
    title = f"Inside {type(subject.model).__name__}: {subject.source}"
    with tqdm(analyses, unit="", leave=False, disable=not sys.stderr.isatty()) as bar:
        for name in bar:
            bar.set_description(name)
            started = time.perf_counter()
            try:
                with tqdm.external_write_mode(file=sys.stdout) if name == "activations" else contextlib.nullcontext():
                    findings = ANALYSES[name](subject)
                made = f"{flags.checkpoint}, epoch {subject.trained.epoch}: {command_line(flags.command)}"
                write_findings(folder, name, findings, page_title=title, made=made, order=list(ANALYSES))
            except Interrupted as interruption:
                interruption.message = f"interrupted during {name}; what was finished before is in {folder}"
                raise
            files = ", ".join(f"{picture.name}.png" for picture in findings.pictures)
            tqdm.write(f"{name:14} {time.perf_counter() - started:5.1f} s   {files}", file=sys.stdout)
            sys.stdout.flush()
            pictures += findings.pictures
    return pictures


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="best.pt or last.pt of a run of cnn_cifar10.py")
    group = parser.add_argument_group("what to look at")
    group.add_argument(
        "--only", metavar="NAME,NAME", type=_analyses, help=f"some of {','.join(ANALYSES)} (default: all)"
    )
    group.add_argument(
        "--images", type=_image_count, default=5, help="test images in invariance and occlusion, 1 to 10"
    )
    group.add_argument("--maps", nargs="+", type=_map_numbers, metavar="[LAYER:]N,N",
        help="maps in deconvnet and evolution, of the last convolution or of LAYER (default: random ones)")  # fmt: skip
    group.add_argument("--per-filter", action="store_true", help="scale each filter by itself")
    group.add_argument("--seed", type=seed_number, default=0, help="of the random choice of images and maps")
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data", choices=("cifar10", "mnist", "synthetic"), help="test images (default: those of the training)"
    )
    group.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of the image sets, filled if empty")
    group.add_argument("--mirror", help="URL, or local path, of the archive(s), tried before the known sources")
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: cuda, mps or cpu"
    )
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=Path, help="folder to write to (default: figures/ beside the checkpoint)")
    group.add_argument("--tensorboard", action="store_true", help="add the figures to the run's Images tab, too")
    argv = list(sys.argv[1:] if argv is None else argv)
    flags = parser.parse_args(argv)
    flags.command = ["python", "visualize.py", *argv]
    return flags


def _analyses(text: str) -> list[str]:
    chosen = text.split(",")
    for name in chosen:
        if name not in ANALYSES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ANALYSES)}")
    return [name for name in ANALYSES if name in chosen]


def _image_count(text: str) -> int:
    if not 1 <= int(text) <= 10:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 10")
    return int(text)


def _map_numbers(text: str) -> tuple[str, list[int]]:
    """`conv1:3,7` to ("conv1", [3, 7]); without a layer its name is empty."""
    layer, _, numbers = text.rpartition(":")
    try:
        return layer, [int(number) for number in numbers.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a list of maps such as 3,17 or conv1:3,17") from None


_image_count.__name__ = "whole number"


def _convolutions(trained: "Trained") -> dict[str, int]:
    """Each convolution's number of maps. UserError, naming the layers, if the network is no chain of what we know."""
    from interpret import convolutions

    try:
        names = convolutions(trained.model)
    except ValueError as error:
        layers = ", ".join(f"{name} ({type(module).__name__})" for name, module in trained.model.named_children())
        raise UserError(
            f"{trained.path} holds a {type(trained.model).__name__} with the layers {layers}; "
            "only a network that begins with a chain of Conv2d, ReLU and MaxPool2d can be looked into"
        ) from error
    return {name: trained.model.get_submodule(name).out_channels for name in names}


def _maps_of(asked: Iterable[tuple[str, list[int]]], convolutions: dict[str, int]) -> dict[str, list[int]]:
    """--maps by the convolution's full name. UserError if there is no such layer or map."""
    chosen = {}
    for layer, numbers in asked:
        names = [name for name in convolutions if layer in (name, _short(name))] if layer else [list(convolutions)[-1]]
        if not names:
            raise UserError(f"--maps: there is no convolution {layer}; there is {', '.join(map(_short, convolutions))}")
        for number in numbers:
            if not 0 <= number < convolutions[names[0]]:
                raise UserError(
                    f"--maps: {_short(names[0])} has the maps 0 to {convolutions[names[0]] - 1}, and no {number}"
                )
        chosen[names[0]] = list(dict.fromkeys([*chosen.get(names[0], []), *numbers]))
    return chosen


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _rows(subject: Subject, layer: str, maps: list, orders: list, images, rows, columns, values) -> list[tuple]:
    """A row of the table for each activation; `orders` are ranks or epochs."""
    found = (each.tolist() for each in (images, subject.labels.cpu()[images], rows, columns, values))
    return [
        (layer, number, order, image, subject.images.classes[label], row, column, value)
        for number, order, image, label, row, column, value in zip(maps, orders, *found, strict=True)
    ]


def _tiles(subject, layer, reconstructions, images, rows, columns, values) -> tuple[list, list]:
    """Each activation's reconstruction and image patch, cropped to its receptive field, as tiles of one size."""
    from harness.figures import blank_tile, image_tile, padded, signed_tile
    from interpret import receptive_field

    places = list(zip(rows.tolist(), columns.tolist(), strict=True))
    boxes = {place: receptive_field(subject.model, subject.inputs, layer, *place) for place in set(places)}
    size = max(box.bottom - box.top for box in boxes.values()), max(box.right - box.left for box in boxes.values())
    left, right = [], []
    for index, place in enumerate(places):
        if not values[index] > 0:  # a map with fewer activations
            left.append(blank_tile(size))
            right.append(blank_tile(size))
            continue
        box = boxes[place]
        crop = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
        at = {"top": box.top == 0, "left": box.left == 0}
        left.append(padded(signed_tile(reconstructions[index].cpu().numpy()[crop]), size, **at))
        right.append(padded(image_tile(subject.images.test.images[images[index]].numpy()[crop]), size, **at))
    return left, right


if __name__ == "__main__":
    sys.exit(run_script(main))
