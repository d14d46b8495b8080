"""Look inside a trained CNN: its filters and activations, and every analysis of Zeiler & Fergus (arXiv 1311.2901).

Writes figures, tables and an index.html that shows them all to figures/ in the run's folder; see the README.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli import run_script
from harness.errors import Interrupted, UserError
from harness.flags import Help, Parser, command_line, map_numbers, program, seed_number, typed_path, whole_number
from harness.ranks import refuse_ranks

if TYPE_CHECKING:  # PyTorch takes seconds to import; the flags are answered before
    from torch import Tensor, nn

    from harness.analyses.findings import Found
    from harness.analyses.gallery import Findings, Picture
    from harness.checkpoint import Trained
    from harness.data import ImageSet
    from interpret import Strongest

STRONGEST = 9  # activations shown of a map, as in the paper
MAPS_SHOWN, MAPS_EVOLVING = 12, 6  # of each convolution, if --maps names none
STAGES = 12  # snapshots that the evolution shows of a run with more
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
    maps: dict[str, list[int]]
    images: "ImageSet | None" = None
    inputs: "Tensor | None" = None
    labels: "Tensor | None" = None
    snapshots: "dict[int, dict[str, Tensor]] | None" = None

    @property
    def model(self) -> "nn.Module":
        return self.trained.model

    @property
    def source(self) -> str:
        return self.trained.source(self.images)

    @cached_property
    def order(self) -> "Tensor":
        """The random order of the test images, from --seed, of which every analysis takes the first that it can use."""
        import torch

        return torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(self.flags.seed))

    @cached_property
    def shown(self) -> "Tensor":
        """The numbers of the --images test images that invariance and occlusion show."""
        from interpret import varied_images

        order = self.order[:1000]
        return order[varied_images(self.model, self.inputs[order], self.labels[order], self.flags.images)]

    @cached_property
    def layers(self) -> dict[str, str]:
        """Each convolution and the layer whose maps are looked at."""
        from interpret import rectified_layers

        return rectified_layers(self.model, self.inputs)

    @cached_property
    def strongest(self) -> "dict[str, Strongest]":
        """The strongest activations of each map of each looked-at layer over the test images."""
        from interpret import strongest_activations

        return strongest_activations(self.model, self.inputs, list(self.layers.values()), count=STRONGEST)

    def chosen_maps(self, convolution: str, count: int) -> list[int]:
        """The maps of --maps or, as in the paper, a random few of those that respond to anything."""
        from interpret import random_maps

        if convolution in self.maps:
            return self.maps[convolution]
        return random_maps(self.strongest[self.layers[convolution]], count, seed=self.flags.seed)

    def tiles(self, layer: str, found: "Found") -> tuple[list, list]:
        """Activations of the layer as pictures: their projections, and the parts of the images that they depend on."""
        from harness.analyses.findings import activation_tiles
        from interpret import receptive_field

        places = list(zip(found.rows.tolist(), found.columns.tolist(), strict=True))
        boxes = {place: receptive_field(self.model, self.inputs, layer, *place) for place in set(places)}
        return activation_tiles(found, [boxes[place] for place in places], self.images)


def visualize_weight(subject: Subject) -> "Findings":
    """The filters of every convolution as pictures, on one scale or, with --per-filter, on each one's own."""
    from harness.analyses import findings
    from interpret import convolutions, filter_pictures, filter_weights

    layers = []
    for layer in convolutions(subject.model):
        weights = filter_weights(subject.model, layer)
        drawn, limit = filter_pictures(weights, per_filter=subject.flags.per_filter)
        layers.append((layer, weights.numpy(), drawn.numpy(), limit.numpy()))
    return findings.filters(layers, subject.source, per_filter=subject.flags.per_filter)


def show_activation_statistics(subject: Subject) -> "Findings":
    """Mean and standard deviation of every ReLU over the test set, printed as the report's table; and more of each."""
    from harness.analyses import findings
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

    from harness.analyses import findings
    from interpret import reconstruct

    shown = []
    for convolution, layer in subject.layers.items():
        strongest = subject.strongest[layer]
        maps = subject.chosen_maps(convolution, MAPS_SHOWN)
        count = strongest.images.shape[1]
        numbers = torch.tensor(maps).repeat_interleave(count)
        fields = strongest.images, strongest.rows, strongest.columns, strongest.values
        images, rows, columns, values = (each[maps].flatten() for each in fields)
        pixels = reconstruct(subject.model, subject.inputs[images], layer, numbers, rows, columns)
        found = findings.Found(images, rows, columns, values, pixels)
        projected, patches = subject.tiles(layer, found)
        entries = []
        for index, number in enumerate(maps):
            value, here = float(strongest.values[number, 0]), slice(index * count, (index + 1) * count)
            heading = f"map {number}: {value:.3g}" if value > 0 else f"map {number}: dead"
            entries.append((heading, projected[here], patches[here]))
        ranks = [*range(1, count + 1)] * len(maps)
        table = findings.activation_rows(layer, numbers.tolist(), ranks, found, subject.images)
        shown.append((convolution, entries, table))
    return findings.deconvnet(shown, subject.source)


def show_evolution(subject: Subject) -> "Findings":
    """The strongest activation of some maps at each snapshot of the run, projected to pixels (figure 4)."""
    import torch

    from harness.analyses import findings
    from interpret import evolution

    shown = []
    for convolution, layer in subject.layers.items():
        maps = subject.chosen_maps(convolution, MAPS_EVOLVING)
        stages = evolution(subject.model, subject.inputs, layer, maps, subject.snapshots)
        fields = ("images", "rows", "columns", "values", "reconstructions")
        found = findings.Found(*(torch.cat([getattr(stage, field) for stage in stages]) for field in fields))
        projected, patches = subject.tiles(layer, found)
        of_map = [slice(index, None, len(maps)) for index in range(len(maps))]
        entries = [(f"map {maps[index]}", projected[of], patches[of]) for index, of in enumerate(of_map)]
        epochs = [stage.epoch for stage in stages for _ in maps]
        table = findings.activation_rows(layer, maps * len(stages), epochs, found, subject.images)
        shown.append((convolution, entries, table))
    return findings.evolution(shown, sorted(subject.snapshots), subject.trained.source(subject.images, all_epochs=True))


def show_invariance(subject: Subject) -> "Findings":
    """How far features move, and the true class's probability, under translation, scale and rotation (figure 5)."""
    import torch

    from harness.analyses import findings
    from harness.analyses.figures import IMAGE_COLOURS, framed, image_tile, mosaic
    from interpret import invariance, transform

    reach = max(1, round(subject.inputs.shape[-1] * 60 / 224))  # the paper's 60 pixels of 224
    kinds = {  # the amounts of the curves, and of the examples shown beside them
        "translation": (range(-reach, reach + 1), (-reach, 0, reach)),
        "scale": ([step / 10 for step in range(6, 19)], (0.6, 1, 1.8)),
        "rotation": (range(0, 360, 15), (0, 45, 90)),
    }
    shown, gray = subject.shown, subject.images.mid_gray
    chosen = torch.cat([shown, subject.order[:AVERAGED]])
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    results, examples = [], []
    for kind, (amounts, moves) in kinds.items():
        results.append(invariance(subject.model, inputs, labels, kind, list(amounts), fill=gray))
        moved = [transform(inputs[: len(shown)], kind, amount, fill=gray) for amount in moves]
        pixels = [subject.images.pixels(each).cpu().numpy() for each in moved]
        tiles = [framed(image_tile(each[row]), IMAGE_COLOURS[row]) for row in range(len(shown)) for each in pixels]
        examples.append(mosaic(tiles, len(moves), zoom=2, gap=3))
    names = [subject.images.classes[label] for label in labels[: len(shown)].tolist()]
    return findings.invariance(results, examples, shown.tolist(), names, subject.source)


def show_occlusion(subject: Subject) -> "Findings":
    """What a gray square slid over the image does to the answer and to the strongest map (figure 7)."""
    from harness.analyses import findings
    from interpret import occlusion, reconstruct_maps

    shown = subject.shown
    inputs, labels = subject.inputs[shown], subject.labels[shown]
    maps = occlusion(subject.model, inputs, labels, size=subject.inputs.shape[-1] // 4, value=subject.images.mid_gray)
    projected = reconstruct_maps(subject.model, inputs, maps.layer, maps.strongest_map).cpu().numpy()
    images, classes = subject.images.test.images[shown].numpy(), subject.images.classes
    return findings.occlusion(maps, images, projected, shown.tolist(), labels.tolist(), classes, subject.source)


def show_correspondence(subject: Subject) -> "Findings":
    """Whether hiding the same part changes different images' features alike (table 1), adapted to these images."""
    import torch

    from harness.analyses import findings
    from interpret import correspondence
    from interpret.correspondence import LAYERS, PARTS

    order = subject.order
    labels = subject.labels.cpu()[order]
    chosen = torch.cat([order[labels == label][:OF_EACH_CLASS] for label in range(len(subject.images.classes))])
    inputs, labels = subject.inputs[chosen], subject.labels[chosen]
    size = subject.inputs.shape[-1] // 4
    settings = {"size": size, "stride": max(1, size // 2), "value": subject.images.mid_gray, "seed": subject.flags.seed}
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
    flags = parse_flags(argv)
    refuse_ranks("visualize.py")

    from harness.checkpoint import load_trained, maps_by_layer
    from harness.files import FolderLock, check_writable, make_folder
    from harness.tensorboard import find_events, replace_images
    from models import build_model

    trained = load_trained(flags.checkpoint, build_model)
    subject = Subject(trained, flags, maps_by_layer(flags.maps or [], convolution_sizes(trained)))
    analyses = load_inputs(subject, list(flags.only or ANALYSES))
    lock = FolderLock(
        trained.folder / ".lock", refusal=f"a training is writing in {trained.folder}; wait for it to add to its events"
    )
    if flags.tensorboard:
        find_events(trained.folder)
        check_writable(trained.folder)
        with lock:  # early, so that nothing is computed in vain
            pass
    folder = flags.out or trained.folder / "figures"
    make_folder(folder)
    check_writable(folder)  # now rather than after the first analysis
    pictures = run_analyses(analyses, subject, folder)
    if flags.tensorboard:
        with lock:
            replace_images(trained.folder, {f"figures/{each.name}": each.pixels for each in pictures}, trained.epoch)
        shown_by = command_line([program("tensorboard"), "--logdir", typed_path(trained.folder)])
        are = f"{len(pictures)} figures are" if len(pictures) > 1 else "the figure is"
        print(f"{are} in the Images tab: {shown_by}")
    print(f"{folder / 'index.html'} shows them all")
    return 0


def parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=Help, allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="best.pt or last.pt of a run of cnn_cifar10.py")
    group = parser.add_argument_group("what to look at")
    group.add_argument(
        "--only", metavar="NAME,NAME", type=analyses_of, help=f"some of {','.join(ANALYSES)} (default: all)"
    )
    group.add_argument(
        "--images", type=whole_number(1, 10), default=5, help="test images in invariance and occlusion, 1 to 10"
    )
    group.add_argument("--maps", nargs="+", type=map_numbers, metavar="[LAYER:]N,N",
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


def analyses_of(text: str) -> list[str]:
    """What --only names, in the order in which analyses are made."""
    chosen = text.split(",")
    for name in chosen:
        if name not in ANALYSES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(ANALYSES)}")
    return [name for name in ANALYSES if name in chosen]


def convolution_sizes(trained: "Trained") -> dict[str, int]:
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


def load_inputs(subject: Subject, analyses: list[str]) -> list[str]:
    """Give the subject the snapshots and images that these analyses need; returns those of them that can be made."""
    from harness.checkpoint import load_snapshots, load_test_images

    trained, flags = subject.trained, subject.flags
    if "evolution" in analyses:
        subject.snapshots = load_snapshots(trained)
        if not subject.snapshots and flags.only:
            raise UserError(f"{trained.folder} has no snapshots to show the evolution of; train with --snapshot-epochs")
        if not subject.snapshots:
            print(f"note: evolution left out, {trained.folder} has no snapshots (--snapshot-epochs)")
            analyses = [name for name in analyses if name != "evolution"]
        if len(subject.snapshots) > STAGES:
            print(f"note: evolution at {STAGES} of the run's {len(subject.snapshots)} snapshots, evenly chosen")
            epochs, last = list(subject.snapshots), len(subject.snapshots) - 1
            chosen = [epochs[round(stage * last / (STAGES - 1))] for stage in range(STAGES)]
            subject.snapshots = {epoch: subject.snapshots[epoch] for epoch in chosen}
    if analyses != ["filters"]:
        import torch

        from harness.device import choose_device, choose_threads

        device = choose_device(flags.device)
        choose_threads()
        subject.images = load_test_images(trained, flags.data, data_dir=flags.data_dir, mirror=flags.mirror)
        test = subject.images.test.to(device)
        # Laid out as in training, which is how convolutions are fastest.
        trained.model.to(device, memory_format=torch.channels_last)
        subject.inputs = subject.images.normalise(test.images).contiguous(memory_format=torch.channels_last)
        subject.labels = test.labels
    return analyses


def run_analyses(analyses: list[str], subject: Subject, folder: Path) -> "list[Picture]":
    """Compute, draw and write one analysis after the other, and say so; returns the pictures."""
    from tqdm import tqdm

    from harness.analyses.gallery import write_findings

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


if __name__ == "__main__":
    sys.exit(run_script(main))
