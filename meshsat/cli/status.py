"""`meshsat status`: one node, on one screen."""

from collections.abc import Iterator
from typing import Any

from meshsat.cli.options import ConfigFile, DataDir, Json, settings


def run(config: ConfigFile = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show how the node is: traffic, content, peers, problems."""
    import json

    from meshsat.cli.client import NodeClient
    from meshsat.cli.tables import show_pairs

    status = NodeClient(settings(config, data_dir=data_dir).data_dir).get("/api/v1/status")
    if as_json:
        print(json.dumps(status))
    else:
        show_pairs(_pairs(status))


def _pairs(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from meshsat.cli.units import duration, size

    yield "node", f"{status['name']}  {status['peer']}"
    yield "fleet", f"{status['fleet'] or '(none)'}  site {status['site'] or '(none)'}"
    yield "version", f"{status['version']}, up {duration(status['uptime'])}"
    yield "uplink", uplink_in_words(status["uplink"])
    yield "WAN", f"{size(status['wan_bytes_in'])} in, {size(status['wan_bytes_out'])} out"
    yield "LAN", f"{size(status['lan_bytes_in'])} in, {size(status['lan_bytes_out'])} out"
    yield "content", f"{status['images']} images, {status['blobs']} blobs, {size(status['blob_bytes'])}"
    yield "disk", disk_in_words(status["disk"])
    yield "peers", str(status["peers"])
    yield "registry", status["registry_address"] or "(off)"
    yield "control", ", ".join(status["control_addresses"]) or "(none)"
    yield "bulk", ", ".join(status["bulk_addresses"]) or "(none)"
    for transfer in status["transfers"]:
        yield "transfer", _transfer(transfer)
    for problem in status["problems"]:
        yield "problem", problem


def uplink_in_words(uplink: dict[str, Any]) -> str:
    """`off`, `not tried yet`, `up` or `down`, with the cap and the last error where there is one."""
    from meshsat.cli.units import moment, size
    from meshsat.status import in_words

    if not uplink["enabled"]:
        return "off"
    words = {None: "not tried yet", True: "up", False: "down"}[uplink["up"]]
    cap = f", at most {size(uplink['rate'])}/s" if uplink["rate"] else ""
    if uplink.get("gate_reason"):
        opens = f"; opens at {moment(uplink['opens_at'])}" if uplink["opens_at"] is not None else ""
        return f"{words}{cap}, {uplink['gate']}: {uplink['gate_reason']}{opens}"
    why = ""
    if uplink["up"] is False and uplink["last_error"]:
        why = f": {uplink['last_error']}{in_words(uplink.get('failing_for'), uplink.get('retry_in'))}"
    return words + cap + why


def disk_in_words(disk: dict[str, Any]) -> str:
    """How much of the budget is taken, what was let go, and how far scrubbing is."""
    from meshsat.cli.units import size

    budget = f" of {size(disk['budget'])}" if disk["budget"] else ""
    words = [f"{size(disk['used'])}{budget} used, {size(disk['available'])} free"]
    if disk["evicted_images"]:
        words.append(f"{disk['evicted_images']} images evicted ({size(disk['evicted_bytes'])})")
    if disk["collected_bytes"]:
        words.append(f"{size(disk['collected_bytes'])} collected")
    words.append(f"{size(disk['scrubbed_bytes'])} scrubbed, {disk['scrub_due']} blobs due")
    if disk["rotten"]:
        words.append(f"{disk['rotten']} rotten")
    return "; ".join(words)


def _transfer(transfer: dict[str, Any]) -> str:
    from meshsat.cli.units import size

    share = 100 * transfer["have_bytes"] / max(1, transfer["total_bytes"])
    whole, sources = size(transfer["total_bytes"]), transfer["sources"]
    line = f"{transfer['blob'][:19]}  {share:.0f} % of {whole}, {sources} sources"
    return f"{line}: {transfer['error']}" if transfer["error"] else line
