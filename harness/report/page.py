"""The report's blocks as one HTML page that needs no other file: every picture is in it, nothing is fetched or run."""

import base64
import html
import re
from collections.abc import Sequence

from harness.pages import STYLE
from harness.report.document import Block, Bullets, Code, Figure, Heading, Link, Paragraph, Part, Strong, Table, Text


def render_page(blocks: Sequence[Block], marker: str) -> str:
    """The whole page; its title is the first heading, its contents the headings of level 2."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = []
    for block in blocks:
        body.append(_block(block))
        if isinstance(block, Heading) and block.level == 1:
            body.append(_contents(blocks))
    return (
        f'<!doctype html>\n<html lang="en">\n<!-- {marker} -->\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _contents(blocks: Sequence[Block]) -> str:
    links = [
        f'<a href="#{block.anchor}">{html.escape(block.text)}</a>'
        for block in blocks
        if isinstance(block, Heading) and block.level == 2
    ]
    return f"<nav>{' · '.join(links)}</nav>"


def _block(block: Block) -> str:
    match block:
        case Heading(level, text, anchor):
            return f'<h{level} id="{anchor}">{html.escape(text)}</h{level}>'
        case Paragraph(parts, remark):
            return f'<p class="remark">{_inline(parts)}</p>' if remark else f"<p>{_inline(parts)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>"
        case Figure():
            return _figure(block)
        case Table():
            return _table(block)
    raise TypeError(f"no HTML for {block!r}")


def _figure(block: Figure) -> str:
    caption = f"<figcaption>{_inline(block.caption)}</figcaption>" if block.caption else ""
    return (
        f'<figure><div class="figure"><img src="{_address(block)}" width="{block.width}" '
        f'alt="{html.escape(block.description)}"></div>{caption}</figure>'
    )


def _address(figure: Figure) -> str:
    """The picture itself as a data: address; an SVG as text, which is shorter than base64."""
    if figure.name.endswith(".png"):
        return f"data:image/png;base64,{base64.b64encode(figure.content).decode('ascii')}"
    svg = re.sub(r"<[^>']*>", lambda tag: tag[0].replace('"', "'"), figure.content.decode("utf-8"))
    for special in '%#?"':
        svg = svg.replace(special, f"%{ord(special):02X}")
    return f"data:image/svg+xml,{html.escape(svg, quote=False)}"


def _table(block: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        opening = [f'<{tag} class="text">' if column in block.left else f"<{tag}>" for column in range(len(cells))]
        return f"<tr>{''.join(f'{start}{cell}</{tag}>' for start, cell in zip(opening, cells, strict=True))}</tr>"

    head = row([html.escape(cell) for cell in block.header], "th")
    body = "\n".join(row([_inline(cell) for cell in cells], "td") for cells in block.rows)
    return f'<div class="scroll" tabindex="0"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _inline(parts: Text) -> str:
    return "".join(map(_part, parts))


def _part(part: Part) -> str:
    match part:
        case Code(text):
            return f"<code>{html.escape(text)}</code>"
        case Strong(text):
            return f"<strong>{html.escape(text)}</strong>"
        case Link(text, target):
            return f'<a href="{html.escape(target)}">{html.escape(text)}</a>'
    return html.escape(part)


_STYLE = """
h1 { font-size: 1.75rem; }
h3, h4 { margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
h3 { font-size: 1.125rem; }
h4 { font-size: 1rem; }
p, li, figcaption { overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure img { margin: 0; }
figcaption { color: var(--faint); font-size: .875rem; max-width: 46rem; margin-top: .5rem; }
table { border-collapse: separate; border-spacing: 0; }
th { white-space: normal; vertical-align: bottom; }
code { font: .875em ui-monospace, monospace; }
.remark { border-left: 3px solid var(--line); padding-left: .75rem; }
.scroll { margin: 1rem 0; }
@media screen and (max-width: 640px) {
  table { font-size: .8125rem; }
  th, td { padding: .2rem .35rem; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--ground); }
}
@media print {
  :root { --ink: #000; --faint: #444; --ground: #fff; --line: #bbb; --link: #000; color-scheme: light; }
  body { max-width: none; font-size: 10pt; }
  nav { display: none; }
  h2, h3, h4, h3 + p, h4 + p, .remark { break-after: avoid; }
  figure, tr, .remark, .scroll:not(:has(tr:nth-child(13))) { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .25rem; }
}
"""
