"""Desired tags: what they mean is kept over restarts, and what is not desired any more is left alone."""

from pathlib import Path

import pytest

from meshsat import desired_tags
from meshsat.desired_tags import DIRECTORY, FILE, DesiredTags
from meshsat.errors import ConfigError
from meshsat.oci.digest import Digest

A, B = Digest.of(b"a"), Digest.of(b"b")
KEY = ("r.example", "pos", "stable")


def tags(directory: Path | None = None) -> DesiredTags:
    return DesiredTags(directory, lambda: 1_800_000_000.0)


async def test_meanings_are_kept(tmp_path: Path) -> None:
    one = tags(tmp_path)
    assert one.change(KEY, A, (), keep=1) is None
    assert one.change(KEY, B, (), keep=1) == A
    await one.save()
    again = tags(tmp_path)
    assert again.meaning(*KEY) == B
    assert list(again.kept(KEY)) == [(B, ()), (A, ())]
    assert (again.tags(*KEY[:2]), again.registries("pos")) == (["stable"], {"r.example"})
    assert (again.tags("r.example", "other"), again.registries("other")) == ([], set())


async def test_a_damaged_file_is_told_and_begun_anew(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / FILE).write_bytes(b"{")
    one = tags(tmp_path)
    assert one.meaning(*KEY) is None
    one.change(KEY, A, (), keep=1)
    await one.save()
    assert tags(tmp_path).meaning(*KEY) == A


async def test_a_full_disk_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise ConfigError(f"{path} cannot be written: no space")

    one = tags(tmp_path)
    one.change(KEY, A, (), keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(desired_tags, "write_file", full)
        await one.save()
    assert one.problem is not None
    assert "no space" in one.problem
    assert one.meaning(*KEY) == A
    await one.save()
    assert one.problem is None
    assert tags(tmp_path).meaning(*KEY) == A


def test_what_is_not_desired_any_more_is_kept_for_as_many_revisions_as_it_says() -> None:
    one = tags()
    one.change(KEY, A, (), keep=2)
    assert one.drop_others([KEY], 5) == []
    assert one.drop_others([], 6) == [KEY]
    assert one.meaning(*KEY) is None
    assert one.active() == {}
    assert list(one.kept(KEY)) == [(A, ())]
    assert one.drop_others([], 7) == []
    assert list(one.kept(KEY)) == [(A, ())]
    one.drop_others([], 8)
    assert list(one.kept(KEY)) == []
    assert not one.keys()


def test_what_is_desired_again_means_what_it_did() -> None:
    one = tags()
    one.change(KEY, A, (), keep=1)
    one.drop_others([], 6)
    one.drop_others([KEY], 7)
    assert one.meaning(*KEY) == A
