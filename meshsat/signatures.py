"""Whether an image may be published, served and passed on: the signature policy, applied to what is there.

A manifest is good when it is signed itself, or listed by an index that is. Verdicts are kept: a good one for
as long as the policy stands, a bad one for a moment, because a signature may still come. Laws: what is
checked is the digest of the manifest that is to be given, never a tag; a node believes no other node's
verdict; under a rule that blocks, what can't be proven in time is refused, with the reason.
"""

import math
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
import trio

from meshsat.errors import DeniedError, InvalidInputError, MeshsatError
from meshsat.evidence import Held, Signed, Source, signatures_of
from meshsat.oci.digest import Digest
from meshsat.oci.manifest import Manifest
from meshsat.oci.media_types import INDEX_TYPES
from meshsat.oci.reference import DEFAULT_TAG, Reference
from meshsat.oci.referrers import is_about_digest
from meshsat.signature_policy import Rule, SignaturePolicy, needs_no_signature
from meshsat.store.store import Store
from meshsat.trust.cosign import check_bundle_untrusted, check_simple_signing_untrusted

log = structlog.get_logger(__name__)

DEADLINE = 12.0
"""Seconds for signatures to be had, if the caller sets no other."""
BAD_AGE = 10.0
"""Seconds for which a bad verdict stands without another look."""
KEPT = 4096
"""Verdicts, manifests with their tags and indexes, and blobs that are remembered, of each."""
CHILDREN = 1000
"""Manifests of an index that are remembered as its."""
TAGS = 16
"""Tags remembered of one manifest."""
PARENTS = 8
"""Indexes looked at that list one manifest."""
INDEXES_READ = 64
"""Indexes of a repository that are read to find those."""
QUESTIONS = 64
"""Pulls whose question waits to be looked at."""
SHOWN = 3
"""Images that a problem names."""

Kind = Literal["none", "verified", "warned", "refused"]
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    """none: no rule asks for signatures."""
    reason: str
    """For people: by which keys, or why not."""
    by_keys: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        return self.kind != "refused"


UNASKED = Verdict("none", "no rule asks for signatures")
_Subject = tuple[Place, Digest]


@dataclass(slots=True)
class _Kept:
    verdict: Verdict
    until: float
    """trio's clock; a good one has no end."""


class Verifier:
    def __init__(self, store: Store, policy: SignaturePolicy) -> None:
        self._store = store
        self._policy = policy
        self._held = Held(store)
        self._version = policy.version
        self._verdicts: OrderedDict[tuple[Place, Digest, Rule], _Kept] = OrderedDict()
        self._tags: OrderedDict[_Subject, set[str]] = OrderedDict()
        """Under which tags a manifest was asked for, or is known."""
        self._parents: OrderedDict[_Subject, dict[Digest, None]] = OrderedDict()
        """Which indexes of the repository list a manifest."""
        self._blobs: OrderedDict[Digest, str | None] = OrderedDict()
        """Manifests too. Of refused images why, of others None."""
        self._latest: OrderedDict[_Subject, Verdict] = OrderedDict()
        """Whatever it was asked for by."""

    # --- asking ---

    @property
    def is_idle(self) -> bool:
        """Whether everything is accepted."""
        return self._policy.is_empty

    def known(
        self, registry: str, repository: str, reference: str | Digest, manifest: Manifest
    ) -> Verdict | None:
        """The verdict, if it needs no look at anything."""
        if self._policy.is_empty:
            return UNASKED
        place = (registry, repository)
        if isinstance(reference, Digest) and (place, manifest.digest) not in self._parents:
            return None
        rule = self._rule(place, reference, manifest)
        if rule is None:
            self._clear(manifest)
            return UNASKED
        return self._kept(place, manifest.digest, rule)

    async def require(
        self,
        registry: str,
        repository: str,
        reference: str | Digest,
        manifest: Manifest,
        source: Source | None = None,
        deadline: float = DEADLINE,
        *,
        lenient: bool = False,
    ) -> None:
        """Raises `DeniedError`, with the reason, where `check` says that it is refused."""
        verdict = await self.check(
            registry, repository, reference, manifest, source, deadline, lenient=lenient
        )
        if not verdict.allowed:
            tag = "" if isinstance(reference, Digest) else f":{reference}"
            raise DeniedError(
                f"{registry}/{repository}{tag} ({manifest.digest}) is refused: {verdict.reason}"
            )

    async def check(
        self,
        registry: str,
        repository: str,
        reference: str | Digest,
        manifest: Manifest,
        source: Source | None = None,
        deadline: float = DEADLINE,
        *,
        lenient: bool = False,
    ) -> Verdict:
        """The verdict on a manifest of the repository, asked for by that tag or digest. `source`: where
        signatures come from that are not in the store; None: from nowhere, and the verdict is not kept if it
        is bad. `deadline` in seconds. `lenient`: of a digest under no tag that is known here, what it would
        be under the tag that is best for it; whoever serves it knows better."""
        if self._policy.is_empty:
            return UNASKED
        place = (registry, repository)
        await self._prepare(place, reference, manifest)
        rule = self._rule(place, reference, manifest, lenient=lenient)
        version = self._policy.version
        if rule is None:
            self._clear(manifest)
            return UNASKED
        kept = self._kept(place, manifest.digest, rule)
        if kept is not None and kept.kind == "verified":
            return kept
        verdict = await self._look(place, manifest.digest, rule, self._held, deadline)
        if verdict.kind != "verified":
            if kept is not None or source is None:
                return kept or verdict
            verdict = await self._look(place, manifest.digest, rule, source, deadline)
        if version == self._policy.version:
            self._keep(place, manifest, rule, verdict)
        return verdict

    def why_not(self, blob: Digest) -> str | None:
        """Why a blob is not given: it is known through refused images only."""
        self._fresh()
        return self._blobs.get(blob)

    def shown(self, registry: str, repository: str, digest: Digest) -> Verdict | None:
        """The latest verdict on a manifest that a rule asks signatures for; None: there is none."""
        self._fresh()
        return self._latest.get(((registry, repository), digest))

    def trouble(self) -> str | None:
        """What an operator should see to, in plain words."""
        self._fresh()
        told = []
        for kind, outcome in (("refused", "refused"), ("warned", "served in spite of that")):
            bad = [
                f"{place[0]}/{place[1]}@{digest} ({verdict.reason})"
                for (place, digest), verdict in self._latest.items()
                if verdict.kind == kind
            ]
            if bad:
                more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
                told.append(f"not signed as they must be, and {outcome}: {', '.join(bad[-SHOWN:])}{more}")
        return f"images {'; '.join(told)}" if told else None

    # --- looking ---

    async def _prepare(self, place: Place, reference: str | Digest, manifest: Manifest) -> None:
        """Know which tags a manifest has, and which indexes list it."""
        if manifest.is_index:
            self._learn(place, manifest)
        subject = (place, manifest.digest)
        if isinstance(reference, str):
            self._note_tag(subject, reference)
        if subject in self._parents:
            return
        records = self._store.tags(*place)
        for record in records:
            if record.descriptor.digest == manifest.digest:
                self._note_tag(subject, record.tag)
        indexes = [one for one in records if one.descriptor.media_type in INDEX_TYPES]
        for record in indexes[:INDEXES_READ]:
            held = await self._held.manifest(*place, record.descriptor)
            if held is not None:
                self._learn(place, held)
                if any(child.digest == manifest.digest for child in held.manifests):
                    self._note_tag((place, held.digest), record.tag)
        self._listed(subject)

    def _learn(self, place: Place, index: Manifest) -> None:
        for child in index.manifests[:CHILDREN]:
            parents = self._listed((place, child.digest))
            if len(parents) < PARENTS:
                parents[index.digest] = None

    def _listed(self, subject: _Subject) -> dict[Digest, None]:
        _make_room(self._parents)
        return self._parents.setdefault(subject, {})

    def _note_tag(self, subject: _Subject, tag: str) -> None:
        _make_room(self._tags)
        known = self._tags.setdefault(subject, set())
        if len(known) >= TAGS:
            known.clear()
        known.add(tag)

    def _rule(
        self, place: Place, reference: str | Digest, manifest: Manifest, *, lenient: bool = False
    ) -> Rule | None:
        """The rule that asks for signatures of it; None: none does."""
        if isinstance(reference, str):
            tags = {reference}
        else:
            parents = self._parents.get((place, manifest.digest), ())
            of_parents = {tag for one in parents for tag in self._tags.get((place, one), ())}
            tags = self._tags.get((place, manifest.digest), set()) | {
                tag for tag in of_parents if not is_about_digest(tag)
            }
        rule = self._policy.rule_for(*place, tags, lenient=lenient)
        if rule is None or rule.action == "accept" or needs_no_signature(manifest, tags):
            return None
        return rule

    async def _look(
        self, place: Place, digest: Digest, rule: Rule, source: Source, deadline: float
    ) -> Verdict:
        reason = "its signatures could not be had in time"
        with trio.move_on_after(deadline):
            indexes = list(self._parents.get((place, digest), ()))
            good = next((one for one in indexes if self._is_good(place, one, rule)), None)
            if good is not None:
                return Verdict("verified", f"listed by {good}, which is signed ({rule.origin})")
            told: list[str] = []
            for subject in (digest, *indexes):
                signers, why_not = await self._signers(place, subject, rule, source)
                if len(signers) >= rule.threshold:
                    names = tuple(sorted(signers.values()))
                    of = "" if subject == digest else f"as part of {subject}, "
                    return Verdict("verified", f"{of}signed by {', '.join(names)} ({rule.origin})", names)
                told.append(why_not)
            reason = told[0]
        kind: Kind = "refused" if rule.action == "block" else "warned"
        return Verdict(kind, f"{reason} (asked for by {rule.origin}, {rule.pattern})")

    async def _signers(
        self, place: Place, subject: Digest, rule: Rule, source: Source
    ) -> tuple[dict[str, str], str]:
        """Which keys of the rule signed that very digest, and why not more did."""
        signers: dict[str, str] = {}
        faults: list[str] = []
        try:
            async with aclosing(signatures_of(source, *place, subject)) as found:
                async for signed in found:
                    try:
                        signers |= signers_untrusted(signed, place, subject, rule)
                    except InvalidInputError as fault:
                        faults.append(str(fault))
                    if len(signers) >= rule.threshold:
                        return signers, ""
        except MeshsatError as failed:
            return signers, f"its signatures can't be had now: {failed}"
        if signers:
            return signers, f"{len(signers)} of the {rule.threshold} keys that must have signed it did"
        if faults:
            more = f", and {len(faults) - 1} more are no better" if len(faults) > 1 else ""
            return signers, f"its signature is not valid: {faults[0]}{more}"
        return signers, "it has no signature"

    # --- remembering ---

    def _fresh(self) -> None:
        """Forget what another policy said."""
        if self._version != self._policy.version:
            self._version = self._policy.version
            self._verdicts.clear()
            self._blobs.clear()
            self._latest.clear()

    def _kept(self, place: Place, digest: Digest, rule: Rule) -> Verdict | None:
        self._fresh()
        kept = self._verdicts.get((place, digest, rule))
        return None if kept is None or trio.current_time() >= kept.until else kept.verdict

    def _is_good(self, place: Place, digest: Digest, rule: Rule) -> bool:
        kept = self._kept(place, digest, rule)
        return kept is not None and kept.kind == "verified"

    def _keep(self, place: Place, manifest: Manifest, rule: Rule, verdict: Verdict) -> None:
        self._fresh()
        good = verdict.kind == "verified"
        until = math.inf if good else trio.current_time() + BAD_AGE
        key, subject = (place, manifest.digest, rule), (place, manifest.digest)
        self._verdicts.pop(key, None)
        _make_room(self._verdicts)
        self._verdicts[key] = _Kept(verdict, until)
        name = f"{place[0]}/{place[1]}@{manifest.digest}"
        before = self._latest.pop(subject, None)
        _make_room(self._latest)
        self._latest[subject] = verdict
        if not good and before != verdict:
            outcome, reason = verdict.kind, verdict.reason
            log.warning("an image is not signed as it must be", name=name, outcome=outcome, reason=reason)
        if verdict.allowed:
            self._clear(manifest)
            return
        for digest in (manifest.digest, *(blob.digest for blob in manifest.blobs)):
            if digest not in self._blobs:
                _make_room(self._blobs)
                self._blobs[digest] = f"it is of {name}, which is refused: {verdict.reason}"

    def _clear(self, manifest: Manifest) -> None:
        """What is of an image that may be given is given, whatever else it is of."""
        self._fresh()
        if self._blobs.get(manifest.digest, "") is None:
            return
        for digest in (manifest.digest, *(blob.digest for blob in manifest.blobs)):  # it is forgotten first
            self._blobs.pop(digest, None)
            _make_room(self._blobs)
            self._blobs[digest] = None


@dataclass(slots=True)
class _Question:
    manifest: Manifest
    wanted: Reference
    done: trio.Event = field(default_factory=trio.Event)
    denied: DeniedError | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Judge:
    """For those who must give signs of life while they wait for a verdict."""

    def __init__(self, verifier: Verifier, source: Source) -> None:
        self._verifier = verifier
        self._source = source
        self._ask, self._asked = trio.open_memory_channel[_Question](QUESTIONS)

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            async for question in self._asked:
                nursery.start_soon(self._answer, question)

    async def _answer(self, question: _Question) -> None:
        wanted = question.wanted
        asked = wanted.tag or wanted.digest or DEFAULT_TAG
        with question.scope:
            try:
                await self._verifier.require(
                    wanted.registry, wanted.repository, asked, question.manifest, self._source
                )
            except DeniedError as denied:
                question.denied = denied
            question.done.set()

    async def judge(self, manifest: Manifest, wanted: Reference) -> AsyncGenerator[None, None]:
        """Whether it is signed as it must be; something each second. Raises `DeniedError`, with the
        reason."""
        if self._verifier.is_idle:
            return
        question = _Question(manifest, wanted)
        try:
            await self._ask.send(question)
            while not question.done.is_set():
                with trio.move_on_after(1.0):
                    await question.done.wait()
                yield
        finally:
            question.scope.cancel()
        if question.denied is not None:
            raise question.denied


def signers_untrusted(signed: Signed, place: Place, subject: Digest, rule: Rule) -> dict[str, str]:
    """Who signed, by fingerprint, and what they are called. Raises `InvalidInputError`: why it counts for
    nothing."""
    identity = None
    if signed.signature is None:
        signers = _bundle_signers_untrusted(signed.data, subject, rule)
    else:
        statement = check_simple_signing_untrusted(signed.data, signed.signature, subject, rule.keys)
        signers, identity = {key.fingerprint: key.name for key in statement.signers}, statement.identity
    if rule.match_identity:
        if identity is None:
            raise InvalidInputError("it names no image, and the rule asks for its name")
        name = Reference.parse_untrusted(identity).name
        if name != "/".join(place):
            raise InvalidInputError(f"it was made for {name}")
    return signers


def _bundle_signers_untrusted(raw: bytes, subject: Digest, rule: Rule) -> dict[str, str]:
    try:
        statement = check_bundle_untrusted(raw, subject, rule.keys)
    except InvalidInputError:
        if rule.certificate is None:
            raise
        rule.certificate.check_bundle_untrusted(raw, subject)
        return {rule.certificate.fingerprint: rule.certificate.name}
    return {key.fingerprint: key.name for key in statement.signers}


def _make_room(memory: OrderedDict[Any, Any]) -> None:
    while len(memory) >= KEPT:
        memory.popitem(last=False)
