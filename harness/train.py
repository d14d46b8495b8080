"""The training loop: one for every network and data set. It reads from top to bottom.

`train` takes an open run folder, an image set and a model's description, and trains to the last epoch; `train_epoch` is
the loop itself. evaluate.py measures, publish.py keeps the run folder, progress.py prints. Everything particular to an
experiment stands in its script.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from harness.checkpoint import State, is_best_of, restore, save_last
from harness.data import EpochOrder, ImageSet, hold_out, train_batches
from harness.device import (
    autocast,
    choose_device,
    choose_threads,
    compiled,
    exact_dtype,
    keep_freed_memory,
    warn_of_slow_bf16,
)
from harness.errors import EXIT_DIVERGED, UserError
from harness.evaluate import measure
from harness.flags import augmentations
from harness.flops import flops_per_image
from harness.metrics import EpochMetrics, best_epoch
from harness.optimizers import learning_rates, make_optimizer, quick_steps, state_template
from harness.progress import (
    ProgressBar,
    epoch_title,
    note_other_machine,
    print_end,
    print_epoch,
    print_head,
    print_summary,
    warn_of_large_loss,
)
from harness.publish import publish
from harness.ranks import ALONE, Ranks
from harness.run import RunFolder


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
            return print_end(run, state)
        note_other_machine(run, device)

    trained = ranks.parallel(model)  # it holds the very parameters of `model`, and so does what --compile makes of it
    if flags.compile:
        trained = compiled(trained, device)
    run.begin(model=description, dataset=dataset, device=str(device))
    of_image = flops_per_image(model, images.normalize(images.test.images[:1]))
    run.config["training_flops"] = of_image * len(images.train) * flags.epochs
    if state.epoch and ranks.main:
        save_last(run.path, run.config, state)  # --epochs may have grown: last.pt must say so before config.json does
    publish(run, state, images)
    print_head(run, images, state, device)

    dropout = getattr(flags, "dropout", 0.0)  # a flag of the recurrent networks'
    shares = ranks.shares(len(images.train), flags.batch_size)
    own_images = sum(share.count for share in shares)
    wall_before, started = run.config["wall_seconds"], time.perf_counter()
    for epoch in range(state.epoch + 1, flags.epochs + 1):
        order = EpochOrder.draw(len(images.train), state.generator, augment, seed=flags.seed, epoch=epoch).to(device)
        rates = learning_rates(flags, epoch, len(shares))
        epoch_started = time.perf_counter()
        bar = ProgressBar(epoch_title(epoch, flags.epochs), own_images)
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
        print_epoch(state.history, flags.epochs)
        if not metrics.finite:
            print(f"diverged: the loss of epoch {epoch} is not finite; the run stops here", file=sys.stderr)
            return EXIT_DIVERGED
        warn_of_large_loss(state.history, len(images.classes))
    print_summary(run, state.history, run.config["wall_seconds"])
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
    totals = torch.zeros(2, dtype=exact_dtype(device), device=device)
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
