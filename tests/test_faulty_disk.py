"""Every open, write, lock, flush, renaming and removal of a training fails, with each error a system may give."""

import sys
from collections.abc import Iterator

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("it needs Linux's /proc and flock", allow_module_level=True)

from faulty_disk import KINDS, PASSING, Training
from killed_runs import make_runs_small

import rnn_mnist

# What a run can do without: locks and the flush of a folder where the file system has none, and a renaming that a
# reader or a virus scanner is in the way of for a moment.
EXPENDABLE = {
    *((kind, error) for kind in ("lock", "fsync folder") for error in ("ENOSYS", "EOPNOTSUPP")),
    *(("lock", "ENOLCK"), ("fsync folder", "EINVAL"), ("rename", "EACCES")),
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Training]:
    with pytest.MonkeyPatch.context() as patch:
        make_runs_small(patch.setattr)
        words = ("--data=synthetic", "--hidden-size=4", "--batch-size=20")
        yield Training(rnn_mnist.main, words, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def places(training: Training) -> dict[str, list[tuple[str, int]]]:
    """Way and number of every call, by its kind."""
    found = {kind: [] for kind in KINDS}
    for way in Training.WAYS:
        for kind, number in training.faults(way):
            found[kind].append((way, number))
    return found


@pytest.mark.parametrize(("kind", "error"), [(kind, error) for kind, errors in KINDS.items() for error in errors])
def test_fault_of_the_disk_is_one_sentence_and_costs_no_epoch(
    training: Training, places: dict[str, list[tuple[str, int]]], kind: str, error: str
) -> None:
    """Each error at another call of its kind, evenly over the run that begins, the one resumed and the one replaced."""
    errors = KINDS[kind]
    here = places[kind]
    way, number = here[(2 * errors.index(error) + 1) * len(here) // (2 * len(errors))]
    code, failed = training.check_fault(way, number, error, lasting=error not in PASSING)
    if (kind, error) in EXPENDABLE:
        assert code == 0, failed
