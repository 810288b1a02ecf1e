"""Takes our part out of a file that somebody edited since: the change that we made, backwards, on what is
there now.

It works on lines and knows no format. A change of ours is taken back where its lines are as we left them;
where they are gone already, they stay gone. Where somebody edited among them, nobody can tell whose is what:
`None`.
"""

from difflib import SequenceMatcher


def take_back(without: bytes, with_ours: bytes, now: bytes) -> bytes | None:
    """What `now` would be, had we never made `with_ours` of `without`. None: our lines were edited."""
    ours, lines = with_ours.splitlines(keepends=True), now.splitlines(keepends=True)
    before = without.splitlines(keepends=True)
    place = _places(ours, lines)
    out = list(lines)
    for kind, i1, i2, j1, j2 in reversed(SequenceMatcher(None, ours, before, autojunk=False).get_opcodes()):
        if kind == "equal":
            continue
        span = _span(ours, place, i1, i2, len(lines))
        if span is None:
            return None
        start, end, whole = span
        between = lines[start:end]
        if whole:
            out[start:end] = before[j1:j2]
        elif between and between != before[j1:j2] and not (j1 == j2 and i1 < i2):
            return None  # neither ours, nor what was there before us
    return b"".join(out)


def _places(ours: list[bytes], lines: list[bytes]) -> list[int | None]:
    """For each of our lines where it is now."""
    place: list[int | None] = [None] * len(ours)
    for start, there, length in SequenceMatcher(None, ours, lines, autojunk=False).get_matching_blocks():
        for offset in range(length):
            place[start + offset] = there + offset
    return place


def _span(
    ours: list[bytes], place: list[int | None], i1: int, i2: int, end: int
) -> tuple[int, int, bool] | None:
    """Where lines `i1` to `i2` of ours are now, and whether they are there whole. None: some of them.

    Empty lines that are left of ours are nobody's.
    """
    found = [line for line in place[i1:i2] if line is not None]
    if found and len(found) == i2 - i1 and found[-1] - found[0] == len(found) - 1:
        return found[0], found[-1] + 1, True
    if any(place[line] is not None and ours[line].strip() for line in range(i1, i2)):
        return None
    before = -1 if i1 == 0 else place[i1 - 1]
    after = end if i2 == len(ours) else place[i2]
    if before is None or after is None:
        return None
    return before + 1, after, i1 == i2 and after == before + 1
