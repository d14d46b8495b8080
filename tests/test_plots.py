"""The pictures: what each shows, at its place and in its colour."""

import io

import numpy as np
import pytest
from PIL import Image

from harness.pictures import confusion_figure, filters_grid, mosaic, png_bytes, worst_figure


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def pixels_of(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The (row, column) of every pixel of exactly this colour."""
    return np.argwhere((picture == colour).all(axis=2))


# -- PNG ---------------------------------------------------------------------------------------------------------------


def test_png_of_gray_pixels_gives_them_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 7), dtype=np.uint8)
    assert np.array_equal(decoded(png_bytes(pixels)), np.stack([pixels] * 3, axis=2))


def test_png_of_colours_has_256_at_most_and_stays_close() -> None:
    rows, columns = np.mgrid[0:64, 0:96]
    pixels = np.stack([rows * 4, columns * 2, rows + columns], axis=2).astype(np.uint8)  # some 6000 colours
    content = png_bytes(pixels)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    shown = decoded(content)
    assert shown.shape == (64, 96, 3)
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(shown.astype(int) - pixels).mean() < 8


def test_png_of_all_colors_gives_them_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(decoded(png_bytes(pixels, colors=None)), pixels)


# -- tiles and filters -------------------------------------------------------------------------------------------------


def test_filter_k_stands_at_row_k_over_8_and_column_k_modulo_8() -> None:
    """Twelve 5×5 filters enlarged 8 times: cells of 40 pixels, 4 apart and 4 from the edge."""
    weights = np.zeros((12, 1, 5, 5), dtype=np.float32)
    weights[:, 0] = np.linspace(-1, 1, 12)[:, None, None]
    sheet = filters_grid(weights)
    assert sheet.shape == (4 + 2 * 44, 4 + 8 * 44)
    assert sheet.dtype == np.uint8
    seen = np.zeros(sheet.shape, dtype=bool)
    for k, value in enumerate(np.linspace(-1, 1, 12)):
        here = (slice(4 + k // 8 * 44, 44 + k // 8 * 44), slice(4 + k % 8 * 44, 44 + k % 8 * 44))
        assert np.abs(sheet[here] - (127.5 + 127.5 * value)).max() <= 0.5
        seen[here] = True
    assert (sheet[~seen] == 255).all()


def test_tiles_stand_row_by_row_with_gaps_and_a_margin_of_the_ground() -> None:
    tiles = [np.full((1, 2, 1), number) for number in (1, 2, 3)]
    assert mosaic(tiles, 2, zoom=1, gap=1, margin=1, ground=9)[:, :, 0].tolist() == [
        [9, 9, 9, 9, 9, 9, 9],
        [9, 1, 1, 9, 2, 2, 9],
        [9, 9, 9, 9, 9, 9, 9],
        [9, 3, 3, 9, 9, 9, 9],
        [9, 9, 9, 9, 9, 9, 9],
    ]


def test_filters_share_one_scale_with_zero_at_mid_gray() -> None:
    weights = np.zeros((2, 1, 3, 3), dtype=np.float32)
    weights[0, 0] = [[0.5, 0, 0], [0, -0.25, 0], [0, 0, 0.1]]
    weights[1, 0, 0, 2] = -1.0  # the largest of all is black; the first filter's own largest is not white
    sheet = filters_grid(weights, zoom=1)
    first, second = sheet[4:7, 4:7].astype(int), sheet[4:7, 11:14].astype(int)
    assert abs(first[0, 0] - 191.25) <= 0.5 and abs(first[1, 1] - 95.625) <= 0.5 and abs(first[2, 2] - 140.25) <= 0.5
    assert second[0, 2] == 0
    assert first[0, 1] in (127, 128) and second[1, 1] in (127, 128)


def test_filters_of_three_channels_are_in_colour_and_of_more_are_their_mean() -> None:
    weights = np.zeros((1, 3, 1, 1), dtype=np.float32)
    weights[0, :, 0, 0] = [1.0, 0.0, -1.0]
    sheet = filters_grid(weights, zoom=2)
    assert sheet.ndim == 3
    assert sheet[5, 5, 0] == 255 and sheet[5, 5, 1] in (127, 128) and sheet[5, 5, 2] == 0
    many = np.zeros((2, 4, 1, 1), dtype=np.float32)
    many[0, :, 0, 0], many[1, :, 0, 0] = [4, 0, 0, 0], [-1, -1, 0, 0]  # means 1 and -0.5
    gray = filters_grid(many, zoom=1)
    assert gray[4, 4] == 255 and abs(int(gray[4, 9]) - 63.75) <= 0.5


def test_filters_that_are_all_zero_are_mid_gray() -> None:
    assert set(np.unique(filters_grid(np.zeros((8, 1, 2, 2))))) in ({127, 255}, {128, 255})


# -- confusion matrix, worst images ------------------------------------------------------------------------------------


def test_confusion_matrix_has_the_true_class_down_and_the_answer_across() -> None:
    """All of the first class taken for the second: the dark cell is at the upper right; the other way, lower left."""
    full = (8, 48, 107)  # the colormap's darkest blue, a share of 1
    taken_for_second = confusion_figure(np.array([[0, 9], [0, 0]]), ("a", "b"), "title")
    taken_for_first = confusion_figure(np.array([[0, 0], [9, 0]]), ("a", "b"), "title")
    assert taken_for_second.dtype == np.uint8 and taken_for_second.shape[2] == 3
    upper, lower = (np.median(pixels_of(picture, full), axis=0) for picture in (taken_for_second, taken_for_first))
    assert upper[0] < lower[0] - 100  # rows
    assert upper[1] > lower[1] + 100  # columns


def test_confusion_matrix_is_shaded_by_share_of_the_true_class() -> None:
    """One image of ten in the first row, all hundred in the second: both rows have a full cell."""
    picture = confusion_figure(np.array([[1, 0], [0, 100]]), ("a", "b"), "title")
    empty = confusion_figure(np.array([[0, 0], [0, 100]]), ("a", "b"), "title")
    assert len(pixels_of(picture, (8, 48, 107))) > 1.8 * len(pixels_of(empty, (8, 48, 107)))


def test_worst_images_are_shown_in_their_own_colours_and_brightness() -> None:
    red = np.zeros((1, 3, 8, 8), dtype=np.uint8)
    red[:, 0] = 255
    arguments = ([0], [1], [0.001], ("a", "b"), "title")
    assert len(pixels_of(worst_figure(red, *arguments), (255, 0, 0))) > 1000
    gray = np.full((1, 1, 8, 8), 100, dtype=np.uint8)  # not stretched to the image's own range
    assert len(pixels_of(worst_figure(gray, *arguments), (100, 100, 100))) > 1000


def test_worst_images_stand_in_rows_of_six_the_worst_first() -> None:
    images = np.zeros((8, 3, 4, 4), dtype=np.uint8)
    images[:, 0] = (np.arange(8) * 30 + 20)[:, None, None]
    sheet = worst_figure(images, [0] * 8, [1] * 8, [0.1] * 8, ("a", "b"), "title")
    places = [pixels_of(sheet, (red * 30 + 20, 0, 0)).mean(axis=0) for red in range(8)]
    first_row, second_row = places[:6], places[6:]
    assert [place[1] for place in first_row] == sorted(place[1] for place in first_row)
    assert max(place[0] for place in first_row) + 40 < min(place[0] for place in second_row)
    assert second_row[0][1] == pytest.approx(first_row[0][1], abs=2)
