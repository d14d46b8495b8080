"""Matplotlib's SVG made small, with colours that follow a dark page.

What no viewer needs goes: groups and names that nothing refers to, digits that nobody sees, and styles that are spelled
out at every element instead of once in a style sheet. There each colour has its twin for readers whose system is dark.
"""

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_LOOK = "*{stroke-linejoin:round}text{font-family:'DejaVu Sans',Verdana,sans-serif}"
_LEFT_OUT = re.compile("font-family:.*|text-anchor:start|stroke-dashoffset:0")  # said once for all, or how it is anyway


def smaller(svg: bytes, dark: Mapping[str, str]) -> bytes:
    """The picture in less than half of the bytes; `dark` maps colours, as in #1b1f24, to those on a dark ground."""
    for prefix, space in (("", _SVG), ("xlink", _XLINK)):
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(svg)
    _tidy(root, _names(svg.decode()))
    sheet = root.find(f"{{{_SVG}}}defs/{{{_SVG}}}style")
    sheet.text = _LOOK + _classes(root, dark)
    return ElementTree.tostring(root, encoding="utf-8").replace(b" />", b"/>")


def _names(svg: str) -> dict[str, str]:
    """A short name for each that is referred to."""
    found = dict.fromkeys(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    return {name: f"n{number}" for number, name in enumerate(found)}


def _tidy(parent: Element, names: Mapping[str, str]) -> None:
    """Shorten everything below; groups without any attribute are replaced by what is in them."""
    children = []
    for child in parent:
        if child.tag == f"{{{_SVG}}}metadata":
            continue
        for key, value in list(child.attrib.items()):
            child.attrib[key] = _shorter(key, value, names)
            if not child.attrib[key]:
                del child.attrib[key]
        _tidy(child, names)
        child.text = child.text if child.text and child.text.strip() else None
        child.tail = None
        if child.tag == f"{{{_SVG}}}g" and not child.attrib:
            children += child
        else:
            children.append(child)
    parent[:] = children


def _shorter(key: str, value: str, names: Mapping[str, str]) -> str:
    """An attribute's value; empty for an attribute that can go."""
    match key.rpartition("}")[2]:
        case "id":
            return names.get(value, "")
        case "clip-path" | "style":
            return re.sub(r"(?<=url\(#)[^)]+", lambda found: names[found[0]], value)
        case "href":
            return f"#{names[value[1:]]}"
        case "d":
            curved = "C" in value  # a marker, of two or three pixels
            return re.sub(r"\s*([A-Za-z]|(?=-))\s*", r"\1", _rounded(value, 2 if curved else 1))
        case "x" | "y" | "width" | "height":
            return _rounded(value, 2)
        case "transform":
            return "" if value.startswith("rotate(-0 ") else _rounded(value, 2)
    return value


def _rounded(text: str, digits: int) -> str:
    """The text with so many decimals at most in each of its numbers."""
    return re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.{digits}f}".rstrip("0").rstrip("."), text)


def _classes(root: Element, dark: Mapping[str, str]) -> str:
    """A style sheet with a class for each style attribute, which elements get instead."""
    classes: dict[str, str] = {}
    for element in _with_style(root):
        parts = [part.strip().replace(": ", ":") for part in element.attrib.pop("style").split(";")]
        style = ";".join(part for part in parts if part and not _LEFT_OUT.fullmatch(part))
        if style:
            element.set("class", classes.setdefault(style, f"c{len(classes)}"))
    for group in root.iter(f"{{{_SVG}}}g"):
        of_all = {child.get("class") for child in group}
        if len(of_all) == 1 and "class" not in group.attrib and None not in of_all:
            group.set("class", of_all.pop())
            for child in group:
                del child.attrib["class"]
    light = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    twins = []
    for style, name in classes.items():
        colours = [part.split(":") for part in style.split(";") if part.partition(":")[2] in dark]
        if colours:
            twins.append(f".{name}{{{';'.join(f'{kind}:{dark[colour]}' for kind, colour in colours)}}}")
    # `screen`, because paper is white for everybody.
    return f"{light}@media screen and (prefers-color-scheme:dark){{{''.join(twins)}}}"


def _with_style(root: Element) -> Iterator[Element]:
    return (element for element in root.iter() if "style" in element.attrib)
