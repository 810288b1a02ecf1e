"""Which rule decides, and what needs no signature."""

from dataclasses import replace
from pathlib import Path

import pytest

from meshsat.config import SignatureRule
from meshsat.errors import ConfigError, InvalidInputError
from meshsat.fleet.artifact import artifact_of
from meshsat.fleet.state_file import StateFile
from meshsat.oci.manifest import Manifest, parse_manifest_untrusted
from meshsat.signature_policy import (
    KEYS_LIMIT,
    Action,
    Rule,
    SignaturePolicy,
    needs_no_signature,
    read_key,
    rules_of,
)
from tests import signing
from tests.images import OCI_INDEX, Image, build_artifact, build_image, descriptor
from tests.signing import make_key, public_pem, signed_by

KEY = public_pem(make_key())
IMAGE = build_image([b"layer"])
SUBJECT = descriptor(IMAGE.media_type, IMAGE.raw)


def rule(pattern: str, action: Action, number: int = 1) -> Rule:
    keys = [] if action == "accept" else [("ci", KEY)]
    return Rule.parse_untrusted(f"rule {number}", pattern=pattern, action=action, keys=keys)


def policy(*rules: tuple[str, Action]) -> SignaturePolicy:
    return SignaturePolicy([rule(*one, number) for number, one in enumerate(rules, 1)])


def decided(found: SignaturePolicy, repository: str, *tags: str) -> tuple[str, str] | None:
    one = found.rule_for("reg.test", repository, tags)
    return None if one is None else (one.origin, one.action)


def test_the_first_that_matches_decides_and_none_accepts() -> None:
    found = policy(("reg.test/app:dev-*", "accept"), ("reg.test/app", "block"), ("reg.test/**", "warn"))
    assert decided(found, "app", "dev-1") == ("rule 1", "accept")
    assert decided(found, "app", "1.0") == ("rule 2", "block")
    assert decided(found, "other/app", "1.0") == ("rule 3", "warn")
    assert found.rule_for("elsewhere.test", "app", ["1.0"]) is None


def test_a_digest_has_the_most_lenient_rule_of_its_tags() -> None:
    found = policy(("reg.test/app:dev-*", "accept"), ("reg.test/app", "block"))
    assert decided(found, "app", "1.0", "dev-1") == ("rule 1", "accept")
    assert decided(found, "app", "1.0", "2.0") == ("rule 2", "block")


def test_a_digest_without_a_tag_has_the_strictest_that_could_be_meant() -> None:
    assert decided(policy(("**:dev-*", "accept"), ("**", "block")), "app") == ("rule 2", "block")
    assert decided(policy(("**:prod-*", "block"), ("**", "accept")), "app") == ("rule 1", "block")
    assert decided(policy(("**:prod-*", "warn")), "app") == ("rule 1", "warn")
    assert decided(policy(("**", "accept"), ("**", "block")), "app") == ("rule 1", "accept")
    assert decided(policy(("**:a", "accept")), "app") in (None, ("rule 1", "accept"))
    assert policy(("other.test/**", "block")).rule_for("reg.test", "app", ()) is None


def test_where_it_is_only_passed_on_the_most_lenient_decides() -> None:
    for rules, action in (
        ([("**:dev-*", "accept"), ("**", "block")], "accept"),
        ([("**:prod-*", "block"), ("**", "warn")], "warn"),
        ([("**:prod-*", "block"), ("**", "block")], "block"),
    ):
        found = policy(*rules).rule_for("reg.test", "app", (), lenient=True)  # type: ignore[arg-type]
        assert found is not None
        assert found.action == action
    assert policy(("**:prod-*", "block")).rule_for("reg.test", "app", (), lenient=True) is None


def test_rules_are_replaced_and_told_apart_by_their_version() -> None:
    found = SignaturePolicy()
    assert found.is_empty
    found.replace([rule("**", "block")])
    assert (found.version, found.is_empty) == (1, False)
    found.replace([rule("**", "block")])
    assert found.version == 1
    found.replace([rule("**", "accept")])
    assert (found.version, found.is_empty) == (2, True)


def test_rules_of_the_configuration(tmp_path: Path) -> None:
    one, other = tmp_path / "a.pub", tmp_path / "b.pub"
    one.write_bytes(KEY)
    other.write_bytes(public_pem(make_key()))
    section = [
        SignatureRule(pattern="busybox", keys=(one, other), threshold=2, identity="match"),
        SignatureRule(pattern="**", action="accept"),
    ]
    with pytest.raises(ConfigError, match="rule 1 of signatures: pattern 'busybox': it names no registry"):
        rules_of(section, read_key)
    section[0] = section[0].model_copy(update={"pattern": "docker.io/busybox"})
    first, second = rules_of(section, read_key)
    assert (first.pattern.text, first.action, first.threshold) == ("docker.io/library/busybox", "block", 2)
    assert first.match_identity
    assert [key.name for key in first.keys] == [str(one), str(other)]
    assert (second.action, second.keys) == ("accept", ())


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "1 different keys must have signed, and 0 are given"),
        ({"keys": ("a.pub", "same.pub"), "threshold": 2}, "2 different keys .* 1 are given"),
        ({"keys": ("a.pub",), "action": "accept"}, "accepts without a look"),
        ({"keys": ("gone.pub",)}, "gone.pub can't be read: No such file"),
        ({"keys": ("not.pub",)}, "not.pub: no public key in PEM"),
        ({"keys": ("huge.pub",)}, "huge.pub: more than"),
    ],
)
def test_rules_that_are_none(more: dict[str, object], reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_bytes(KEY)
    (tmp_path / "same.pub").write_bytes(KEY)
    (tmp_path / "not.pub").write_bytes(b"hello")
    (tmp_path / "huge.pub").write_bytes(b"x" * 1_000_000)
    keys = more.get("keys", ())
    assert isinstance(keys, tuple)
    given = {**more, "keys": tuple(tmp_path / name for name in keys)}
    with pytest.raises(ConfigError, match=f"rule 1 of signatures: .*{reason}"):
        rules_of([SignatureRule.model_validate({"pattern": "**", **given})], read_key)


def test_a_rule_from_elsewhere_is_checked_as_well() -> None:
    many = [("k", KEY)] * (KEYS_LIMIT + 1)
    for given in (
        {"pattern": 5, "action": "block", "keys": [("k", KEY)]},
        {"pattern": "**", "action": "allow", "keys": [("k", KEY)]},
        {"pattern": "**", "action": "block", "keys": many},
        {"pattern": "**", "action": "block", "keys": [("k", KEY)], "threshold": 0},
    ):
        with pytest.raises(InvalidInputError, match="state 7"):
            Rule.parse_untrusted("state 7", **given)


def parsed(image: Image) -> Manifest:
    return parse_manifest_untrusted(image.raw, image.media_type)


def test_what_only_says_something_of_another_manifest_needs_no_signature() -> None:
    key = make_key()
    signature = signed_by(key, digest=IMAGE.root)
    bundle = signing.bundle_referrer(signing.bundle_of(signing.statement_for(IMAGE.root), key), IMAGE)
    sbom = build_artifact(b"{}", "application/spdx+json", SUBJECT, "application/spdx+json")
    for image in (signature, bundle, sbom):
        assert needs_no_signature(parsed(image), ())
    listing = signing.referrers_index(bundle)
    assert needs_no_signature(parsed(listing), (signing.referrers_tag(IMAGE.root),))


def test_neither_name_nor_subject_makes_an_image_a_signature() -> None:
    tags = (signing.signature_tag(IMAGE.root), signing.referrers_tag(IMAGE.root))
    hidden = build_artifact(b"a layer", signing.ARTIFACT, SUBJECT)
    index = build_image([b"x"], ["linux/amd64", "linux/arm64"])
    empty = build_image([])
    wasm = build_artifact(b"wasm", "application/wasm", SUBJECT, "application/vnd.wasm.content.layer.v1+wasm")
    for image in (IMAGE, hidden, wasm):
        assert not needs_no_signature(parsed(image), tags)
    for image in (index, empty):
        assert not needs_no_signature(parsed(image), ("1.0",))
    old = b'{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[%s]}'
    told = str(descriptor("application/vnd.oci.image.layer.v1.tar", b"x")).replace("'", '"').encode()
    assert not needs_no_signature(parse_manifest_untrusted(old % told), tags)
    unknown = parse_manifest_untrusted(b'{"mediaType":"application/vnd.example+json"}')
    assert not needs_no_signature(unknown, ())
    assert parsed(index).media_type == OCI_INDEX


def test_a_desired_state_is_signed_in_its_own_way() -> None:
    artifact = artifact_of(StateFile(head=b"{}", body=b"{}")).manifest
    assert needs_no_signature(artifact, ("latest",))
    runs = replace(artifact, blobs=(*artifact.blobs, replace(artifact.blobs[0], media_type="layer")))
    assert not needs_no_signature(runs, ("latest",))
