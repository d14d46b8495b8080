"""Everything in a run folder but last.pt: written so that it agrees with last.pt, after each epoch and by a resume.

run.py says what lies in the folder, checkpoint.py what last.pt holds.
"""

import csv
import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.checkpoint import State, folded, is_best_of, save_best, save_snapshot
from harness.data import ImageSet
from harness.evaluate import predict
from harness.files import is_outdated, make_folder, write_atomically
from harness.flags import hparams, recorded_flags, snapshot_epochs
from harness.metrics import best_epoch, best_values, metrics_csv
from harness.run import RunFolder
from harness.tensorboard import BEST_TAGS, CONFUSION_TAG, EPOCHS_TAG, FILTERS_TAG, MISTAKES_TAG, EventsFile

WORST_SHOWN = 30


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
