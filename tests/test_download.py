"""Downloads against a server on 127.0.0.1 that misbehaves in the ways real ones do; the checks run as in real use."""

import contextlib
import errno
import hashlib
import http.server
import math
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_sets import archives_of, make_cifar, make_mnist, md5, publish

from harness import data, download
from harness.download import Patience, SourceFailed
from harness.errors import UserError
from harness.files import is_locked
from harness.image_sets import IMAGE_SETS, Archive

PROJECT = Path(__file__).resolve().parent.parent
CONTENT = b"\x1f\x8b" + bytes(range(251)) * 800  # 200,802 bytes that begin as every .gz does
OTHER = b"\x1f\x8b" + bytes(reversed(range(251))) * 800  # as long, and another file
HALF = 100_000
CALM = Patience(timeout=60, slowest=0)  # a machine under load is no slow source
IMPATIENT = Patience(timeout=60, slowest=math.inf, window=-1)  # every source is too slow after its first bytes
CLOSED = "http://127.0.0.1:9/"  # nobody listens there


class Site:
    """A local web server: `serve` says what a path answers and how, `requests` holds (path, Range header)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[Callable, bytes]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                site.requests.append((path, self.headers["Range"]))
                if path not in site.answers:
                    return self.send_error(404)
                behavior, content = site.answers[path]
                with contextlib.suppress(ConnectionError):  # the client has left
                    behavior(self, content, site)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def serve(self, path: str, behavior: Callable, content: bytes = CONTENT) -> str:
        self.answers[path] = (behavior, content)
        return self.root + path

    def ranges(self, path: str) -> list[str | None]:
        return [wanted for asked, wanted in self.requests if asked == path]

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()


def _head(handler: http.server.BaseHTTPRequestHandler, content: bytes, total: int | None = None) -> bytes:
    """Send the header that an honest server would, and return the bytes that it would send then."""
    wanted = handler.headers["Range"]
    start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
    if start >= len(content):
        handler.send_error(416)
        return b""
    handler.send_response(206 if wanted else 200)
    if wanted:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{total or len(content)}")
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    return content[start:]


def honest(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    handler.wfile.write(_head(handler, content))


def drops(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    handler.wfile.write(_head(handler, content)[:HALF])


def stalls(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    drops(handler, content, site)
    handler.wfile.flush()
    site.closing.wait(600)


def ignores_ranges(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    del handler.headers["Range"]
    honest(handler, content, site)


def ignores_ranges_and_drops(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    del handler.headers["Range"]
    handler.wfile.write(_head(handler, content)[:1000])


def names_no_length(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(content)


def answers_another_range(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.end_headers()
    handler.wfile.write(content)


def has_another_total(handler: http.server.BaseHTTPRequestHandler, content: bytes, site: Site) -> None:
    handler.wfile.write(_head(handler, content, total=len(content) + 1))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PATIENCE", CALM)
    site = Site()
    yield site
    site.close()


def archive_of(content: bytes, *sources: str, name: str = "set.gz") -> Archive:
    return Archive(name, len(content), md5(content), sources, hashlib.sha256(content).hexdigest())


ARCHIVE = archive_of(CONTENT)


# One source at a time: what is kept, what is refused.


def test_an_honest_source_gives_the_published_bytes(site: Site, tmp_path: Path) -> None:
    download.download(site.serve("a", honest), tmp_path / "part", ARCHIVE, CALM)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert site.ranges("a") == [None]


@pytest.mark.parametrize(
    ("behavior", "why"),
    [(drops, "the connection ended after 100,000 of 200,802 bytes"), (stalls, "timed out")],
)
def test_what_a_breaking_source_sent_is_kept_and_continued_elsewhere(
    site: Site, tmp_path: Path, behavior: Callable, why: str
) -> None:
    part = tmp_path / "part"
    with pytest.raises(SourceFailed, match=why) as failure:
        download.download(site.serve("a", behavior), part, ARCHIVE, replace(CALM, timeout=3))
    assert failure.value.again
    assert part.read_bytes() == CONTENT[:HALF]
    download.download(site.serve("b", honest), part, ARCHIVE, CALM)
    assert part.read_bytes() == CONTENT
    assert site.ranges("b") == [f"bytes={HALF}-"]


def test_a_crawling_source_is_left(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match=r"only \d+ kB/s") as failure:
        download.download(site.serve("a", honest), tmp_path / "part", ARCHIVE, IMPATIENT)
    assert failure.value.again
    kept = (tmp_path / "part").read_bytes()
    assert kept
    assert CONTENT.startswith(kept)


def test_a_source_that_ignores_the_range_is_read_from_its_start(site: Site, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT[:HALF])
    download.download(site.serve("a", ignores_ranges), tmp_path / "part", ARCHIVE, CALM)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_source_that_ignores_the_range_and_breaks_off_costs_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT[:HALF])
    with pytest.raises(SourceFailed, match="connection ended") as failure:
        download.download(site.serve("a", ignores_ranges_and_drops), tmp_path / "part", ARCHIVE, CALM)
    assert not failure.value.again
    assert (tmp_path / "part").read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize(
    "left", [OTHER[:HALF], OTHER, OTHER + b"and more"], ids=["a part", "the whole size", "more than the whole"]
)
def test_a_left_over_of_another_file_is_not_held_against_the_source(site: Site, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "part").write_bytes(left)
    download.download(site.serve("a", honest), tmp_path / "part", ARCHIVE, CALM)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert site.ranges("a")[-1] is None


def test_a_complete_download_that_was_never_unpacked_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT)
    download.download(site.serve("a", honest), tmp_path / "part", ARCHIVE, CALM)
    assert site.requests == []


def test_a_wrong_file_of_the_right_size_is_refused_and_deleted(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match="checksum is not the published one") as failure:
        download.download(site.serve("a", honest, OTHER), tmp_path / "part", ARCHIVE, CALM)
    assert not failure.value.again
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("field", ["md5", "sha256"])
def test_both_checksums_of_an_archive_must_agree(site: Site, tmp_path: Path, field: str) -> None:
    archive = replace(ARCHIVE, **{field: getattr(archive_of(OTHER), field)})
    with pytest.raises(SourceFailed, match="checksum"):
        download.download(site.serve("a", honest), tmp_path / "part", archive, CALM)


@pytest.mark.parametrize(
    ("behavior", "content", "why"),
    [
        (honest, CONTENT + b"!", "serves 200,803 bytes instead of 200,802"),
        (honest, CONTENT[:-1], "serves 200,801 bytes instead of 200,802"),
        (honest, CONTENT[:10], "HTTP 416"),
        (has_another_total, CONTENT, "serves 200,803 bytes instead of 200,802"),
        (answers_another_range, CONTENT, "another range"),
        (names_no_length, b"<html>Please log in</html>", "no .gz file"),
    ],
)
def test_an_answer_that_cannot_be_right_leaves_the_left_over_untouched(
    site: Site, tmp_path: Path, behavior: Callable, content: bytes, why: str
) -> None:
    (tmp_path / "part").write_bytes(CONTENT[:HALF])
    with pytest.raises(SourceFailed, match=why):
        download.download(site.serve("a", behavior, content), tmp_path / "part", ARCHIVE, CALM)
    assert (tmp_path / "part").read_bytes() == CONTENT[:HALF]


def test_a_source_that_sends_without_end_is_left(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceFailed, match="more than the published size"):
        download.download(site.serve("a", names_no_length, CONTENT * 20), tmp_path / "part", ARCHIVE, CALM)
    assert (tmp_path / "part").stat().st_size <= len(CONTENT)


@pytest.mark.parametrize(
    "url", [CLOSED + "a", "http://[::1/a", "http://", f"http://{'a' * 70}.invalid/a", "http://127.0.0.1:x/"]
)
def test_a_source_that_cannot_be_reached_fails_in_a_few_words(site: Site, tmp_path: Path, url: str) -> None:
    with pytest.raises(SourceFailed) as failure:
        download.download(url, tmp_path / "part", ARCHIVE, CALM)
    assert 5 < len(str(failure.value)) < 80


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a full disk")
@pytest.mark.parametrize("size", [500, len(CONTENT)])  # less than any buffer, and more
def test_a_full_disk_stops_with_one_sentence(site: Site, tmp_path: Path, size: int) -> None:
    (tmp_path / "part").symlink_to("/dev/full")
    archive = archive_of(CONTENT[:size])
    with pytest.raises(UserError, match=r"cannot write .*part: No space left on device; .* run again"):
        download.download(site.serve("a", honest, CONTENT[:size]), tmp_path / "part", archive, CALM)


# Whole sets: the order of the sources, mirrors, unpacking.


@pytest.fixture
def cifar10(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small CIFAR-10 takes the place of the published one in every table; its archive is returned."""
    make_cifar(tmp_path / "made")
    ((name, content),) = archives_of("cifar10", tmp_path / "made").items()
    archive = archive_of(content, f"{site.root}first", CLOSED, f"{site.root}last", name=name)
    publish(monkeypatch, "cifar10", tmp_path / "made", archive)
    return content


@pytest.fixture
def mnist(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A small MNIST takes the place of the published one in every table; its archives are returned."""
    make_mnist(tmp_path / "made")
    archives = archives_of("mnist", tmp_path / "made")
    known = (archive_of(content, f"{site.root}known/{name}", name=name) for name, content in archives.items())
    publish(monkeypatch, "mnist", tmp_path / "made", *known)
    return archives


def assert_same_files(folder: Path, expected: Path) -> None:
    """Every file of `expected` is in `folder` with the same bytes, and nothing else is."""
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in expected.iterdir()
    }


def test_cifar10_arrives_over_broken_sources(site: Site, tmp_path: Path, cifar10: bytes) -> None:
    assert len(cifar10) > HALF
    site.serve("first", drops, cifar10)
    site.serve("last", honest, cifar10)
    images = data.load_images("cifar10", data_dir=tmp_path / "data")
    assert len(images.train) == 100
    assert site.requests == [("first", None), ("last", f"bytes={HALF}-")]
    assert_same_files(tmp_path / "data/cifar-10-batches-py", tmp_path / "made/cifar-10-batches-py")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"cifar-10-batches-py", ".lock"}


def test_mnist_arrives_and_a_file_that_is_lost_comes_again(site: Site, tmp_path: Path, mnist: dict[str, bytes]) -> None:
    for name, content in mnist.items():
        site.serve(f"known/{name}", honest, content)
    data.load_images("mnist", data_dir=tmp_path / "data")
    assert_same_files(tmp_path / "data/MNIST/raw", tmp_path / "made/MNIST/raw")
    (tmp_path / "data/MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    images = data.load_images("mnist", data_dir=tmp_path / "data")
    assert len(images.test) == 20
    assert_same_files(tmp_path / "data/MNIST/raw", tmp_path / "made/MNIST/raw")


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar100"])
def test_a_further_set_arrives_and_torchvision_reads_the_same(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (make_cifar if name == "cifar100" else make_mnist)(tmp_path / "made", name=name)
    archives = archives_of(name, tmp_path / "made")
    urls = {file: site.serve(f"known/{file}", honest, content) for file, content in archives.items()}
    published = [archive_of(content, urls[file], name=file) for file, content in archives.items()]
    publish(monkeypatch, name, tmp_path / "made", *published)
    entry = IMAGE_SETS[name]
    images = data.load_images(name, data_dir=tmp_path / "data", channels="rgb")
    assert_same_files(tmp_path / "data" / entry.folder, tmp_path / "made" / entry.folder)
    from torchvision import datasets

    known = getattr(datasets, entry.torchvision)(tmp_path / "data", train=False)
    assert (list(images.classes), images.test.labels.tolist()) == (known.classes, list(known.targets))
    data.load_images(name, data_dir=tmp_path / "data")
    assert len(site.requests) == len(archives)


def test_files_that_are_there_are_not_fetched(site: Site, tmp_path: Path, cifar10: bytes) -> None:
    images = data.load_images("cifar10", data_dir=tmp_path / "made", mirror=site.root)
    assert len(images.train) == 100
    assert site.requests == []
    assert not (tmp_path / "made/.lock").exists()


def test_when_every_source_crawls_one_that_keeps_sending_will_do(
    site: Site, tmp_path: Path, cifar10: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", IMPATIENT)
    site.serve("first", honest, cifar10)
    data.load_images("cifar10", data_dir=tmp_path / "data")
    (first, _), (other, continued), (again, also_continued) = site.requests
    assert (first, other, again) == ("first", "last", "first")  # "last" answers 404
    assert continued == also_continued != "bytes=0-"


def test_a_source_with_the_wrong_file_is_tried_once_and_the_next_one_serves(
    site: Site, tmp_path: Path, cifar10: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    site.serve("first", honest, cifar10[:-1] + b"?")
    site.serve("last", honest, cifar10)
    data.load_images("cifar10", data_dir=tmp_path / "data")
    assert site.requests == [("first", None), ("last", None)]
    assert "checksum is not the published one" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["archive URL", "folder URL", "archive path", "folder path"])
def test_the_mirror_of_cifar10_comes_first(site: Site, tmp_path: Path, cifar10: bytes, form: str) -> None:
    site.serve("mine/cifar-10-python.tar.gz", honest, cifar10)
    path = tmp_path / "mine" / "cifar-10-python.tar.gz"
    path.parent.mkdir()
    path.write_bytes(cifar10)
    mirror = {
        "archive URL": f"{site.root}mine/cifar-10-python.tar.gz",
        "folder URL": f"{site.root}mine/",
        "archive path": str(path),
        "folder path": str(path.parent),
    }[form]
    data.load_images("cifar10", data_dir=tmp_path / "data", mirror=mirror)
    assert [asked for asked, _ in site.requests] == (["mine/cifar-10-python.tar.gz"] if "URL" in form else [])
    assert path.read_bytes() == cifar10


@pytest.mark.parametrize("form", ["folder URL", "folder URL/", "archive URL", "folder path", "archive path"])
def test_the_mirror_of_mnist_comes_first(site: Site, tmp_path: Path, mnist: dict[str, bytes], form: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in mnist.items():
        site.serve(f"mine/{name}", honest, content)
        (folder / name).write_bytes(content)
    mirror = {
        "folder URL": f"{site.root}mine",
        "folder URL/": f"{site.root}mine/",
        "archive URL": f"{site.root}mine/train-labels-idx1-ubyte.gz",
        "folder path": str(folder),
        "archive path": str(folder / "t10k-images-idx3-ubyte.gz"),
    }[form]
    data.load_images("mnist", data_dir=tmp_path / "data", mirror=mirror)
    expected = [f"mine/{archive.name}" for archive in IMAGE_SETS["mnist"].archives] if "URL" in form else []
    assert [asked for asked, _ in site.requests] == expected
    assert {path.name for path in folder.iterdir()} == set(mnist)


@pytest.mark.parametrize("mirror", ["corrupt.tar.gz", "not there", ".", "x" * 300])
def test_a_useless_mirror_is_named_and_the_known_sources_follow(
    site: Site,
    tmp_path: Path,
    cifar10: bytes,
    mirror: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corrupt.tar.gz").write_bytes(cifar10[:-1])
    site.serve("first", honest, cifar10)
    data.load_images("cifar10", data_dir=tmp_path / "data", mirror=mirror)
    assert f"gave up on {mirror if mirror != '.' else './cifar-10-python.tar.gz'}:" in capsys.readouterr().out
    assert site.requests == [("first", None)]


def test_a_data_folder_that_is_closed_is_one_sentence_with_what_is_missing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("cifar10", "mnist"):
        with pytest.raises(UserError, match=f"^{name} is not in .*, and cannot make the folder .*--data synthetic$"):
            data.load_images(name, data_dir=tmp_path / "file" / "data")
    assert site.requests == []


def test_an_archive_already_in_the_data_folder_is_used_and_stays(site: Site, tmp_path: Path, cifar10: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar-10-python.tar.gz").write_bytes(cifar10)
    data.load_images("cifar10", data_dir=tmp_path / "data")
    assert site.requests == []
    assert (tmp_path / "data/cifar-10-python.tar.gz").read_bytes() == cifar10


def test_a_mirror_whose_name_ends_as_our_own_downloads_do_stays(site: Site, tmp_path: Path, cifar10: bytes) -> None:
    mirror = tmp_path / "mine.part"
    mirror.write_bytes(cifar10)
    data.load_images("cifar10", data_dir=tmp_path / "data", mirror=str(mirror))
    assert site.requests == [] and mirror.read_bytes() == cifar10


def test_the_last_words_say_what_was_tried_where_files_go_and_what_else_there_is(
    site: Site, tmp_path: Path, cifar10: bytes
) -> None:
    site.serve("last", drops, cifar10)
    with pytest.raises(UserError) as error:
        data.load_images("cifar10", data_dir=tmp_path / "data", mirror=str(tmp_path / "none.tar.gz"))
    message = str(error.value)
    assert message.startswith(f"cifar10 is not in {tmp_path / 'data/cifar-10-batches-py'} and could not be downloaded")
    for words in ("none.tar.gz (no such file)", "127.0.0.1:9 (", "run again", "--mirror"):
        assert words in message
    assert "--data synthetic" in message
    assert "\n" not in message


def test_a_data_folder_that_cannot_be_made_is_named(site: Site, tmp_path: Path, cifar10: bytes) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=f"folder {tmp_path / 'data'}"):
        data.load_images("cifar10", data_dir=tmp_path / "data")


def test_a_process_waits_for_another_that_downloads(
    site: Site, tmp_path: Path, cifar10: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "import sys; from pathlib import Path; from harness.files import lock_folder\n"
    program += f"with lock_folder(Path({str(tmp_path / 'made')!r})): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, **pipes)
    assert other.stdout.readline() == "held\n"

    def look(folder: Path) -> bool:
        locked = is_locked(folder)
        other.stdin.close()  # the other one ends
        return locked

    monkeypatch.setattr(download, "is_locked", look)
    download.fetch("cifar10", tmp_path / "made")
    assert other.wait() == 0
    assert capsys.readouterr().out == f"waiting for another process that downloads into {tmp_path / 'made'}\n"
    assert site.requests == []  # the other one brought the files


def test_what_ends_while_it_unpacks_leaves_no_half_of_a_file_and_loses_no_download(
    site: Site, tmp_path: Path, cifar10: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    def unpack(root: Path, download: bool) -> None:
        assert download and (root / "cifar-10-python.tar.gz").read_bytes() == cifar10
        (root / "cifar-10-batches-py").mkdir()
        (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    site.serve("first", honest, cifar10)
    left = tmp_path / "data/.unpacking/cifar-10-batches-py"
    left.mkdir(parents=True)
    (left / "test_batch").write_bytes(b"left by a kill")
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"cannot unpack into .*: No space"):
        patch.setattr(datasets, "CIFAR10", unpack)
        data.load_images("cifar10", data_dir=tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"cifar-10-python.tar.gz.part", ".lock"}
    data.load_images("cifar10", data_dir=tmp_path / "data")
    assert site.requests == [("first", None)]
    assert_same_files(tmp_path / "data/cifar-10-batches-py", tmp_path / "made/cifar-10-batches-py")


def test_what_was_downloaded_survives_an_interruption(site: Site, tmp_path: Path) -> None:
    url = site.serve("set.gz", stalls)
    program = f"""
        import sys
        from dataclasses import replace
        from pathlib import Path
        from harness.cli import run_script
        from harness.download import fetch
        from harness.image_sets import IMAGE_SETS, Archive
        archive = Archive("set.gz", {len(CONTENT)}, "{md5(CONTENT)}", ("{url}",))
        IMAGE_SETS["cifar10"] = replace(IMAGE_SETS["cifar10"], archives=(archive,))
        sys.exit(run_script(lambda: fetch("cifar10", Path({str(tmp_path)!r}))))
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    part = tmp_path / "set.gz.part"
    while not (part.exists() and part.stat().st_size == HALF):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate()
    assert child.returncode == 130
    assert errors.decode().strip() == "interrupted; the same command continues the download"
    assert part.read_bytes() == CONTENT[:HALF]


# The published numbers, against torchvision's own tables.


def test_published_tables_equal_those_of_torchvision() -> None:
    from torchvision import datasets

    for name, entry in IMAGE_SETS.items():
        if entry.format == "drawn":
            continue
        known = getattr(datasets, entry.torchvision)
        if name in ("fashion-mnist", "kmnist"):
            assert list(entry.classes) == known.classes
            assert [*entry.train.items(), *entry.test.items()] == known.resources
        if entry.format == "idx":
            assert [(archive.name, archive.md5) for archive in entry.archives] == known.resources
            files = [f"{file.removesuffix('.gz')}.gz" for file in (*entry.train, *entry.test)]
            assert files == [file for file, _ in known.resources]
            assert entry.folder == entry.archive_folder == f"{entry.torchvision}/raw"
            for archive in entry.archives:  # torchvision 0.21 has them in another order
                assert {mirror + archive.name for mirror in known.mirrors} <= set(archive.sources), name
        else:
            (archive,) = entry.archives
            assert (archive.name, archive.md5) == (known.filename, known.tgz_md5)
            assert archive.sources[-1] == known.url
            assert (entry.folder, entry.archive_folder) == (known.base_folder, ".")
            assert [list(entry.train.items()), list(entry.test.items())] == [
                list(map(tuple, known.train_list)),
                list(map(tuple, known.test_list)),
            ]


def test_published_sizes_and_sha256() -> None:
    """CIFAR: the SHA-256 by which Keras and torchvision's prototypes know it; MNIST: the sizes on the authors' page."""
    (archive,) = IMAGE_SETS["cifar10"].archives
    assert archive.sha256 == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert archive.size == 170498071
    (archive,) = IMAGE_SETS["cifar100"].archives
    assert archive.sha256 == "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    assert archive.size == 169001437
    assert [archive.size for archive in IMAGE_SETS["mnist"].archives] == [9912422, 28881, 1648877, 4542]


class Slowly:
    """A response of chunks, and a clock on which each takes `seconds`."""

    def __init__(self, seconds: float, chunk: int) -> None:
        self.chunks = iter([*(CONTENT[start : start + chunk] for start in range(0, len(CONTENT), chunk)), b""])
        self.seconds, self.now = seconds, 0.0

    def read1(self, _: int) -> bytes:
        self.now += self.seconds
        return next(self.chunks)


@pytest.mark.parametrize(
    ("seconds", "slowest", "told"),
    [
        (6.0, 0.0, ["  0 of 0 MB"] * 5),  # at 12 s, 24 s, … of ten chunks, and nothing of the end
        (1.0, 0.0, []),
        (6.0, 3350.0, None),  # two chunks in 12 s are 3346.8 bytes a second
        (6.0, 3340.0, ["  0 of 0 MB"] * 5),
    ],
)
def test_progress_is_told_every_ten_seconds_and_speed_is_that_of_a_window(
    tmp_path: Path, monkeypatch, capsys, seconds: float, slowest: float, told: list[str] | None
) -> None:
    response = Slowly(seconds, 20_081)
    monkeypatch.setattr("harness.download.time.monotonic", lambda: response.now)
    archive = Archive("file.gz", len(CONTENT), "", ())
    patience = Patience(slowest=slowest, window=10.0)
    with contextlib.nullcontext() if told is not None else pytest.raises(SourceFailed, match="only 3 kB/s"):
        download._receive(response, tmp_path / "part", 0, archive, patience)
    if told is None:
        return
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert capsys.readouterr().out.splitlines() == told
