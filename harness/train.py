"""The training loop: one for every network and data set.

`train` takes an open run folder, an image set and a model's description, and trains to the last epoch, keeping the run
folder as run.py describes it. `train_epoch` and `evaluate` are the loop itself; everything particular to an
experiment stands in its script.
"""

import contextlib
import importlib
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from harness.checkpoint import load_checkpoint
from harness.data import EpochOrder, ImageSet, test_batches, train_batches
from harness.device import autocast, choose_device, choose_threads, compiled, keep_freed_memory, warn_of_slow_bf16
from harness.errors import EXIT_DIVERGED, OutOfMemory, UserError
from harness.flags import command_line, program, recorded_flags, snapshot_epochs, typed_path
from harness.metrics import EpochMetrics, accuracy_at, best_epoch, best_values
from harness.optimizers import QuickStep, make_optimizer
from harness.ranks import ALONE, Ranks
from harness.run import RunFolder
from harness.tensorboard import CONFUSION_TAG, FILTERS_TAG, HPARAMS, MISTAKES_TAG, EventsFile

# Images a step of evaluation; changes no result, only speed and memory. A convolution's maps take 131 kB an image: on a
# CPU larger batches of them scatter the memory that is kept, to 0.2 GB more at its peak.
TEST_BATCH = 500
TEST_BATCH_OF_CONVOLUTIONS = 100
WORST_SHOWN = 30


@dataclass
class State:
    """All that changes while a run trains, and so all that last.pt must hold."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator  # of the images' order and augmentation, on the CPU
    history: list[EpochMetrics]
    best_accuracy: float = -1.0

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return len(self.history)


def train(run: RunFolder, images: ImageSet, description: dict, build_model: Callable[..., nn.Module]) -> int:
    """Train (or continue) the run to its last epoch and return the script's exit code.

    `description` becomes `config["model"]`, from which `build_model(config, seed=…)` makes the network. Returns 0, or 3
    if a loss became NaN or infinite. Raises UserError if the checkpoint to resume does not fit. Of several ranks each
    comes here and computes on its share of every batch; what they write and print is the main rank's.
    """
    flags, ranks = run.flags, run.ranks
    device = ranks.own_device(choose_device(flags.device))
    keep_freed_memory()
    choose_threads(flags.threads, processes=ranks.local_count)
    if flags.precision == "bf16" and device.type == "cpu":
        warn_of_slow_bf16()
    if flags.dry_run:
        images, flags.epochs = images.first(2 * flags.batch_size), 1
    images = images.to(device)

    state = _new_state(flags, description, build_model, device)
    if run.checkpoint:
        _restore(state, run)
        if state.epoch == flags.epochs or not state.history[-1].finite:
            return _end_again(run, state, images)
        _note_other_machine(run, device)
    model = ranks.parallel(state.model)
    if flags.compile:
        model = compiled(model, device)
    dataset = {"name": images.name, "checksum": images.checksum}
    if ranks.main:
        _load_matplotlib()
    run.begin(model=description, dataset=dataset, device=str(device), threads=torch.get_num_threads())
    _print_head(run, images, state, device)

    events = _open_events(run, state) if ranks.main else None
    with contextlib.closing(events) if events else contextlib.nullcontext():
        if ranks.main:
            _write_again(run, state)
        wall_before, started = run.config["wall_seconds"], time.perf_counter()
        for epoch in range(state.epoch + 1, flags.epochs + 1):
            order = EpochOrder.draw(len(images.train), state.generator, augment=getattr(flags, "augment", False))
            metrics, line = _one_epoch(state, model, images, order, epoch, run, device)
            state.history.append(metrics)
            run.config["wall_seconds"] = round(wall_before + time.perf_counter() - started, 3)
            if not metrics.finite:
                run.config["status"] = "diverged"
            if ranks.main:
                _save_epoch(run, state, events, metrics)
            run.ended = not metrics.finite
            print(line, flush=True)  # after it is saved: standard output may be a full disk, or nobody's any more
            if not metrics.finite:
                print(f"diverged: the loss of epoch {epoch} is not finite; the run stops here", file=sys.stderr)
                return EXIT_DIVERGED
        if ranks.main:
            _finish_events(events, state, images, flags)
    run.finish(wall_before + time.perf_counter() - started)
    _print_summary(run, state.history, run.config["wall_seconds"])
    return 0


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: ImageSet,
    order: EpochOrder,
    flags: Namespace,
    show: Callable[[int, Tensor], None],
    ranks: Ranks = ALONE,
) -> tuple[float, float]:
    """One pass over the train split; returns the running mean loss a sample and the accuracy, as the weights changed.

    Both are summed up on the device and read once, at the end, so the device never waits for the host. `show` is
    called after each step with the number of images and the running (loss sum, correct count), still on the device.
    """
    model.train()
    device = images.train.labels.device
    totals = torch.zeros(2, dtype=_exact_dtype(device), device=device)
    summed_loss, summed_correct = totals.unbind()  # views: adding to them changes the totals
    parameters, step = list(model.parameters()), QuickStep(optimizer)
    computing = autocast(device, flags.precision)
    shares = ranks.shares(len(images.train), flags.batch_size)  # alone: the whole batches
    for share, (inputs, labels) in zip(shares, train_batches(images, order, flags.batch_size, ranks), strict=True):
        with computing:
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        for parameter in parameters:
            parameter.grad = None
        share.backward(loss)
        if flags.clip_grad_norm:
            nn.utils.clip_grad_norm_(parameters, flags.clip_grad_norm)
        step()
        with torch.no_grad():
            summed_loss += loss * share.count
            summed_correct += (logits.argmax(dim=1) == labels)[: share.count].sum()
        show(share.count, totals)
    loss_sum, correct = ranks.sum(totals).tolist()
    return loss_sum / len(images.train), correct / len(images.train)


@torch.no_grad()
def evaluate(model: nn.Module, images: ImageSet, precision: str, ranks: Ranks = ALONE) -> tuple[float, float]:
    """Mean loss a sample and accuracy over the whole test split, in evaluation mode."""
    share = ranks.share(0, len(images.test))
    part = replace(images, test=images.test.part(share.here))
    logits = predict(model, part, precision)[: share.count]
    labels = part.test.labels[: share.count]
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


def _load_matplotlib() -> None:
    """Import it before anything is trained: it reads a file of the user's own, which may be damaged."""
    try:
        importlib.import_module("matplotlib")
    except Exception as error:  # whatever the reading of a strange file raises
        raise UserError(f"Matplotlib cannot be loaded ({error}); is there a damaged matplotlibrc?") from error


def _new_state(flags: Namespace, description: dict, build_model: Callable, device: torch.device) -> State:
    try:
        model = build_model({"model": description}, seed=flags.seed)
    except ValueError as error:
        raise UserError(str(error)) from error
    # channels_last is how the CPU's and the GPU's convolutions want their images and filters laid out.
    model = model.to(device, memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(flags.seed)  # one more than the weights': neither disturbs the other
    return State(model, make_optimizer(flags, model, device), generator, history=[])


def _restore(state: State, run: RunFolder) -> None:
    """Put the checkpoint's content into a new state. UserError if it belongs to another network or optimizer."""
    saved = run.checkpoint
    try:
        _check_alike(saved["model"], state.model.state_dict())
        state.model.load_state_dict(saved["model"])
        # The settings (lr, betas, …) stay those of the flags, in the form that this device wants.
        states, settings = saved["optimizer"]["state"], state.optimizer.state_dict()["param_groups"]
        template = _state_template(run.flags, state.model)
        _check_alike(states, template)
        # Fused optimizers write by position, past the end of a tensor whose strides are a stranger's: fresh ones.
        states = {
            number: {
                name: torch.empty_like(like, device="cpu").copy_(states[number][name]) for name, like in of.items()
            }
            for number, of in template.items()
        }
        state.optimizer.load_state_dict({"state": states, "param_groups": settings})
        state.generator.set_state(saved["generator"])
        state.history = [EpochMetrics(*row) for row in saved["history"]]
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run.path / 'last.pt'} belongs to another network or optimizer than its flags say") from error


def _end_again(run: RunFolder, state: State, images: ImageSet) -> int:
    """Of a run whose last epoch is in last.pt: write what is missing beside that, tell how it ended; the exit code."""
    diverged = not state.history[-1].finite
    status = "diverged" if diverged else "complete"
    if run.ranks.main and (
        run.recorded_status != status
        or run.lacks(state.history, ended=not diverged)
        or _last_is_better(state.history, _epoch_of_best(run))
    ):
        run.take_up_again({"name": images.name, "checksum": images.checksum})  # until all is there it is `running`
        with contextlib.closing(_open_events(run, state)) as events:
            _write_again(run, state)
            if not diverged:
                _finish_events(events, state, images, run.flags)
        run.end(status)
    if diverged:
        print(f"{run.path} diverged in epoch {state.epoch}; there is nothing to continue", file=sys.stderr)
        return EXIT_DIVERGED
    name = command_line([run.path.name])
    print(f"{run.path} is complete; --name {name} with a larger --epochs and --resume trains on")
    _print_summary(run, state.history, run.recorded_seconds)
    return 0


def _state_template(flags: Namespace, model: nn.Module) -> dict:
    """What the optimizer's state looks like after a step: by parameter's number and name, tensors without data."""
    if flags.optimizer == "sgd" and not flags.momentum:
        return {}
    count = {} if flags.optimizer == "sgd" else {"step": torch.empty((), device="meta")}
    names = {"sgd": ("momentum_buffer",), "adagrad": ("sum",)}.get(flags.optimizer, ("exp_avg", "exp_avg_sq"))
    return {
        number: count | {name: torch.empty_like(parameter, device="meta") for name in names}
        for number, parameter in enumerate(model.parameters())
    }


def _check_alike(given: dict, expected: dict) -> None:
    """ValueError unless `given` has the names, shapes and dtypes of `expected`; nothing is allocated before that."""
    if not isinstance(given, dict) or given.keys() != expected.keys():
        raise ValueError("other names")
    for name, like in expected.items():
        value = given[name]
        if isinstance(like, dict):
            _check_alike(value, like)
        elif not isinstance(value, Tensor) or value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"another shape or type of {name}")


def _one_epoch(
    state: State,
    model: nn.Module,
    images: ImageSet,
    order: EpochOrder,
    epoch: int,
    run: RunFolder,
    device: torch.device,
) -> tuple[EpochMetrics, str]:
    """Train and test once; the epoch's row, and the line to print. `model` is the state's, as the ranks train it."""
    flags, ranks = run.flags, run.ranks
    started = time.perf_counter()
    own = sum(share.count for share in ranks.shares(len(images.train), flags.batch_size))
    with _Progress(f"epoch {epoch}/{flags.epochs}", own) as progress:
        train_loss, train_accuracy = train_epoch(
            model, state.optimizer, images, order.to(device), flags, progress.update, ranks
        )
    trained = time.perf_counter()
    test_loss, test_accuracy = evaluate(state.model, images, flags.precision, ranks)
    ended = time.perf_counter()
    width = len(str(flags.epochs))
    line = (
        f"epoch {epoch:{width}}/{flags.epochs}   train loss {train_loss:8.4f}  accuracy {train_accuracy:.4f}   "
        f"test loss {test_loss:8.4f}  accuracy {test_accuracy:.4f}   "
        f"{ended - started:6.1f} s  {len(images.train) / (trained - started):7,.0f} images/s"
    )
    return EpochMetrics(epoch, train_loss, train_accuracy, test_loss, test_accuracy, round(ended - started, 3)), line


def _save_epoch(run: RunFolder, state: State, events: EventsFile, metrics: EpochMetrics) -> None:
    """Write an epoch into the run folder, in the order that makes last.pt the truth."""
    epoch = metrics.epoch
    events.curves(_curves(metrics), epoch)
    if metrics.finite and _shows_filters(state.model, epoch, run.flags.epochs):
        from harness.pictures import filters_grid

        events.image(FILTERS_TAG, filters_grid(state.model.features.conv1.weight.detach().cpu().numpy()), epoch)
    events.flush()
    run.write_config()
    run.write_metrics(state.history)
    weights = state.model.state_dict()
    if metrics.finite and metrics.test_accuracy > state.best_accuracy:
        state.best_accuracy = metrics.test_accuracy
        _write_best(run, state)
    if metrics.finite and epoch in snapshot_epochs(run.flags):
        convolutions = {name for name, module in state.model.named_modules() if isinstance(module, nn.Conv2d)}
        kept = {name: value for name, value in weights.items() if name.rpartition(".")[0] in convolutions}
        run.write_checkpoint(f"snapshots/epoch-{epoch:04}.pt", {"weights": kept, "epoch": epoch})
    run.write_checkpoint(
        "last.pt",
        {
            "model": weights,
            "optimizer": state.optimizer.state_dict(),
            "generator": state.generator.get_state(),
            "epoch": epoch,
            "history": [list(row) for row in state.history],
        },
    )


def _write_best(run: RunFolder, state: State) -> None:
    metrics = state.history[-1]
    content = {"model": state.model.state_dict(), "epoch": metrics.epoch, "metrics": metrics._asdict()}
    run.write_checkpoint("best.pt", content)


def _shows_filters(model: nn.Module, epoch: int, epochs: int) -> bool:
    """A convolutional network's filters go to TensorBoard each epoch; of a very long run, some 20 pictures after 20."""
    return hasattr(model, "features") and (epoch <= 20 or epoch == epochs or epoch % -(-epochs // 20) == 0)


def _finish_events(events: EventsFile, state: State, images: ImageSet, flags: Namespace) -> None:
    """Write what TensorBoard shows of a finished run: best values, confusion matrix, worst-classified images."""
    from harness.pictures import confusion_figure, worst_figure

    events.best(_curves(best_values(state.history)), state.epoch)
    logits = predict(state.model, images, flags.precision).cpu()
    labels, count = images.test.labels.cpu(), len(images.classes)
    predicted = logits.argmax(dim=1)
    confusion = torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)
    title = f"{images.name}, test images, epoch {state.epoch}"
    events.image(CONFUSION_TAG, confusion_figure(confusion.numpy(), images.classes, title), state.epoch)
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
    events.image(MISTAKES_TAG, sheet, state.epoch)
    events.end_session(state.epoch)
    events.flush()


def _hparams(run: RunFolder) -> dict:
    recorded = recorded_flags(run.flags)
    return {"experiment": run.experiment, **{name: recorded[name] for name in HPARAMS if name in recorded}}


def _exact_dtype(device: torch.device) -> torch.dtype:
    """float64 for sums over an epoch, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _open_events(run: RunFolder, state: State) -> EventsFile:
    return EventsFile.open(run.path, _hparams(run), curves=[_curves(row) for row in state.history])


def _curves(row: EpochMetrics) -> tuple[float, ...]:
    """The values of EPOCH_TAGS, or of BEST_TAGS."""
    return row.train_loss, row.train_accuracy, row.test_loss, row.test_accuracy


def _write_again(run: RunFolder, state: State) -> None:
    """metrics.csv as of last.pt, and best.pt if it holds a worse model than that or none; notes what is lost.

    A model of an epoch that a kill took from last.pt counts as none. The epoch to come replaces it, even by a worse
    one: on another machine the epoch may come out differently.
    """
    run.write_metrics(state.history)
    if not state.epoch:
        return
    epoch, best = _epoch_of_best(run), best_epoch(state.history)
    if _last_is_better(state.history, epoch):
        _write_best(run, state)
        epoch = state.epoch
    state.best_accuracy = accuracy_at(state.history, epoch)
    replaced_soon = epoch > state.epoch and state.epoch < run.flags.epochs
    if state.best_accuracy < best.test_accuracy and not replaced_soon:
        print(f"note: the model of epoch {best.epoch}, the best so far, is lost", flush=True)


def _last_is_better(history: list[EpochMetrics], epoch: int) -> bool:
    """Whether the model in last.pt is the best so far, and of more accuracy than that of `epoch` in best.pt."""
    last = history[-1]
    return last.finite and accuracy_at(history, epoch) < last.test_accuracy == best_epoch(history).test_accuracy


def _epoch_of_best(run: RunFolder) -> int:
    """The epoch that the model in best.pt is of; 0 if it is lost. UserError if that cannot be told at the moment."""
    try:
        epoch = load_checkpoint(run.path / "best.pt").get("epoch")
    except UserError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise
        if isinstance(error, OutOfMemory):
            raise
        return 0
    return epoch if type(epoch) is int else 0


def _note_other_machine(run: RunFolder, device: torch.device) -> None:
    now = {"threads": torch.get_num_threads(), "device": str(device), "torch": str(torch.__version__)}
    for name, value in (now | {"ranks": run.ranks.count}).items():
        recorded = run.recorded_config.get(name, 1 if name == "ranks" else None)  # older runs do not say: one
        if recorded != value:
            print(f"note: {name} {value} instead of the recorded {recorded}; bits may differ from a run at one go")


def _print_head(run: RunFolder, images: ImageSet, state: State, device: torch.device) -> None:
    parameters = sum(parameter.numel() for parameter in state.model.parameters())
    print(
        f"{type(state.model).__name__}, {parameters:,} parameters, on {images.name} "
        f"({len(images.train):,} train and {len(images.test):,} test images), {device}, {run.flags.precision}, "
        f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() != 1)}"
        + (f" on each of {run.ranks.count} ranks" if run.ranks.count > 1 else "")
    )
    if run.kept:
        print(
            f"run folder: {run.path}" + (f", continuing after epoch {state.epoch}" if state.epoch else ""), flush=True
        )


def _print_summary(run: RunFolder, history: list[EpochMetrics], wall_seconds: float) -> None:
    best, last = best_values(history), history[-1]
    print(f"\n{'':5}  {'best loss':>10}  {'best accuracy':>13}  {'last loss':>10}  {'last accuracy':>13}")
    for split in ("train", "test"):
        figures = (getattr(row, f"{split}_{quantity}") for row in (best, last) for quantity in ("loss", "accuracy"))
        print(f"{split.capitalize():5}  {{:10.4f}}  {{:13.4f}}  {{:10.4f}}  {{:13.4f}}".format(*figures))
    print("(best over the epochs, each figure by itself; choosing an epoch by its test figures is optimistic)")
    if not run.kept:
        print("dry run: nothing was kept")
        return
    best = "best.pt and the rest are" if (run.path / "best.pt").exists() else "all but best.pt is"
    print(f"\n{len(history)} epoch{'s' * (len(history) != 1)} in {wall_seconds:.1f} s; {best} in {run.path}")
    print(f"curves: {command_line([program('tensorboard'), '--logdir', typed_path(run.flags.runs_dir)])}")


class _Progress:
    """A progress bar over an epoch's images, on a terminal only, with the running loss and accuracy.

    On a GPU the running sums travel to the host without anyone waiting for them: the bar shows those that arrived.
    """

    def __init__(self, title: str, count: int) -> None:
        form = (
            "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}, {rate_fmt}"  # a narrow terminal cuts the end off
        )
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=count, desc=title, unit=" images", leave=False, disable=hidden, bar_format=form)
        self.title = title
        self.shown = time.monotonic()
        self.arrived: Tensor | None = None
        self.event: torch.cuda.Event | None = None
        self.seen = self.seen_then = 0

    def update(self, images: int, totals: Tensor) -> None:
        self.seen += images
        if self.bar.disable or time.monotonic() - self.shown < 0.2:
            return
        self.shown = time.monotonic()
        if totals.device.type != "cuda":
            self._show(totals, self.seen)
        elif self.event is None or self.event.query():
            if self.event is not None:
                self._show(self.arrived, self.seen_then)
            self.arrived = torch.empty(2, dtype=totals.dtype, pin_memory=True)
            self.arrived.copy_(totals, non_blocking=True)
            self.event, self.seen_then = torch.cuda.Event(), self.seen
            self.event.record()

    def _show(self, totals: Tensor, seen: int) -> None:
        loss_sum, correct = totals.tolist()
        figures = f"loss {loss_sum / seen:.4f}, accuracy {correct / seen:.4f}"
        self.bar.set_description_str(f"{self.title}  {figures}", refresh=False)
        self.bar.update(seen - self.bar.n)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
