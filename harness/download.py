"""Fetch an image set: several mirrors, resumed downloads, and nothing kept that is not the published bytes.

`fetch` is called by `harness.data` when a file is missing. A source that stalls, crawls, drops the connection or serves
something else is left for the next one, which continues where the last one stopped: the mirrors are byte-identical, and
the checksum of the whole decides in the end. While it is incomplete, and until it is unpacked, a download is called
`<archive>.part`; it survives an interruption. torchvision unpacks. The sources stand in `harness/image_sets.py`.
"""

import contextlib
import hashlib
import http.client
import os
import posixpath
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from harness.errors import Interrupted, UserError
from harness.files import is_locked, lock_folder, make_folder, os_errors_as
from harness.image_sets import IMAGE_SETS, Archive, ImageSetEntry


@dataclass(frozen=True)
class Patience:
    """How long a source may keep us waiting. Seconds, and bytes a second."""

    timeout: float = 15.0  # without a single byte
    slowest: float = 250_000.0  # slower than this over `window`, and the next source is tried
    window: float = 10.0


PATIENCE = Patience()

GZIP_MAGIC = b"\x1f\x8b"  # every archive begins with it


class SourceFailed(Exception):
    """This source is of no use now; the message says why in a few words, `again` whether a second try may help."""

    def __init__(self, why: str, *, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


def fetch(name: str, data_dir: Path, mirror: str | None = None) -> None:
    """Download the archives of the image set `name` and have torchvision unpack them into `data_dir`.

    `mirror`, tried first, is the URL or local path of a folder with the archives, or of an archive. Raises UserError,
    naming what was tried and where the files would go, if no source gives the published bytes.
    """
    entry = IMAGE_SETS[name]
    complaint = f"{name} is not in {data_dir / entry.folder}"
    with contextlib.ExitStack() as lock:
        try:
            make_folder(data_dir)
            if is_locked(data_dir):
                print(f"waiting for another process that downloads into {data_dir}", flush=True)
            lock.enter_context(lock_folder(data_dir, wait=True))
        except UserError as error:
            raise UserError(f"{complaint}, and {error}; name another --data-dir, or use --data synthetic") from error
        if entry.lies_in(data_dir):
            return  # another process fetched them meanwhile
        paths = [_obtain(archive, entry, data_dir, mirror, complaint) for archive in entry.archives]
        _unpack(entry, paths, data_dir)
        for archive in entry.archives:  # what was downloaded for this; the user's own stays
            (data_dir / entry.archive_folder / f"{archive.name}.part").unlink(missing_ok=True)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _obtain(archive: Archive, entry: ImageSetEntry, data_dir: Path, mirror: str | None, complaint: str) -> Path:
    """The path of the verified archive: the mirror's own, one that lies where torchvision looks, or a download there.

    `complaint` begins the UserError that is raised when no source gives the published bytes.
    """
    kept = data_dir / entry.archive_folder / archive.name  # from torchvision, or put there by hand
    make_folder(kept.parent)
    part = kept.with_name(f"{archive.name}.part")
    sources = [*([str(kept)] if kept.exists() else []), *archive.sources]
    if mirror:
        # A folder stands for each of its archives, and so does one archive of several.
        if len(entry.archives) > 1 or mirror.endswith("/") or os.path.isdir(mirror):  # noqa: PTH112 - as in _fault
            mirror = posixpath.join(re.sub(r"[^/\\]*\.gz$", "", mirror), archive.name)
        sources.insert(0, mirror)
    failures = {}
    # First only sources that are fast enough; then, of those that sent something, any that keeps sending.
    for patience in (PATIENCE, replace(PATIENCE, slowest=0)):
        worth_another_try = []
        for source in sources:
            name = source.split("/")[2] if _is_url(source) else source
            try:
                if not _is_url(source):
                    if fault := _fault(Path(source), archive):
                        raise SourceFailed(fault)
                    return Path(source)
                print(f"downloading {archive.name} from {source}", flush=True)
                download(source, part, archive, patience)
                return part
            except SourceFailed as failure:
                print(f"gave up on {name}: {failure}", flush=True)
                failures[name] = failure
                if failure.again:
                    worth_another_try.append(source)
            except Interrupted as interruption:
                interruption.message = "interrupted; the same command continues the download"
                raise
        sources = worth_another_try
    tried = "; ".join(f"{name} ({failure})" for name, failure in failures.items())
    raise UserError(
        f"{complaint} and could not be downloaded; tried {tried}; "
        + ("run again to continue the download, or " if part.exists() else "")
        + "put the files there, or name an archive or URL with --mirror, or use --data synthetic to go without"
    )


def _unpack(entry: ImageSetEntry, archives: Sequence[Path], data_dir: Path) -> None:
    """Have torchvision's class verify and unpack the archives, whose paths come in the entry's order.

    It works in a folder of its own, from which each file moves to its place when all are whole: a kill in between
    leaves no half of a file under a name that counts.
    """
    from torchvision import datasets  # not at the top: it takes longer to import than all else of a start but torch

    workshop = data_dir / ".unpacking"
    shutil.rmtree(workshop, ignore_errors=True)  # what an earlier kill left
    try:
        with os_errors_as(f"cannot unpack into {data_dir}"):
            (workshop / entry.archive_folder).mkdir(parents=True)
            for archive, path in zip(entry.archives, archives, strict=True):
                shutil.copyfile(path, workshop / entry.archive_folder / archive.name)
            getattr(datasets, entry.torchvision)(workshop, download=True)
            (data_dir / entry.folder).mkdir(parents=True, exist_ok=True)
            for path in (workshop / entry.folder).iterdir():
                if path.suffix != ".gz" or path.name in entry.train | entry.test:  # else a copy of an archive
                    path.replace(data_dir / entry.folder / path.name)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def download(source: str, part: Path, archive: Archive, patience: Patience) -> None:
    """Download `source` to `part`, continuing what is there; on return `part` holds the published bytes.

    Raises SourceFailed if the source cannot be reached, stalls, is slower than `patience` allows, ends early, or
    serves another file; what has arrived stays in `part` then, unless the whole is known to be wrong.
    """
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have < archive.size:
            _request(source, part, have, archive, patience)
        if not (fault := _fault(part, archive)):
            return
        part.unlink()
        if not have:
            raise SourceFailed(fault)
        # The fault may lie with what was there before: the source is judged by its own bytes alone.
        print("what an earlier attempt had left was of another file; from the beginning", flush=True)


def _request(source: str, part: Path, have: int, archive: Archive, patience: Patience) -> None:
    """Bring `part` from `have` bytes to the archive's size, or raise SourceFailed."""
    headers = {"User-Agent": "small-network-experiments"} | ({"Range": f"bytes={have}-"} if have else {})
    why = ""
    try:
        request = urllib.request.Request(source, headers=headers)
        with urllib.request.urlopen(request, timeout=patience.timeout) as response:
            _receive(response, part, _first_byte(response, have, archive), archive, patience)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the URL or host cannot be
        reason = getattr(error, "reason", error)  # of a URLError, what it wraps
        why = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        if isinstance(error, urllib.error.HTTPError):
            why = f"HTTP {error.code}"
    size = part.stat().st_size if part.exists() else 0
    if size < archive.size:
        why = why or f"the connection ended after {size:,} of {archive.size:,} bytes"
        raise SourceFailed(why, again=size > have)


def _first_byte(response: http.client.HTTPResponse, asked: int, archive: Archive) -> int:
    """The position in the file of the response's first byte; a server may ignore the range and send the whole."""
    start, size = 0, response.length  # None if the server does not say
    if response.status == 206:  # a part of the file, as asked for
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != asked:
            raise SourceFailed("it answered with another range than was asked for")
        start, size = asked, None if found[2] == "*" else int(found[2])
    if size not in (None, archive.size):
        raise SourceFailed(f"it serves {size:,} bytes instead of {archive.size:,}")
    return start


def _receive(
    response: http.client.HTTPResponse, part: Path, position: int, archive: Archive, patience: Patience
) -> None:
    """Write the response to `part` from `position` on, over what is there: should it end early, nothing is lost."""
    hidden = not sys.stderr.isatty()
    bar = tqdm(total=archive.size, initial=position, unit="B", unit_scale=True, disable=hidden)
    # Unbuffered: what is counted below is in the file, and closing it has nothing left to fail at.
    with os_errors_as(f"cannot write {part}"):
        file = part.open("r+b" if part.exists() else "wb", buffering=0)
    with file, bar:
        file.seek(position)
        window_start, window_bytes, last_line = time.monotonic(), 0, time.monotonic()
        while chunk := response.read1(1 << 16):
            if position == 0 and not chunk.startswith(GZIP_MAGIC[: len(chunk)]):
                raise SourceFailed("it serves something that is no .gz file")  # a login page, for example
            if position + len(chunk) > archive.size:
                raise SourceFailed("it sends more than the published size")
            position += len(chunk)
            window_bytes += len(chunk)
            bar.update(len(chunk))
            with os_errors_as(f"cannot write {part}", "; mend that and run again to continue the download"):
                while chunk:  # a nearly full disk may take a part of it
                    chunk = chunk[file.write(chunk) :]
            now = time.monotonic()
            if hidden and now - last_line > 10:
                print(f"  {position / 1e6:.0f} of {archive.size / 1e6:.0f} MB", flush=True)
                last_line = now
            if now - window_start > patience.window:
                rate = window_bytes / (now - window_start)
                if rate < patience.slowest:
                    raise SourceFailed(f"only {rate / 1000:.0f} kB/s", again=True)
                window_start, window_bytes = now, 0


def _fault(path: Path, archive: Archive) -> str:
    """Why the file is not the published archive; empty if it is."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path raises for a name that is too long
        return "no such file"
    with os_errors_as(f"cannot read {path}"), path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    right = md5 == archive.md5 and archive.sha256 in (None, sha256)
    return "" if right else "its checksum is not the published one"
