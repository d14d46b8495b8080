"""The training loop: one for every network and data set. It reads from top to bottom.

`train` takes an open run folder, an image set and a model's description, and trains to the last epoch. `train_epoch`
and `evaluate` are the loop itself. `publish` keeps the run folder: read run.py next for what lies in it, and
checkpoint.py for what last.pt holds. Everything particular to an experiment stands in its script.
"""

import csv
import io
import itertools
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.augmentation import views
from harness.checkpoint import State, folded, is_best_of, restore, save_best, save_last, save_snapshot
from harness.cli import command_line
from harness.data import EpochOrder, ImageSet, hold_out, test_batches, train_batches
from harness.device import autocast, choose_device, choose_threads, compiled, keep_freed_memory, warn_of_slow_bf16
from harness.errors import EXIT_DIVERGED, UserError
from harness.files import is_outdated, make_folder, write_atomically
from harness.flags import augmentations, hparams, recorded_flags, snapshot_epochs
from harness.flops import flops_per_image
from harness.metrics import EpochMetrics, aligned, best_epoch, best_values, metrics_csv
from harness.optimizers import learning_rates, make_optimizer, quick_steps, state_template
from harness.progress import ProgressBar, clock
from harness.ranks import ALONE, Ranks
from harness.run import RunFolder
from harness.tensorboard import (
    BEST_TAGS,
    CONFUSION_TAG,
    EPOCHS_TAG,
    FILTERS_TAG,
    MISTAKES_TAG,
    EventsFile,
    print_curves,
)

# Images a step of evaluation; changes no result, only speed and memory. A convolution's maps take 131 kB an image: on a
# CPU larger batches of them scatter the memory that is kept, to 0.2 GB more at its peak.
TEST_BATCH = 500
TEST_BATCH_OF_CONVOLUTIONS = 100
WORST_SHOWN = 30


def train(run: RunFolder, images: ImageSet, description: dict, build_model: Callable[..., nn.Module]) -> int:
    """Train (or continue) the run to its last epoch and return the script's exit code.

    `description` becomes `config["model"]`, from which `build_model(config, seed=…)` makes the network. Returns 0, or 3
    if a loss became NaN or infinite. Raises UserError if the checkpoint to resume does not fit. Of several ranks each
    comes here and computes on its share of every batch; what they write and print is the main rank's.
    """
    flags, ranks, augment = run.flags, run.ranks, augmentations(run.flags.augment)
    device = ranks.own_device(choose_device(flags.device))
    keep_freed_memory()
    run.lock_stack.callback(torch.set_num_threads, torch.get_num_threads())  # a notebook goes on with its own
    choose_threads(flags.threads, processes=ranks.local_count)
    if flags.precision == "bf16" and device.type == "cpu":
        warn_of_slow_bf16()
    if flags.validation:
        images = hold_out(images, flags.validation, flags.seed)
    if flags.dry_run:
        images, flags.epochs = images.first(2 * flags.batch_size), 1
    images = mirrored_if_named(images.to(device), flags)
    dataset = {"name": images.name, "checksum": images.checksum}
    if run.recorded and run.recorded.get("dataset") != dataset:
        raise UserError(f"cannot resume {run.path}: it was trained on {run.recorded.get('dataset')}, this is {dataset}")

    try:
        model = build_model({"model": description}, seed=flags.seed)
    except ValueError as error:  # --hidden-size may be too large
        raise UserError(str(error)) from error
    # channels_last is how the CPU's and the GPU's convolutions want their images and filters laid out.
    model = model.to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(flags.seed)  # one more than the weights': neither disturbs the other
    state = State(model, make_optimizer(flags, model, device), generator)
    if flags.average_weights:
        average = get_ema_multi_avg_fn(flags.average_weights)
        state.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        state.average.module.to(device)  # joins the weights of a copied recurrent layer, as CUDA's kernels want them
    if run.checkpoint:
        restore(state, run.checkpoint, state_template(flags, model), run.path / "last.pt")
        # What a kill left out is made good first, with the number of epochs that the run had then: the kill may have
        # fallen into its ending, which the events file is then still to get.
        run.config = run.recorded
        publish(run, state, images)
        best = best_epoch(state.history)
        if ranks.main and best.finite and not is_best_of(run.path / "best.pt", best):
            print(f"note: the model of epoch {best.epoch}, the best so far, is lost", flush=True)
        if state.epoch == flags.epochs or not state.history[-1].finite:
            return _print_end(run, state)
        _note_other_machine(run, device)

    trained = ranks.parallel(model)  # it holds the very parameters of `model`, and so does what --compile makes of it
    if flags.compile:
        trained = compiled(trained, device)
    run.begin(model=description, dataset=dataset, device=str(device))
    of_image = flops_per_image(model, images.normalize(images.test.images[:1]))
    run.config["training_flops"] = of_image * len(images.train) * flags.epochs
    if state.epoch and ranks.main:
        save_last(run.path, run.config, state)  # --epochs may have grown: last.pt must say so before config.json does
    publish(run, state, images)
    _print_head(run, images, state, device)

    dropout = getattr(flags, "dropout", 0.0)  # a flag of the recurrent networks'
    shares = ranks.shares(len(images.train), flags.batch_size)
    own_images = sum(share.count for share in shares)
    wall_before, started = run.config["wall_seconds"], time.perf_counter()
    for epoch in range(state.epoch + 1, flags.epochs + 1):
        order = EpochOrder.draw(len(images.train), state.generator, augment, seed=flags.seed, epoch=epoch).to(device)
        rates = learning_rates(flags, epoch, len(shares))
        epoch_started = time.perf_counter()
        bar = ProgressBar(_epoch_title(epoch, flags.epochs), own_images)
        with bar as progress, torch.random.fork_rng([], enabled=dropout > 0):
            if dropout:  # draws from PyTorch's own generator: seeded each epoch, so that last.pt need not hold it
                torch.manual_seed(int(torch.randint(2**60, (), generator=state.generator)) + ranks.rank)
            train_metrics = train_epoch(
                trained, state.optimizer, images, order, flags, progress.update, ranks, rates, state.average
            )
        ranks.share_buffers(model)  # the running statistics of batch normalization
        if state.average:
            ranks.share_buffers(state.average.module)
        measured = measure(state, images, flags, ranks, last=epoch == flags.epochs)
        seconds = round(time.perf_counter() - epoch_started, 3)

        metrics = EpochMetrics(epoch, *train_metrics, seconds=seconds, **measured)
        state.history.append(metrics)
        state.wall_times.append(time.time())
        run.config["wall_seconds"] = round(wall_before + time.perf_counter() - started, 3)
        if ranks.main:
            save_last(run.path, run.config, state)
        publish(run, state, images)
        _print_epoch(state.history, flags.epochs)
        if not metrics.finite:
            print(f"diverged: the loss of epoch {epoch} is not finite; the run stops here", file=sys.stderr)
            return EXIT_DIVERGED
        _warn_of_large_loss(state.history, len(images.classes))
    _print_summary(run, state.history, run.config["wall_seconds"])
    return 0


def mirrored_if_named(images: ImageSet, flags: Namespace) -> ImageSet:
    """Digits are mirrored, too, where --augment names that."""
    named = flags.augment is not True and augmentations(flags.augment).keys() & {"mirror", "alternate"}
    return replace(images, mirrored=images.mirrored or bool(named))


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: ImageSet,
    order: EpochOrder,
    flags: Namespace,
    show: Callable[[int, Tensor], None],
    ranks: Ranks = ALONE,
    rates: Iterable[float] = (),
    average: AveragedModel | None = None,
) -> tuple[float, float]:
    """One pass over the train split; returns the mean loss a sample and the accuracy, each batch taken before its step.

    Each step has its own of the learning `rates`, if they are given, and the `average` of the weights follows it. The
    loss is the one trained on, label smoothing included.

    Both are summed up on the device and read once, at the end: within the epoch nobody waits for the device. `show` is
    called after each step with the number of images and the running (loss sum, correct count), still on the device.
    """
    model.train()
    device = images.train.labels.device
    totals = torch.zeros(2, dtype=_exact_dtype(device), device=device)
    summed_loss, summed_correct = totals.unbind()  # views: adding to them changes the totals
    parameters, steps = list(model.parameters()), quick_steps(optimizer, rates)
    radius = getattr(flags, "max_filter_rms", 0.0)  # a flag of the CNN's
    filters = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    computing = autocast(device, flags.precision)
    shares = ranks.shares(len(images.train), flags.batch_size)  # alone: the whole batches
    for share, (inputs, labels) in zip(shares, train_batches(images, order, flags.batch_size, ranks), strict=True):
        with computing:
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=flags.label_smoothing)
        for parameter in parameters:
            parameter.grad = None
        share.backward(loss)
        if flags.clip_grad_norm:
            nn.utils.clip_grad_norm_(parameters, flags.clip_grad_norm)
        next(steps)  # optimizer.step()
        if radius:
            limit_filters(filters, radius)
        if average:
            average.update_parameters(model)
        with torch.no_grad():
            summed_loss += loss * share.count
            summed_correct += (logits.argmax(dim=1) == labels)[: share.count].sum()
        show(share.count, totals)
    loss_sum, correct = ranks.sum(totals).tolist()
    return loss_sum / len(images.train), correct / len(images.train)


@torch.no_grad()
def limit_filters(filters: list[Tensor], radius: float) -> None:
    """Scale each filter, of weights (maps, channels, height, width), whose root mean square is above the radius to it.

    Zeiler & Fergus (2013), section 3, against a few filters that dominate the first layer.
    """
    for weights in filters:
        rms = weights.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        weights *= (radius / rms.clamp(min=1e-30)).clamp(max=1)


def measure(state: State, images: ImageSet, flags: Namespace, ranks: Ranks, *, last: bool) -> dict[str, float]:
    """An epoch's metrics of the test split and of the validation split, if there is one, by field of EpochMetrics.

    Those of the model and, if its weights are averaged, of their average; in the `last` epoch, if asked, also the
    accuracy with test-time augmentation.
    """
    splits, networks, measured = {"": images}, {"": state.model}, {}
    if images.validation:
        splits["validation_"] = replace(images, test=images.validation)
    if state.average:
        networks["average_"] = state.average.module
    for (split, part), (weights, network) in itertools.product(splits.items(), networks.items()):
        field = split + weights or "test_"
        loss, accuracy = evaluate(network, part, flags.precision, ranks)
        measured |= {f"{field}loss": loss, f"{field}accuracy": accuracy}
        if last and flags.test_time_augmentation:
            _, accuracy = evaluate(network, part, flags.precision, ranks, augmented=True)
            measured[f"{split}{weights}tta_accuracy"] = accuracy
    return measured


@torch.no_grad()
def evaluate(
    model: nn.Module, images: ImageSet, precision: str, ranks: Ranks = ALONE, *, augmented: bool = False
) -> tuple[float, float]:
    """Mean loss a sample and accuracy over the whole test split, in evaluation mode.

    If `augmented`, an image's logits are the mean of those of its views.
    """
    share = ranks.share(0, len(images.test))  # a rank without any gets one image, which is not counted
    test = images.test.part(share.here)
    seen = views(test.images, mirrored=images.mirrored) if augmented else [(1, test.images)]
    parts = ((weight, replace(images, test=replace(test, images=view))) for weight, view in seen)
    logits = sum(weight * predict(model, part, precision) for weight, part in parts)[: share.count]
    labels = test.labels[: share.count]
    losses = F.cross_entropy(logits, labels, reduction="none")
    totals = torch.stack([losses.sum(dtype=_exact_dtype(losses.device)), (logits.argmax(dim=1) == labels).sum()])
    loss_sum, correct = ranks.sum(totals).tolist()
    return loss_sum / len(images.test), correct / len(images.test)


@torch.no_grad()
def predict(model: nn.Module, images: ImageSet, precision: str) -> Tensor:
    """The logits of the whole test split, float32 (n, classes), in evaluation mode."""
    model.eval()
    device = images.test.labels.device
    maps = device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in model.modules())
    logits = []
    for inputs, _ in test_batches(images, TEST_BATCH_OF_CONVOLUTIONS if maps else TEST_BATCH):
        with autocast(device, precision):
            logits.append(model(inputs).float())
    return torch.cat(logits)


def publish(run: RunFolder, state: State, images: ImageSet) -> None:
    """Make every other file of the run folder agree with last.pt.

    config.json and metrics.csv are replaced; a checkpoint, a snapshot or an event that is there is left alone. Called
    as training begins, after each epoch, and by a resume once it has loaded last.pt: whatever a kill at any instant
    left out is made good by this, and by nothing else. config.json says `complete` or `diverged` once all else is done.
    """
    if not run.ranks.main:
        return
    run.write_config("running")
    write_atomically(run.path / "metrics.csv", metrics_csv(state.history))
    if not state.epoch:
        return
    last = state.history[-1]
    complete = last.finite and state.epoch == run.config["flags"]["epochs"]
    if last.finite:
        # The model of the last epoch is at hand, those of earlier epochs are not: what was lost of them stays lost.
        if best_epoch(state.history) is last and not is_best_of(run.path / "best.pt", last):
            save_best(run.path, run.config, state)
        snapshot = run.path / "snapshots" / f"epoch-{state.epoch:04}.pt"
        if state.epoch in snapshot_epochs(run.flags) and not snapshot.exists():
            save_snapshot(snapshot, run.config, state)
    log_events(run, state, images, complete=complete)
    if complete or not last.finite:
        run.write_config("complete" if complete else "diverged")


def log_events(run: RunFolder, state: State, images: ImageSet, *, complete: bool) -> None:
    """Append to the events file what it lacks: each epoch's metrics, the filters, and what a complete run ends with.

    Its confusion matrix is written to figures/, too.
    """
    if run.events is None or not run.events.path.exists():  # somebody may have deleted it: then all of it again
        run.events = EventsFile(run.path)
    events, epoch, now = run.events, state.epoch, state.wall_times[-1]
    events.head(hparams(recorded_flags(run.flags), run.experiment), state.wall_times[0])
    for metrics, wall_time in zip(state.history, state.wall_times, strict=True):
        events.scalars(metrics.curves, metrics.epoch, wall_time)
    convolution = next((each for each in folded(state.model).modules() if isinstance(each, nn.Conv2d)), None)
    if convolution and state.history[-1].finite and shows_filters(epoch, run.config["flags"]["epochs"]):
        from harness.pictures import filters_grid

        weights = convolution.weight.detach().cpu().numpy()
        events.image(FILTERS_TAG, filters_grid(weights), epoch, now)
    if complete:
        best = dict(zip(BEST_TAGS, best_values(state.history)[1:5], strict=True))
        events.scalars(best | {EPOCHS_TAG: epoch}, epoch, now)
        figures, last = run.path / "figures", run.path / "last.pt"
        logged = (CONFUSION_TAG, epoch) in events and (MISTAKES_TAG, epoch) in events
        if not logged or is_outdated(figures / "confusion.csv", last):
            from harness.pictures import png_bytes  # Matplotlib takes most of a second to import

            table, confusion, worst = final_figures(state, images, run.flags.precision)
            make_folder(figures)
            write_atomically(figures / "confusion.png", png_bytes(confusion))
            write_atomically(figures / "confusion.csv", table)  # last: its age says whether both are made
            events.image(CONFUSION_TAG, confusion, epoch, now)
            events.image(MISTAKES_TAG, worst, epoch, now)
        events.session_end(epoch, now)
    events.flush()


def final_figures(state: State, images: ImageSet, precision: str) -> tuple[bytes, np.ndarray, np.ndarray]:
    """What the model makes of the test images: the confusion matrix as CSV and picture, the images of largest loss.

    A row of the CSV is a true class: how many of its images got which answer, and its accuracy.
    """
    from harness.pictures import confusion_figure, worst_figure

    logits = predict(state.model, images, precision).cpu()
    labels, count = images.test.labels.cpu(), len(images.classes)
    predicted = logits.argmax(dim=1)
    # Row: true class, column: answer. Each pair of both has a number, and bincount counts the images of each.
    confusion = torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)
    title = f"{images.name}, test images, epoch {state.epoch}"
    losses = F.cross_entropy(logits, labels, reduction="none")
    worst = losses.argsort(descending=True)[:WORST_SHOWN]
    sheet = worst_figure(
        images.test.images.cpu()[worst].numpy(),
        labels[worst].tolist(),
        predicted[worst].tolist(),
        (-losses[worst]).exp().tolist(),
        images.classes,
        f"{title}: largest loss first; p is the true class's probability",
    )
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["true class", *images.classes, "accuracy"])
    for name, counts, right in zip(images.classes, confusion.tolist(), confusion.diag().tolist(), strict=True):
        rows.writerow([name, *counts, round(right / max(1, sum(counts)), 6)])
    return table.getvalue().encode(), confusion_figure(confusion.numpy(), images.classes, title), sheet


def shows_filters(epoch: int, epochs: int) -> bool:
    """Whether TensorBoard gets the first filters of this epoch: each up to the 20th, then about 20 more, evenly."""
    return epoch <= 20 or epoch == epochs or epoch % math.ceil(epochs / 20) == 0


def _exact_dtype(device: torch.device) -> torch.dtype:
    """float64 for sums over an epoch, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


# -- what is printed ---------------------------------------------------------------------------------------------------


def _note_other_machine(run: RunFolder, device: torch.device) -> None:
    now = {"threads": torch.get_num_threads(), "device": str(device), "torch": str(torch.__version__)}
    for name, value in (now | {"ranks": run.ranks.count}).items():
        recorded = run.recorded.get(name, 1 if name == "ranks" else None)  # older runs do not say: one
        if recorded != value:
            print(f"note: {name} {value} instead of the recorded {recorded!r}; bits may differ from a run at one go")


def _print_head(run: RunFolder, images: ImageSet, state: State, device: torch.device) -> None:
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    threads, ranks = torch.get_num_threads(), run.ranks.count
    held_out = f", {len(images.validation):,} validation" if images.validation else ""
    print(
        f"{type(state.model).__name__}, {parameters:,} parameters, {device}, {run.flags.precision}, "
        f"{threads} thread{'s' * (threads != 1)}" + f" on each of {ranks} ranks" * (ranks > 1)
    )
    print(f"{images.name} ({len(images.train):,} train{held_out} and {len(images.test):,} test images)")
    flops, epochs = run.config["training_flops"], run.flags.epochs
    print(f"{epochs} epoch{'s' * (epochs != 1)} of training take{'s' * (epochs == 1)} {flops / 1e15:.2g} PFLOP")
    if not run.flags.dry_run:
        continuing = f", continuing after epoch {state.epoch}" if state.epoch else ""
        print(f"run folder: {run.path}{continuing}")
    title = " " * len(_epoch_title(1, run.flags.epochs))
    third = "validation" * bool(images.validation) or "average" * bool(state.average)  # there is no room for both
    print(f"\nloss and accuracy; * is the best {'validation' if images.validation else 'test'} accuracy so far")
    print(f"{title}{'train':>18}{'test':>18}{f'{third:>18}  ' if third else '    seconds'}{'left':>10}", flush=True)


def _epoch_title(epoch: int, epochs: int) -> str:
    return f"epoch {epoch:{len(str(epochs))}}/{epochs}"


def _print_epoch(history: list[EpochMetrics], epochs: int) -> None:
    last = history[-1]
    pairs = [last[1:3], last[3:5]]  # loss and accuracy
    seconds = f"  {aligned(last.seconds, 7, '.1f')}"
    third = last[6:8] if last.validation_loss is not None else last[8:10]  # of the validation split, or averaged
    if None not in third:
        pairs, seconds = [*pairs, third], ""  # there is no room for both in 80 columns
    best = "*" if best_epoch(history) is last else " "
    left = (epochs - last.epoch) * fmean(metrics.seconds for metrics in history[-3:])
    print(
        _epoch_title(last.epoch, epochs)
        + "".join(f"  {aligned(loss, 8)}  {accuracy:.4f}" for loss, accuracy in pairs)
        + f" {best}{seconds}  {clock(left):>8}",
        flush=True,
    )


def _warn_of_large_loss(history: list[EpochMetrics], classes: int) -> None:
    """Say it at the first epoch whose losses are ten times that of the same probability for every class."""
    guessing = math.log(classes)
    if [each for each in history if min(each.train_loss, each.test_loss) > 10 * guessing] == history[-1:]:
        print(
            f"warning: the loss of epoch {len(history)} is far above {guessing:.2f}, which is guessing; "
            "a smaller --lr may help",
            file=sys.stderr,
        )


def _print_end(run: RunFolder, state: State) -> int:
    """Say how a run ended that has nothing left to train; returns the exit code."""
    if not state.history[-1].finite:
        print(f"{run.path} diverged in epoch {state.epoch}; there is nothing to continue", file=sys.stderr)
        return EXIT_DIVERGED
    way_on = f"; --name {command_line([run.path.name])} with a larger --epochs and --resume trains on"
    print(f"{run.path} is complete" + way_on * (run.flags.schedule == "constant"))
    _print_summary(run, state.history, run.recorded_seconds)
    return 0


def _print_summary(run: RunFolder, history: list[EpochMetrics], wall_seconds: float) -> None:
    best, last = best_values(history), history[-1]
    # `average_tta` of average_tta_accuracy is "Test, average, tta".
    names = [field.removesuffix("_accuracy") for field in last.measured if field.endswith("_accuracy")]
    titles = {n: ("test_" * n.startswith(("average", "tta")) + n).replace("_", ", ").capitalize() for n in names}
    width = max(map(len, titles.values()))
    print(f"\n{'':{width}}  {'best loss':>10}  {'best accuracy':>13}  {'last loss':>10}  {'last accuracy':>13}")
    for name, title in titles.items():
        cells = ((row.measured.get(f"{name}_loss"), row.measured[f"{name}_accuracy"]) for row in (best, last))
        columns = (f"  {'' if loss is None else aligned(loss, 10):>10}  {accuracy:13.4f}" for loss, accuracy in cells)
        print(f"{title:{width}}{''.join(columns)}")
    print("(best over the epochs, each metric by itself)")
    chosen = best_epoch(history)
    how = f"validation accuracy; its test accuracy is {chosen.test_accuracy:.4f}"
    if chosen.validation_accuracy is None:
        how = "test accuracy: optimistic, see --validation"
    print(f"best.pt is epoch {chosen.epoch}, chosen by {how}")
    if run.flags.dry_run:
        print("dry run: nothing was kept")
        return
    what = "best.pt and the rest are" if (run.path / "best.pt").exists() else "all but best.pt is"
    print(f"\n{len(history)} epoch{'s' * (len(history) != 1)} in {wall_seconds:.1f} s; {what} in\n  {run.path}")
    print_curves(run.flags.runs_dir)
