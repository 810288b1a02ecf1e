"""What `meshsat state` shows of states, signatures and differences."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshsat.cli.state_place import StatePlace
    from meshsat.fleet.differences import Difference
    from meshsat.fleet.document import DesiredState
    from meshsat.fleet.state_file import StateFile


def state_of_file(file: "StateFile") -> "DesiredState | None":
    from meshsat.fleet.document import parse_state_untrusted

    return None if file.body is None else parse_state_untrusted(file.body)


def status_pairs(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from meshsat.trust.state_documents import moment_text

    if status["revision"] is None:
        yield "revision", "none is in force"
    else:
        marks = [mark for mark in ("expired", "revoked") if status[mark]]
        yield "revision", f"{status['revision']}{'  ' + ', '.join(marks).upper() if marks else ''}"
        yield "digest", status["digest"]
        yield "issued", moment_text(int(status["issued"]))
        yield "expires", moment_text(int(status["expires"]))
        yield "came by", status["source"] or "(it was here when the node started)"
    if status["pending"] is not None:
        yield "pending", f"revision {status['pending']}: {status['pending_problem'] or 'on its way'}"
    if status["root"] is None:
        yield "root", "none: nothing can be signed yet"
    else:
        yield "root", f"{status['root']}, expires {moment_text(int(status['root_expires']))}"
        yield "signers", f"{status['threshold']} of {', '.join(status['keys'])}"
    yield "revisions", ", ".join(map(str, status["revisions"])) or "(none)"
    for name, problem in status["sources"].items():
        yield "source", f"{name}: {problem or 'fine'}"
    for refusal in status["refusals"]:
        yield "refused", f"{moment_text(int(refusal['at']))} from {refusal['source']}: {refusal['message']}"


def document_pairs(file: "StateFile") -> Iterator[tuple[str, str]]:
    from meshsat.fleet.drafts import standings
    from meshsat.trust.state_documents import Head, moment_text

    for standing in standings(file, None)[-1:]:
        document = standing.document
        yield "fleet", document.fleet
        yield "issued", moment_text(document.issued)
        yield "expires", moment_text(document.expires)
        if isinstance(document, Head):
            yield "digest", str(document.digest)
        else:
            for name, role in (("root", document.root), ("state", document.state)):
                yield f"{name} keys", f"{role.threshold} of {', '.join(sorted(role.keys))}"


def file_as_json(place: "StatePlace", file: "StateFile") -> dict[str, Any]:
    from meshsat.fleet.drafts import standings

    documents = [
        {
            "name": one.name,
            "complete": one.complete,
            "expires": one.document.expires,
            "signed": [
                {"role": asked.name, "signers": sorted(asked.signers), "threshold": asked.role.threshold}
                for asked in one.asked
            ],
        }
        for one in standings(file, place.anchor)
    ]
    state = state_of_file(file)
    body = None if state is None else state.model_dump(mode="json", exclude_defaults=True)
    return {"documents": documents, "body": body}


def image_row(image: Any) -> tuple[str, ...]:
    scope = [*image.sites, *(f"@{group}" for group in image.groups)]
    return (
        image.reference,
        ", ".join(scope) or "all",
        ", ".join(image.roles) or "any",
        str(image.copies),
        str(image.priority),
    )


def difference_lines(one: "Difference") -> Iterator[str]:
    mark = {"added": "+", "removed": "-", "changed": "~"}[one.kind]
    yield f"{mark} {one.what}"
    for name, (before, after) in one.fields.items():
        yield f"    {name}: {before} -> {after}"
