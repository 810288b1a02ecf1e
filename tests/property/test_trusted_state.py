"""Whatever is offered in whatever order: only what is signed as it must be is believed, and nothing goes back."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshsat.trust.state_documents import Head, Refused, Role, Root, StateError
from meshsat.trust.trusted_state import Taken
from tests.authors import NOW, Signers, key_of, role, sealed

NAMES = ("anchor", "k1", "k2", "k3", "k4")
ROLES = st.builds(
    lambda names, threshold: role(*names, threshold=min(threshold, len(names))),
    st.sets(st.sampled_from(NAMES[1:]), min_size=1),
    st.integers(1, 3),
)
SIGNERS = st.sets(st.sampled_from(NAMES))
FLEET = Signers(root=role("k1", "k2", threshold=2), state=role("k2", "k3", threshold=1))


class Offers(RuleBasedStateMachine):
    """Any signers sign anything; beside the set under test runs the specification, said in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.trusted = FLEET.trusted()
        self.chain: list[Root] = []
        self.heads: list[tuple[Head, set[str]]] = []
        self.seen: list[bytes] = []

    @initialize(known=st.booleans())
    def the_first(self, known: bool) -> None:
        if known:
            self.offer(sealed(FLEET.root_of(), "anchor", "k1", "k2"))
            self.chain.append(FLEET.root_of())

    def offer(self, raw: bytes) -> tuple[Taken | None, Refused | None]:
        self.seen.append(raw)
        try:
            return self.trusted.update_untrusted(raw, NOW)[0], None
        except StateError as fault:
            return None, fault.reason

    @rule(step=st.sampled_from([1, 1, 1, 0, 2, -1]), root=ROLES, state=ROLES, signers=SIGNERS)
    def a_root(self, step: int, root: Role, state: Role, signers: set[str]) -> None:
        version = max(1, len(self.chain) + step)
        offered = FLEET.root_of(version, root=root, state=state)
        taken, _ = self.offer(sealed(offered, *signers))
        ids = frozenset(key_of(name).peer_id for name in signers)
        may = version == len(self.chain) + 1 and root.met_by(ids)
        if may and version == 1:
            may = "anchor" in signers
        elif may:
            may = self.chain[-1].root.met_by(ids)
        assert (taken is Taken.NEWS) == may
        if may:
            self.chain.append(offered)

    @rule(
        version=st.integers(1, 9), root=st.integers(1, 5), signers=SIGNERS, body=st.sampled_from([b"a", b"b"])
    )
    def a_head(self, version: int, root: int, signers: set[str], body: bytes) -> None:
        offered = FLEET.head_of(version, body=body, root=root)
        taken, _ = self.offer(sealed(offered, *signers))
        may = root <= len(self.chain)
        if may:
            named, newest = self.chain[root - 1].state, self.chain[-1].state
            valid = frozenset(key_of(name).peer_id for name in signers) & named.keys
            may = named.met_by(valid) and newest.met_by(valid) and version > self.floor()
        assert (taken is Taken.NEWS) == may
        if may:
            self.heads.append((offered, signers))

    @rule(data=st.data())
    def a_replay(self, data: st.DataObject) -> None:
        if self.seen:
            floor, roots = self.trusted.floor, len(self.trusted.roots)
            taken, _ = self.offer(data.draw(st.sampled_from(self.seen)))
            if taken is Taken.NEWS:  # it came too early then
                assert self.trusted.floor > floor or len(self.trusted.roots) > roots
                self.chain = self.trusted.roots
                self.heads = [(one, self.signers_of(one)) for one in self.trusted.heads]

    def signers_of(self, head: Head) -> set[str]:
        entry = next(one for one in self.trusted.log if one.document == head)
        return {name for name in NAMES if key_of(name).peer_id in entry.signers}

    def floor(self) -> int:
        """The highest version of those that the newest root still stands behind."""
        newest = self.chain[-1].state
        return max(
            (
                head.version
                for head, signers in self.heads
                if newest.met_by(
                    frozenset(key_of(name).peer_id for name in signers) & self.chain[head.root - 1].state.keys
                )
            ),
            default=0,
        )

    @invariant()
    def what_is_believed_is_what_the_rules_say(self) -> None:
        assert self.trusted.roots == self.chain
        assert self.trusted.heads == [head for head, _ in self.heads][-10:]

    @invariant()
    def it_comes_back_as_it_was(self) -> None:
        again = FLEET.trusted()
        assert again.restore_untrusted(entry.sealed for entry in self.trusted.log) == []
        assert again.log == self.trusted.log


TestOffers = Offers.TestCase
TestOffers.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, database=None)
