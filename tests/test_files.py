"""Folders that a flag names, looked at before any work is begun."""

import os
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.files import nearest_folder

links = pytest.mark.skipif(os.name == "nt", reason="Windows lets not everyone make links")


def test_nearest_folder_is_the_first_one_there_is(in_project: Path) -> None:
    Path("a/b").mkdir(parents=True)
    assert nearest_folder(Path("a/b"), "--out") == Path("a/b")
    assert nearest_folder(Path("a/b/c/d"), "--out") == Path("a/b")
    assert nearest_folder(Path("x/y"), "--out") == Path()
    assert nearest_folder(in_project / "x", "--out") == in_project


def test_file_in_the_place_or_in_the_way_is_one_sentence(in_project: Path) -> None:
    Path("file").write_text("")
    for path in (Path("file"), Path("file/x")):
        with pytest.raises(UserError, match=r"^--out file\S*: file is a file, and must be a folder$"):
            nearest_folder(path, "--out")


@links
def test_link_that_leads_nowhere_is_one_sentence(in_project: Path) -> None:
    Path("dangling").symlink_to("nothing")
    Path("loop").symlink_to("loop")
    Path("real").mkdir()
    Path("link").symlink_to("real")
    assert nearest_folder(Path("link/x"), "--out") == Path("link")
    with pytest.raises(UserError, match=r"^--out dangling/x: dangling is a link to nothing$"):
        nearest_folder(Path("dangling/x"), "--out")
    with pytest.raises(UserError, match=r"^--out loop: cannot look at loop: "):
        nearest_folder(Path("loop"), "--out")
