import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from meshsat.errors import DeniedError, StorageError, UnavailableError
from meshsat.fleet.harbor_satellite import keeping
from meshsat.fleet.harbor_satellite.following import Following
from meshsat.oci.digest import Digest
from tests.harbor_satellite import config_document
from tests.unit.fleet.harbor_satellite.fakes import (
    CONFIG,
    HARBOR,
    INLINE,
    ROOT,
    FakeArtifacts,
    Offers,
    group_place,
)

ONE, OTHER = Digest.of(b"one"), Digest.of(b"other")
POS, APP = f"{HARBOR}/library/pos:42@{ONE}", f"{HARBOR}/team/app:v1@{OTHER}"


class Harbor(FakeArtifacts):
    """Its states, as Ground Control writes them. `url` is what that calls it."""

    def __init__(self, url: str = f"https://{HARBOR}") -> None:
        super().__init__()
        self.url = url

    def root(self, *groups: str) -> None:
        self.documents[ROOT] = json.dumps(
            {
                "states": [f"{self.url}/satellite/group-state/{name}/state:latest" for name in groups],
                "config": f"{self.url}/satellite/config-state/default/state:latest",
            }
        ).encode()
        self.documents.setdefault(CONFIG, json.dumps(config_document()).encode())

    def group(self, name: str, *images: tuple[str, str, Digest], **more: Any) -> None:
        artifacts = [
            {"repository": repository, "tag": [tag], "labels": None, "digest": str(digest), **more}
            for repository, tag, digest in images
        ]
        document = {"group": name, "registry": self.url, "artifacts": artifacts}
        self.documents[group_place(name)] = json.dumps(document).encode()


@pytest.fixture
def harbor() -> Harbor:
    made = Harbor()
    made.group("tills", ("library/pos", "42", ONE))
    made.group("shop", ("library/pos", "42", ONE), ("team/app", "v1", OTHER))
    made.root("tills", "shop")
    return made


def make(artifacts: FakeArtifacts, directory: Path) -> tuple[Following, Offers]:
    offers = Offers()
    return Following(artifacts, directory, offers, unix=lambda: 1000.0, threads=INLINE), offers


async def started(artifacts: FakeArtifacts, directory: Path) -> tuple[Following, Offers]:
    following, offers = make(artifacts, directory)
    await following.recall()
    following.follow(ROOT)
    await following.look(30.0)
    return following, offers


async def test_what_did_not_change_is_neither_fetched_nor_offered_again(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    following, offers = await started(harbor, tmp_path)
    assert offers.last == [POS, APP]
    assert sorted(harbor.fetched) == sorted([ROOT, CONFIG, group_place("tills"), group_place("shop")])
    await following.look(30.0)
    assert len(harbor.fetched) == 4
    assert len(offers.all) == 1
    assert set(harbor.ages) == {30.0}
    assert following.troubles.all() == []
    assert (following.checked_at, following.settings.poll) == (1000.0, 30.0)


async def test_a_group_that_lets_go_is_dropped_or_says_deleted(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    following, offers = await started(harbor, tmp_path)
    harbor.group("shop", ("library/pos", "42", ONE), ("team/app", "v1", OTHER), deleted=True)
    await following.look(30.0)
    assert offers.last == [POS]
    harbor.group("tills")
    await following.look(30.0)
    assert offers.last == []
    harbor.group("shop", ("team/app", "v1", OTHER))
    await following.look(30.0)
    harbor.root("tills")
    await following.look(30.0)
    assert [images for images, _ in offers.all[-2:]] == [[APP], []]
    harbor.root()
    await following.look(30.0)
    assert offers.last == []
    assert following.kept.groups == {}


@pytest.mark.parametrize("how", ["gone", "broken", "refused", "away", "not a group"])
async def test_a_group_that_cannot_be_read_stays_as_it_was_and_holds_back_no_other(
    how: str, autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    following, offers = await started(harbor, tmp_path)
    shop = group_place("shop")
    match how:
        case "gone":
            del harbor.documents[shop]
        case "broken":
            harbor.documents[shop] = b'{"group": "shop", "artifacts": ['
        case "not a group":
            harbor.documents[shop] = b"{}"
        case "refused":
            harbor.faults[shop] = DeniedError("no right")
        case "away":
            harbor.faults[shop] = UnavailableError("no uplink")
    harbor.group("tills", ("library/pos", "43", OTHER))
    await following.look(30.0)
    assert offers.last == [POS, f"{HARBOR}/library/pos:43@{OTHER}", APP]
    (told,) = following.troubles.all()
    assert "group-state/shop" in told
    assert "stays in force" in told
    assert not following.denied, "a right that lacks is no login that has ended"
    harbor.faults.clear()
    harbor.group("shop")
    await following.look(30.0)
    assert offers.last == [f"{HARBOR}/library/pos:43@{OTHER}"]
    assert following.troubles.all() == []


async def test_while_nothing_is_known_of_any_group_nothing_is_offered(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    for name in ("tills", "shop"):
        harbor.faults[group_place(name)] = UnavailableError("no uplink")
    following, offers = await started(harbor, tmp_path)
    assert offers.all == []
    harbor.faults.clear()
    await following.look(30.0)
    assert offers.last == [POS, APP]


async def test_without_a_root_there_is_nothing_to_do_and_one_that_goes_takes_nothing_with_it(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    root = harbor.documents.pop(ROOT)
    following, offers = await started(harbor, tmp_path)
    assert following.missing
    assert offers.all == []
    assert "Ground Control writes it" in following.troubles.all()[0]
    harbor.documents[ROOT] = root
    await following.look(30.0)
    del harbor.documents[ROOT]
    await following.look(30.0)
    assert offers.last == [POS, APP]
    assert "stays in force" in following.troubles.all()[0]
    harbor.documents[ROOT] = b"{}"
    await following.look(30.0)
    assert len(offers.all) == 1


async def test_a_root_that_is_refused_is_told_of(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    following, _ = await started(harbor, tmp_path)
    harbor.faults[ROOT] = DeniedError("expired")
    await following.look(30.0)
    assert following.denied
    harbor.faults.clear()
    await following.look(30.0)
    assert not following.denied


async def test_after_a_restart_in_the_dark_it_is_offered_again(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    before, _ = await started(harbor, tmp_path)
    dark = FakeArtifacts()
    dark.faults = dict.fromkeys(
        (ROOT, CONFIG, group_place("tills"), group_place("shop")), UnavailableError("dark")
    )
    following, offers = make(dark, tmp_path)
    await following.recall()
    following.follow(ROOT)
    assert offers.last == [POS, APP]
    assert following.version == before.version
    await following.look(30.0)
    assert len(offers.all) == 1
    assert following.checked_at is None
    following.follow(group_place("another"))
    assert following.kept.root is None


async def test_what_was_kept_and_cannot_be_read_is_as_nothing(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    (tmp_path / keeping.DIRECTORY).mkdir()
    (tmp_path / keeping.DIRECTORY / keeping.FILE).write_bytes(b"\0" * 100)
    with capture_logs() as logs:
        following, offers = await started(harbor, tmp_path)
    assert offers.last == [POS, APP]
    assert any(entry["log_level"] == "warning" for entry in logs)
    assert following.troubles.disk is None, "it is written anew"


async def test_a_full_disk_is_told_and_hinders_nothing(
    autojump_clock: object, tmp_path: Path, harbor: Harbor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(keeping, "save", full)
    following, offers = await started(harbor, tmp_path)
    assert offers.last == [POS, APP]
    assert "the disk is full" in following.troubles.all()[0]
    monkeypatch.undo()
    await following.look(30.0)
    assert following.troubles.all() == []
    assert keeping.load(tmp_path).root_digest is not None


async def test_hosts_in_the_states_are_those_of_the_root(autojump_clock: object, tmp_path: Path) -> None:
    harbor = Harbor("http://host.docker.internal:8080")
    harbor.group("tills", ("library/pos", "42", ONE))
    harbor.root("tills")
    _, offers = await started(harbor, tmp_path)
    assert offers.last == [POS]
    assert all(one.startswith(HARBOR) for one in harbor.asked)


async def test_entries_that_make_no_sense_are_told(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    harbor.group("tills", ("library/pos", "42", ONE), ("Library/POS", "42", ONE))
    harbor.group("shop", ("library/pos", "42", OTHER))
    following, offers = await started(harbor, tmp_path)
    assert offers.last == [f"{HARBOR}/library/pos:42@{OTHER}"], "shop stands before tills"
    conflict, entry = following.troubles.all()
    assert "have Ground Control say one thing" in conflict
    assert "artifact 2" in entry


async def test_a_bad_configuration_leaves_the_settings_and_no_secret_of_it_is_kept(
    autojump_clock: object, tmp_path: Path, harbor: Harbor
) -> None:
    document = config_document(
        state_replication_interval="@every 00h05m00s", local_registry={"password": "hunter2"}
    )
    harbor.documents[CONFIG] = json.dumps(document).encode()
    following, _ = await started(harbor, tmp_path)
    assert following.settings.poll == 300.0
    harbor.documents[CONFIG] = b"{"
    await following.look(30.0)
    assert following.settings.poll == 300.0
    assert "settings stay" in following.troubles.all()[0]
    assert b"hunter2" not in (tmp_path / keeping.DIRECTORY / keeping.FILE).read_bytes()


async def test_all_groups_together_are_bounded(
    autojump_clock: object, tmp_path: Path, harbor: Harbor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshsat.fleet.harbor_satellite.following.DOCUMENTS_LIMIT", 300)
    following, offers = await started(harbor, tmp_path)
    assert len(following.kept.groups) == 1
    assert len(offers.all) == 1
    assert "more than 300 bytes together" in following.troubles.all()[0]
