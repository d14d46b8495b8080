"""The drawn sets: the right form, the same every time, and each class what its name says."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from harness import synthetic
from harness.data import load_images
from harness.synthetic import SHAPES, draw_digits, draw_shapes


@pytest.fixture(autouse=True)
def fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "TRAIN_COUNT", 2000)
    monkeypatch.setattr(synthetic, "TEST_COUNT", 400)


@pytest.mark.parametrize(
    ("draw", "shape", "names"), [(draw_shapes, (3, 32, 32), SHAPES), (draw_digits, (1, 28, 28), tuple("0123456789"))]
)
def test_a_drawn_set_has_the_form_of_the_real_one(draw: Callable, shape: tuple[int, ...], names: tuple) -> None:
    (train_images, train_labels, test_images, test_labels), classes = draw()
    assert classes == names
    assert train_images.shape == (2000, *shape)
    assert test_images.shape == (400, *shape)
    assert train_images.dtype == test_images.dtype == np.uint8
    labels = np.concatenate([train_labels, test_labels])
    np.testing.assert_array_equal(np.bincount(labels), [240] * 10)
    assert np.bincount(test_labels).min() > 15  # in random order: each class is in both splits
    drawn = np.concatenate([train_images, test_images])
    assert len({image.tobytes() for image in drawn}) == 2400  # none twice, so none in both splits
    for arrays in zip(draw()[0], draw(seed=1)[0], (train_images, train_labels, test_images, test_labels), strict=True):
        again, other, first = arrays
        np.testing.assert_array_equal(again, first)
        assert not np.array_equal(other, first)


def alike(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The correlation of each image with each of the others."""

    def standardised(stack: np.ndarray) -> np.ndarray:
        flat = stack.reshape(len(stack), -1).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    return standardised(images) @ standardised(others).T


def class_means(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([images[labels == label].mean(axis=(0, 1)) for label in range(10)])


def drawn_by_pillow(shape: str) -> np.ndarray:
    """The shape in white on black, 32×32, as someone with Pillow would draw it from its name."""
    image = Image.new("L", (128, 128))
    pen = ImageDraw.Draw(image)
    whole, inner = (22, 22, 106, 106), (27, 27, 101, 101)
    if shape in ("disc", "crescent"):
        pen.ellipse(whole, fill=255)
    if shape == "crescent":
        pen.ellipse((50, 32, 116, 96), fill=0)
    if shape == "ring":
        pen.ellipse(whole, outline=255, width=17)
    if shape == "square":
        pen.rectangle(inner, fill=255)
    if shape == "frame":
        pen.rectangle(whole, outline=255, width=15)
    if shape == "triangle":
        pen.polygon([(64, 21), (106, 94), (22, 94)], fill=255)
    if shape == "cross":
        pen.rectangle((21, 52, 107, 76), fill=255)
        pen.rectangle((52, 21, 76, 107), fill=255)
    if shape == "stripes":
        for top in (30, 64, 98):
            pen.rectangle((21, top, 107, top + 17), fill=255)
    if shape == "checker":
        pen.rectangle((21, 64, 64, 107), fill=255)
        pen.rectangle((64, 21, 107, 64), fill=255)
    if shape == "star":
        corners = [(k * math.pi / 5, (47, 15)[k % 2]) for k in range(10)]
        pen.polygon([(64 + r * math.sin(angle), 64 - r * math.cos(angle)) for angle, r in corners], fill=255)
    return np.asarray(image.resize((32, 32)))


def digit_by_pillow(digit: int) -> np.ndarray:
    """The digit in Pillow's own font, which is none of those that the set is drawn with: 20 pixels high in 28×28."""
    page, image = Image.new("L", (60, 60)), Image.new("L", (28, 28))
    ImageDraw.Draw(page).text((20, 20), str(digit), fill=255, font=ImageFont.load_default(26))
    glyph = page.crop(page.getbbox())
    glyph = glyph.resize((max(1, round(glyph.width * 20 / glyph.height)), 20))
    image.paste(glyph, ((28 - glyph.width) // 2, 4))
    return np.asarray(image)


def test_each_shape_looks_like_its_name() -> None:
    (images, labels, *_), names = draw_shapes()
    templates = np.stack([drawn_by_pillow(name) for name in names])
    likeness = alike(templates, class_means(images, labels))
    np.testing.assert_array_equal(likeness.argmax(axis=1), np.arange(10))
    assert likeness.diagonal().min() > 0.7


def test_each_digit_looks_like_its_name() -> None:
    (images, labels, *_), _ = draw_digits()
    templates = np.stack([digit_by_pillow(digit) for digit in range(10)])
    likeness = alike(class_means(images, labels), templates)
    np.testing.assert_array_equal(likeness.argmax(axis=1), np.arange(10))


@pytest.mark.parametrize(("draw", "least"), [(draw_shapes, 0.8), (draw_digits, 0.97)])
def test_a_drawn_set_can_be_learnt_but_not_from_its_means(draw: Callable, least: float) -> None:
    """By nearest neighbour, which learns worse than any network here: far above chance from 2000 images."""
    (train_images, train_labels, test_images, test_labels), _ = draw()
    train, test = train_images.mean(axis=1), test_images.mean(axis=1)
    nearest = train_labels[alike(test, train).argmax(axis=1)]
    assert (nearest == test_labels).mean() > least
    brightness = train_images.mean(axis=(1, 2, 3))
    nearest = train_labels[np.abs(test_images.mean(axis=(1, 2, 3))[:, None] - brightness).argmin(axis=1)]
    assert (nearest == test_labels).mean() < 0.4


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("synthetic-shapes", "rgb", (3, 32, 32)),
        ("synthetic-shapes", "gray", (1, 32, 32)),
        ("synthetic-digits", "gray", (1, 28, 28)),
    ],
)
def test_drawn_sets_need_no_folder_and_say_what_they_are(
    name: str, channels: str, shape: tuple, tmp_path: Path
) -> None:
    images = load_images(name, data_dir=tmp_path / "nowhere", channels=channels)
    assert images.name == name
    assert "synthetic" in images.name
    assert images.train.images.shape == (2000, *shape)
    assert not (tmp_path / "nowhere").exists()
    assert images.checksum == load_images(name, data_dir=tmp_path, channels="rgb").checksum


@pytest.mark.usefixtures("tiny_synthetic")
@pytest.mark.parametrize("array", range(4))
def test_checksum_is_of_all_pixels_and_labels(array: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, classes = draw_digits()
    drawn = [each.copy() for each in arrays]
    monkeypatch.setattr("harness.data.draw_digits", lambda: (drawn, classes))
    before = load_images("synthetic-digits", data_dir=tmp_path).checksum
    drawn[array].flat[-1] += 1
    assert load_images("synthetic-digits", data_dir=tmp_path).checksum != before
