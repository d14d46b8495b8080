"""Augmentation and the views of test-time augmentation: whole batches against one image at a time, or torchvision."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as pytorchs

from harness.augmentation import affine, alternating, augment, reflected, views
from harness.data import EpochOrder, ImageSet, Split, train_batches
from harness.flags import AUGMENTATIONS, augmentations


def random_images(count: int, channels: int, size: int = 32) -> Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    return torch.from_numpy(pixels)


def image_set(pixels: Tensor, *, mirrored: bool = True) -> ImageSet:
    split = Split(pixels, torch.arange(len(pixels)))
    return ImageSet("made up", "0" * 32, ("a", "b"), 0.25, 0.5, split, split, mirrored=mirrored)


def draw(count: int, kinds: str | bool, order_seed: int = 3, **settings: int) -> EpochOrder:
    return EpochOrder.draw(count, torch.Generator().manual_seed(order_seed), augmentations(kinds), **settings)


def augmented_one_by_one(pixels: Tensor, flips: Tensor, shifts: Tensor, mode: str = "constant") -> np.ndarray:
    """Pad by 4, mirror where flagged, cut out at the given row and column: one image at a time."""
    results = []
    for image, flip, (row, column) in zip(pixels.numpy(), flips.numpy(), shifts.numpy(), strict=True):
        _, height, width = image.shape
        padded = np.pad(image[:, :, ::-1] if flip else image, ((0, 0), (4, 4), (4, 4)), mode=mode)
        results.append(padded[:, row : row + height, column : column + width])
    return np.stack(results)


@pytest.mark.parametrize(("kind", "mode"), [("shift", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("channels", [1, 3])
def test_mirroring_and_shifting_a_batch_equals_doing_it_image_by_image(channels: int, kind: str, mode: str) -> None:
    pixels = random_images(162, channels)
    shifts = torch.stack([torch.arange(162) % 81 // 9, torch.arange(162) % 9], dim=1)  # all 9 × 9, each
    flips = torch.arange(162) < 81  # once mirrored and once not
    result = augment(pixels, {"mirror": flips, kind: shifts}, {"mirror": 0, kind: 4})
    assert result.dtype == torch.uint8
    np.testing.assert_array_equal(result.numpy(), augmented_one_by_one(pixels, flips, shifts, mode))


def test_augmented_batches_use_the_orders_draws_by_position() -> None:
    pixels, order = random_images(11, 3), draw(11, True)
    batches = list(train_batches(image_set(pixels), order, batch_size=4))
    expected = augmented_one_by_one(pixels[order.indices], order.choices["mirror"], order.choices["shift"])
    inputs = np.concatenate([inputs.numpy() for inputs, _ in batches])
    np.testing.assert_allclose(inputs, (expected / 255 - 0.25) / 0.5, rtol=0, atol=1e-6)


def test_images_of_a_set_that_is_not_to_be_mirrored_are_only_shifted() -> None:
    pixels, order = random_images(11, 1), draw(11, True)
    [(inputs, _)] = train_batches(image_set(pixels, mirrored=False), order, batch_size=11)
    never = torch.zeros(11, dtype=torch.bool)
    expected = augmented_one_by_one(pixels[order.indices], never, order.choices["shift"])
    np.testing.assert_allclose(inputs.numpy(), (expected / 255 - 0.25) / 0.5, rtol=0, atol=1e-6)


def test_flips_are_even_and_every_shift_is_as_likely() -> None:
    choices = draw(81_000, True).choices
    assert abs(choices["mirror"].double().mean().item() - 0.5) < 0.01  # 5.7 standard deviations
    rows, columns = choices["shift"].T
    counts = torch.bincount(rows * 9 + columns, minlength=81)
    assert counts.shape == (81,)
    assert (counts - 1000).abs().max() < 180


def test_the_order_and_each_kinds_choices_are_the_same_with_fewer_kinds() -> None:
    """So a run with `--augment` is the one of before there were kinds: order, then mirroring, then shifts."""
    generator = torch.Generator().manual_seed(3)
    indices = torch.randperm(50, generator=generator)
    flips = torch.rand(50, generator=generator) < 0.5
    shifts = torch.randint(0, 9, (50, 2), generator=generator)
    for kinds in (False, "mirror", True, ",".join(kind for kind in AUGMENTATIONS if kind != "alternate")):
        order = draw(50, kinds)
        assert torch.equal(order.indices, indices)
        assert order.choices.keys() == augmentations(kinds).keys()
        for kind, choice in (("mirror", flips), ("shift", shifts)):
            assert torch.equal(order.choices.get(kind, choice), choice)


def test_alternating_shows_each_image_both_ways_in_any_two_epochs() -> None:
    base = alternating(torch.arange(1000), seed=5, epoch=1)
    assert 430 < base.sum() < 570
    for epoch in (1, 2, 3):
        order = draw(1000, "alternate", order_seed=epoch, seed=5, epoch=epoch)
        assert torch.equal(order.choices["mirror"], base[order.indices] ^ (epoch == 2))
    assert not torch.equal(alternating(torch.arange(1000), seed=6, epoch=1), base)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"rotate": 25.0}, {"angle": 25.0}),
        ({"scale": 0.2}, {"scale": 1.2}),
        ({"scale": -0.3}, {"scale": 0.7}),
        ({"shear": 0.3}, {"shear": float(np.degrees(np.arctan(0.3)))}),
        ({"rotate": -12.0, "scale": 0.1, "shear": -0.2}, {"angle": -12.0, "scale": 1.1, "shear": -11.309932474}),
    ],
    ids=str,
)
def test_turning_and_stretching_is_torchvisions_affine(ours: dict, theirs: dict) -> None:
    pixels = random_images(3, 3, size=28).float()
    settings = {"angle": 0.0, "scale": 1.0, "shear": 0.0} | theirs
    expected = pytorchs.affine(
        pixels,
        translate=[0, 0],
        interpolation=InterpolationMode.BILINEAR,
        **settings | {"shear": [settings["shear"], 0.0]},
    )
    assert not torch.allclose(expected, pixels, atol=20)
    torch.testing.assert_close(affine(pixels, **ours), expected, rtol=0, atol=0.02)


def test_each_image_is_turned_by_its_own_angle_within_the_size() -> None:
    pixels = random_images(6, 1, size=28)
    order = draw(6, "rotate:30,scale:0.2,shear:0.1")
    choices = {kind: order.choices[kind] for kind in ("rotate", "scale", "shear")}
    result = augment(pixels, choices, order.sizes)
    assert result.dtype == torch.float32 and result.min() >= 0 and result.max() <= 255.01
    for number, image in enumerate(pixels):
        alone = affine(image[None].float(), **{kind: float(values[number]) for kind, values in choices.items()})
        torch.testing.assert_close(result[number], alone[0], rtol=0, atol=0.02)
    many = draw(20_000, "rotate:30").choices["rotate"]
    assert -30 <= many.min() < -29.9 and 29.9 < many.max() <= 30 and abs(many.mean()) < 0.5


def test_turned_digits_keep_a_black_ground_when_normalized() -> None:
    pixels = torch.zeros(4, 1, 28, 28, dtype=torch.uint8)
    pixels[:, :, 10:18, 10:18] = 255
    [(inputs, _)] = train_batches(image_set(pixels), draw(4, "rotate:45,scale:0.5"), batch_size=4)
    torch.testing.assert_close(inputs.amin((1, 2, 3)), torch.full((4,), -0.25 / 0.5))
    torch.testing.assert_close(inputs.amax((1, 2, 3)), torch.full((4,), 0.75 / 0.5))


def test_cutout_hides_a_square_around_its_center_and_nothing_else() -> None:
    pixels = random_images(3, 3).clamp(max=200)
    centers = torch.tensor([[0.5, 0.5], [0.0, 0.999], [10.5 / 32, 20.5 / 32]])
    result = augment(pixels, {"cutout": centers}, {"cutout": 6}, blank=255)
    hidden = [(slice(13, 19), slice(13, 19)), (slice(0, 3), slice(29, 32)), (slice(8, 13), slice(18, 23))]
    for image, before, (rows, columns) in zip(result, pixels, hidden, strict=True):
        expected = before.clone()
        expected[:, rows, columns] = 255
        assert torch.equal(image, expected)
    order = draw(100, "cutout:8")
    [(inputs, _)] = train_batches(image_set(random_images(100, 1)), order, batch_size=100)
    gray = (64 / 255 - 0.25) / 0.5  # the mean of the set, as a pixel
    assert ((inputs - gray).abs() < 1e-6).sum((1, 2, 3)).min() >= 16  # at a corner a quarter of the square is left


def test_reflecting_is_numpys() -> None:
    pixels = random_images(2, 3, size=5)
    expected = np.pad(pixels.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")
    np.testing.assert_array_equal(reflected(pixels, 3).numpy(), expected)


@pytest.mark.parametrize("mirrored", [True, False])
def test_views_are_the_image_and_its_neighbors_and_their_weights_add_up(mirrored: bool) -> None:
    pixels = random_images(2, 3)
    seen = list(views(pixels, mirrored=mirrored))
    assert sum(weight for weight, _ in seen) == 1 and len(seen) == (6 if mirrored else 3)
    padded = torch.from_numpy(np.pad(pixels.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    expected = [(0.5, pixels), (0.25, padded[:, :, :-2, :-2]), (0.25, padded[:, :, 2:, 2:])]
    if mirrored:
        expected = [(weight / 2, own) for weight, image in expected for own in (image.flip(3), image)]
    for (weight, view), (expected_weight, image) in zip(seen, expected, strict=True):
        assert weight == expected_weight and torch.equal(view, image)
