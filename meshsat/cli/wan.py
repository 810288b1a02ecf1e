"""`meshsat wan`: what may pass over the uplink, and what each byte of it was for."""

from collections.abc import Iterator
from typing import Any

from meshsat.cli.options import ConfigFile, DataDir, Json, settings

COLUMNS = ("IMAGE", "PURPOSE", "IN", "OUT", "TODAY", "THIS MONTH")


def run(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show the limits of the uplink, and what used it."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_pairs, show_table

    wan = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/wan")
    if as_json:
        print(json.dumps(wan))
        return
    show_pairs(_pairs(wan))
    if wan["rows"]:
        show_table(COLUMNS, map(_row, wan["rows"]), right=COLUMNS[2:])


def _pairs(wan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from meshsat.cli.units import moment, size

    if not wan["enabled"]:
        yield "uplink", "off"
        return
    opens = f"; opens at {moment(wan['opens_at'])}" if wan["opens_at"] is not None else ""
    yield "uplink", wan["gate"] + (f": {wan['reason']}{opens}" if wan["reason"] else "")
    yield "rate", f"at most {size(wan['rate'])}/s" if wan["rate"] else "no cap"
    yield "measured", f"{size(wan['measured_rate'])}/s" if wan["measured_rate"] else "not known yet"
    for quota in wan["quotas"]:
        left, cap = size(quota["left"]), size(quota["cap"])
        ends = f"the {quota['period']} ends at {moment(quota['ends_at'])} ({quota['timezone']})"
        yield "quota", f"{left} of {cap} left, {ends}"
    if wan["since"] is not None:
        yield "counted", f"since {moment(wan['since'])}"


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    from meshsat.cli.units import size

    counts = (row["bytes_in"], row["bytes_out"], row["day"], row["month"])
    return row["image"], row["purpose"], *map(size, counts)
