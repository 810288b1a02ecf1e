"""Who is let in: the one judgement that every plane asks for before a byte is exchanged.

In this order: the pass leads to the fleet's root and claims nothing that its issuer may not give; it is of
this time, or ran out less than the grace ago; it is not revoked; it is of our site. Members of other sites of
the fleet are no peers: they get nothing of this site's.
"""

from collections.abc import Callable, Sequence

from meshsat.trust.clock import Reading, Source
from meshsat.trust.passes import Pass, PassError, PassFault, verify_pass_untrusted
from meshsat.trust.revocations import Revocations


class VerifiedPasses:
    """Chains found good, so that those seen again cost no signature checks, only one look at the time."""

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._known: dict[tuple[tuple[bytes, ...], bytes], Pass] = {}

    def verify_untrusted(self, chain: Sequence[bytes], root: bytes) -> Pass:
        """As `verify_pass_untrusted`, without the time. Raises `PassError`."""
        key = (tuple(chain), root)
        member = self._known.get(key)
        if member is None:
            member = verify_pass_untrusted(chain, root, None)
            if len(self._known) >= self._limit:
                self._known.pop(next(iter(self._known)))
            self._known[key] = member
        return member


class Admission:
    """`site`: ours; None lets in members of all. `grace` in seconds."""

    def __init__(
        self,
        root: bytes,
        site: str | None,
        read: Callable[[], Reading],
        *,
        grace: float = 0.0,
        revocations: Revocations | None = None,
        known: VerifiedPasses | None = None,
    ) -> None:
        self.root = root
        self.grace = grace
        self.revocations = Revocations(root) if revocations is None else revocations
        self._site = site
        self._read = read
        self._known = known or VerifiedPasses()

    @classmethod
    def at(cls, root: bytes, now: Callable[[], float], known: VerifiedPasses | None = None) -> "Admission":
        """By a clock that is right, without grace, for all sites."""
        return cls(root, None, lambda: Reading(now(), Source.MEMBERS), known=known)

    def admit_untrusted(self, chain: Sequence[bytes]) -> Pass:
        """The pass that leads a chain (DER). Raises `PassError`."""
        member = self._known.verify_untrusted(chain, self.root)
        self.check(member)
        return member

    def check(self, member: Pass) -> None:
        """Whether it is let in, if nothing is wrong with the pass itself. Raises `PassError`."""
        self.check_time(member)
        revocation = self.revocations.of(member)
        if revocation is not None:
            raise PassError(PassFault.REVOKED, revocation.in_words())
        if self._site is not None and member.site != self._site:
            raise PassError(PassFault.ELSEWHERE, f"it is for {member.site}, and this is {self._site}")

    def refuses(self, member: Pass) -> bool:
        """Whether a member that was let in once may not stay."""
        try:
            self.check(member)
        except PassError:
            return True
        return False

    def check_time(self, member: Pass) -> None:
        """Whether it is of this time, or ran out less than the grace ago. Raises `PassError`."""
        reading = self._read()
        member.check_time(reading.now, self.grace, reading.latest)
