"""Damage of every kind to what the project reads, for test_mutations.py (a few, fixed) and soak.py (as many as asked).

Each function takes a random.Random, for which hypothesis can put its own, and damages one place. `outcome` runs what
reads the damaged thing as a script does, and `check_told` says what every script promises of such a run.
"""

import contextlib
import copy
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from random import Random

# Values that are wrong in most places of a config, a grid or a checkpoint, and each in another way.
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan")),
    *(
        "",
        " ",
        "x",
        "a\nb",
        "\r",
        "\0",
        "\ud800",
        "é",
        "..",
        "../x",
        "/",
        "~",
        "~nobody/x",
        "--",
        "-1",
        "1e999",
        "x" * 300,
    ),
    *([], [1], [[]], {}, {"a": 1}, {"": {}}),
)

# Words that are wrong, or just right, behind most flags.
ODD_WORDS = (
    *("--", "-", "---", "", " ", "\n", "1\n2", "\t", "\x1b[2J", "\udc80", "é", "٣", "x" * 300),
    *(
        "~",
        "~/x",
        "~nobody/x",
        ".",
        "..",
        "/",
        "a/b",
        "a\\b",
        "file:///x",
        "http://[",
        "con",
        "@x",
        "*",
        "$HOME",
        "%s",
        "{}",
    ),
    *("0", "-0", "-1", "1", "01", "+1", "1_0", "0x1", "1.5", "1e3", "1e-400", "1e999", "inf", "nan", "-inf", "9" * 400),
    *(
        "None",
        "True",
        "auto",
        "cpu",
        "synthetic",
        "1,2",
        ",",
        "1,,2",
        "conv1:",
        "conv1:1",
        ":1",
        "1,-1",
        "gru",
        "best.pt",
    ),
)


def _cut(before: bytes, here: bytes, after: bytes, random: Random) -> bytes:
    return before


def _removed(before: bytes, here: bytes, after: bytes, random: Random) -> bytes:
    return before + after


def _flipped(before: bytes, here: bytes, after: bytes, random: Random) -> bytes:
    return before + bytes([here[0] ^ 1 << random.randrange(8)]) + here[1:] + after


def _zeros(before: bytes, here: bytes, after: bytes, random: Random) -> bytes:
    return before + bytes(len(here)) + after


def _noise(before: bytes, here: bytes, after: bytes, random: Random) -> bytes:
    return before + bytes(random.randrange(256) for _ in here) + after


def _doubled(before: bytes, here: bytes, after: bytes, random: Random) -> bytes:
    return before + here + here + after


_DAMAGES = (_flipped, _cut, _removed, _zeros, _noise, _doubled)


def damaged_bytes(content: bytes, random: Random) -> bytes:
    """The content with some bytes flipped, cut off, removed, zero, random or doubled, anywhere in it."""
    start = random.randrange(len(content))
    stop = start + random.choice([1, 4, 16, 512])
    return random.choice(_DAMAGES)(content[:start], content[start:stop], content[stop:], random)


def damaged_archive(content: bytes, random: Random) -> bytes:
    """A checkpoint with one part of one record damaged; each is as likely as the other, however large they are."""
    start, stop = random.choice(list(_parts_of_archive(content)))
    return content[:start] + damaged_bytes(content[start:stop], random) + content[stop:]


def _parts_of_archive(content: bytes) -> Iterator[tuple[int, int]]:
    """Where the parts of a zip file begin and end: each record's header and data, and the directory at the end."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        directory = archive.start_dir
        for entry in archive.infolist():
            lengths = struct.unpack_from("<HH", content, entry.header_offset + 26)  # of its name and its padding
            data = entry.header_offset + 30 + sum(lengths)
            yield entry.header_offset, data
            if entry.file_size:
                yield data, data + entry.file_size
    yield directory, len(content)
    yield len(content) - 22, len(content)  # the record that says where the directory is


def damaged_value(value: object, random: Random, odd: tuple = ODD_VALUES) -> object:
    """A copy of nested dicts and lists in which one entry has another value, is missing, or has another name."""
    value = copy.deepcopy(value)
    container, key = random.choice(list(entries(value)))
    way = random.choice(["changed", "changed", "missing", "renamed"])
    old = container.pop(key) if way != "changed" else None
    if way == "changed":
        container[key] = copy.deepcopy(random.choice(odd))
    elif way == "renamed" and isinstance(container, dict):
        container[random.choice(["", "x", f"{key}_", f"{key}".upper()])] = old
    return value


def entries(value: object) -> Iterator[tuple[dict | list, object]]:
    """Every place in nested dicts and lists: what it is in, and its key or index there."""
    here = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in here:
        yield value, key
        yield from entries(each)


def damaged_table(text: str, random: Random) -> str:
    """Lines of words with commas between, one word or line of which is another, is missing or is there twice."""
    lines = [line.split(",") for line in text.splitlines()]
    place = random.choice([lines, *lines])  # the lines as a whole, or the words of one
    index = random.randrange(len(place))
    way = random.choice(["changed", "missing", "doubled", "swapped"])
    if way == "changed":
        odd = random.choice(ODD_WORDS)
        place[index] = [odd] if place is lines else odd
    elif way == "missing":
        del place[index]
    elif way == "doubled":
        place.insert(index, place[index])
    else:
        place[index], place[0] = place[0], place[index]
    return "\n".join(map(",".join, lines)) + "\n"


def outcome(main: Callable[[], int]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of what is run as a script's main is; a bug is raised."""
    from harness.cli import run_script

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_script(main)
    return code, out.getvalue(), err.getvalue()


def check_told(code: int, err: str) -> None:
    """What is promised of any damage: it is said in one line and exit code 2, or nothing but notes is said."""
    lines = err.split("\n")[:-1]
    errors = [line for line in lines if not line.startswith(("note: ", "warning: "))]
    if code == 2:
        assert len(errors) == 1 and errors[0].startswith("error: "), err
    else:
        assert (code, errors) == (0, []), err
