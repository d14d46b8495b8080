"""The report's blocks as Markdown, as GitHub shows it."""

import re
from collections.abc import Sequence

from harness.report.document import Block, Bullets, Code, Figure, Heading, Link, Paragraph, Part, Strong, Table, Text


def render_markdown(blocks: Sequence[Block], marker: str) -> str:
    """The whole document; `marker` is a comment at its top."""
    return "\n\n".join([f"<!-- {marker} -->", *map(_block, blocks)]) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(level, text, anchor):
            return f'<a id="{anchor}"></a>\n\n{"#" * level} {_escaped(text)}'
        case Paragraph(parts, remark):
            return ("> " if remark else "") + _line(parts)
        case Bullets(items):
            return "\n".join(f"- {_line(item)}" for item in items)
        case Figure():
            caption = _inline(block.caption)
            picture = f"![{_escaped(block.description)}](figures/{block.name})"
            return f"{picture}\n\n<sub>{caption}</sub>" if caption else picture
        case Table():
            return _table(block)
    raise TypeError(f"no Markdown for {block!r}")


def _table(block: Table) -> str:
    rule = ["---" if column in block.left else "---:" for column in range(len(block.header))]
    lines = [[_escaped(cell) for cell in block.header], rule]
    lines += [[_inline(cell).replace("\\|", "|").replace("|", "\\|") for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(parts: Text) -> str:
    """Text that begins a line, where # - + > and `1.` would mean something."""
    text = _inline(parts).strip()
    return re.sub(r"^(\d{1,9})([.)])", r"\1\\\2", re.sub(r"^([-+#>=:])", r"\\\1", text))


def _inline(parts: Text) -> str:
    return "".join(map(_part, parts))


def _part(part: Part) -> str:
    match part:
        case Code(text):
            return _code(text)
        case Strong(text):
            return f"**{_escaped(text)}**"
        case Link(text, target):
            return f"[{_escaped(text)}]({target})"
    return _escaped(part)


def _code(text: str) -> str:
    """A code span: fenced by more backticks than stand in it."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _escaped(text: str) -> str:
    """Plain text in one line, of which nothing is taken for markup, an HTML tag, an entity or a formula."""
    text = " ".join(text.split(None)) if text.strip() == text else re.sub(r"\s+", " ", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", text)
