"""The report as a list of blocks, written once and rendered twice: `markdown.py` and `page.py`.

Text is a tuple of parts: plain `str`, which either renderer escapes, and the few marked-up kinds below. Nothing here
is markup itself, so a row may be named or noted as it likes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Code:
    """Text to be typed, or a name as the machine knows it."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Text that stands out."""

    text: str


@dataclass(frozen=True)
class Link:
    """`target` is an address, a path relative to the report's folder, or # and a heading's anchor."""

    text: str
    target: str


Part = str | Code | Strong | Link
Text = tuple[Part, ...]


@dataclass(frozen=True)
class Heading:
    """`level` 1 to 4; `anchor` is unique in the document."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True)
class Paragraph:
    """Parts of running text. A `remark` is set apart: something that is not as it should be, or a note."""

    parts: Text
    remark: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list, an item a line."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Table:
    """Cells are texts; numbers stand to the right, the columns of `left` to the left."""

    header: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    left: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Figure:
    """A picture to be written as figures/`name`, which ends in .svg or .png; `width` in CSS pixels at full size."""

    name: str
    content: bytes
    description: str  # for those who do not see it
    caption: Text
    width: int


Block = Heading | Paragraph | Bullets | Table | Figure


def paragraph(*parts: Part) -> Paragraph:
    return Paragraph(parts)


def remark(*parts: Part) -> Paragraph:
    return Paragraph(parts, remark=True)


def table(header: tuple[str, ...], rows: list[tuple[Part | Text, ...]], left: tuple[int, ...] = (0,)) -> Table:
    """A Table from cells that may be single parts."""
    cells = tuple(tuple(cell if isinstance(cell, tuple) else (cell,) for cell in row) for row in rows)
    return Table(header, cells, frozenset(left))
