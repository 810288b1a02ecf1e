"""Snapshots become JSON objects by their fields' names, however nested."""

import json

from meshsat.status import NodeStatus, TransferStatus, UplinkStatus, as_json, in_words


def test_a_snapshot_is_json() -> None:
    status = NodeStatus(
        peer="12D3",
        name="n",
        fleet="f",
        site="s",
        version="0",
        uptime=1.0,
        wan_bytes_in=1,
        wan_bytes_out=2,
        lan_bytes_in=3,
        lan_bytes_out=4,
        blobs=5,
        blob_bytes=6,
        images=7,
        peers=8,
        uplink=UplinkStatus(enabled=True, up=None),
        registry_address=None,
        transfers=(TransferStatus("sha256:a", 1, 2, 3),),
    )
    read = json.loads(json.dumps(as_json(status)))
    assert read["wan_bytes_in"] == 1
    assert read["uplink"] == {
        "enabled": True,
        "up": None,
        "last_error": None,
        "rate": 0,
        "failing_for": None,
        "retry_in": None,
        "gate": "open",
        "gate_reason": "",
        "opens_at": None,
    }
    assert read["transfers"][0]["have_bytes"] == 1


def test_how_long_and_when_again_in_words() -> None:
    assert in_words(None, None) == ""
    assert in_words(12.3, None) == " (for 12 s)"
    assert in_words(12.3, 29.6) == " (for 12 s; next try in 30 s)"
