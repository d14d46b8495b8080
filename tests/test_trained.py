"""Trained networks out of run folders: what is refused, what titles say, which images they are shown."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.analyses.base import load_test_images
from harness.checkpoint import FORMAT, Trained, load_trained
from harness.data import ImageSet, Split
from harness.errors import UserError
from models import build_model

DESCRIPTION = {
    "name": "LeNet5",
    "channels": 1,
    "image_size": 28,
    "classes": 10,
    "fc_activation": "tanh",
}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Write a whole best.pt, but for what is changed: save(epoch="2"), save(config={…})."""

    def call(*, config: dict | None = None, **changes: object) -> Path:
        given = {"flags": {}, "model": DESCRIPTION, "dataset": {"name": "mnist", "checksum": "of mnist"}}
        content = {
            "format": FORMAT,
            "config": given | (config or {}),
            "model": build_model({"model": DESCRIPTION}, seed=1).state_dict(),
            "epoch": 2,
        }
        torch.save(content | changes, tmp_path / "best.pt")
        return tmp_path / "best.pt"

    return call


def test_network_comes_with_its_weights_in_evaluation_mode(save) -> None:
    trained = load_trained(save(), build_model)
    expected = build_model({"model": DESCRIPTION}, seed=1).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trained.model.state_dict().items())
    assert not trained.model.training
    assert (trained.dataset, trained.checksum, trained.epoch, trained.channels) == ("mnist", "of mnist", 2, "gray")
    assert replace(trained, description=DESCRIPTION | {"channels": 3}).channels == "rgb"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": [1.0]}, "holds no whole network"),
        ({"epoch": "2"}, "holds no whole network"),
        ({"config": {"dataset": "mnist"}}, "does not say on which images it was trained"),
        ({"config": {"dataset": {"name": "flowers"}}}, "does not say on which images it was trained"),
        ({"config": {"model": "LeNet5"}}, "cannot be rebuilt"),
        ({"config": {"model": DESCRIPTION | {"classes": 7}}}, "cannot be rebuilt"),
        ({"model": {}}, "cannot be rebuilt"),
    ],
)
def test_what_is_no_whole_network_is_one_sentence(save, changes: dict, sentence: str) -> None:
    path = save(**changes)
    with pytest.raises(UserError, match=sentence) as caught:
        load_trained(path, build_model)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_titles_say_what_was_learnt_and_what_is_shown_if_it_is_another_set(save) -> None:
    trained = load_trained(save(), build_model)
    assert trained.source(None) == trained.source(image_set("mnist")) == "mnist gray, epoch 2"
    assert trained.source(None, all_epochs=True) == "mnist gray"
    assert trained.source(image_set("cifar10")) == "trained on mnist gray, epoch 2; images of cifar10"


def image_set(name: str, checksum: str = "of mnist", side: int = 28) -> ImageSet:
    split = Split(torch.zeros(2, 1, side, side, dtype=torch.uint8), torch.tensor([0, 1]))
    return ImageSet(name, checksum, tuple("0123456789"), 0.0, 1.0, split, split)


@pytest.mark.parametrize(
    ("data", "shown", "said"),
    [
        (None, image_set("mnist"), ""),
        (None, image_set("mnist", "another"), "note: mnist here is not the very set that "),
        (
            "cifar10",
            image_set("cifar10"),
            "note: trained on mnist; a class of cifar10 counts as the one of its number\n",
        ),
    ],
)
def test_images_of_another_set_are_told(save, monkeypatch, capsys, data, shown: ImageSet, said: str) -> None:
    trained = load_trained(save(), build_model)
    asked = []
    monkeypatch.setattr(
        "harness.analyses.base.load_images", lambda name, **options: asked.append((name, options)) or shown
    )
    assert load_test_images(trained, data, data_dir=Path("data"), mirror="a mirror") is shown
    options = {"data_dir": Path("data"), "channels": "gray", "mirror": "a mirror", "classes": ""}
    assert asked == [(data or "mnist", options)]
    out = capsys.readouterr().out
    assert out.startswith(said) and bool(out) == bool(said)


def test_images_of_another_size_are_refused(save, monkeypatch) -> None:
    trained: Trained = load_trained(save(), build_model)
    monkeypatch.setattr("harness.analyses.base.load_images", lambda name, **options: image_set(name, side=32))
    with pytest.raises(UserError, match="takes images of 1 channels and 28 pixels a side in 10 classes, and mnist has"):
        load_test_images(trained, None, data_dir=Path("data"), mirror=None)
