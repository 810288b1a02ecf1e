"""Records whose truth is not this machine's to judge: desired state, members' reports, revocations.

Whoever runs the machine judges each (`effects.JudgeItem`, `events.ItemJudged`), because that takes the
fleet's root, a clock and what is known of states. The machine keeps what was judged to be news, passes it on,
and compares it with peers like any other record. So a trace replays without a judge: it holds the judgements.
"""

from meshsat.protocol.sums import Sums, leaf_key, leaf_version

LIMIT = 4096
"""Records of one kind; whoever judges keeps fewer."""


class Judged:
    """The records of one kind, each under a name that its judge gave it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self.sums = Sums()
        self._items: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._items)

    def put(self, name: str, data: bytes) -> bool:
        """In place of what had that name; True if that was news, and there is room."""
        key = leaf_key(name)
        known = self._items.get(key)
        if known == data or (known is None and len(self._items) >= self._limit):
            return False
        self._items[key] = data
        self.sums.put(key, leaf_version(data))
        return True

    def get(self, name: str) -> bytes | None:
        return self._items.get(leaf_key(name))

    def drop(self, name: str) -> None:
        key = leaf_key(name)
        if self._items.pop(key, None) is not None:
            self.sums.drop(key)

    def item(self, key: bytes) -> bytes | None:
        """The record of that leaf (`sums`), as it travels."""
        return self._items.get(key)
