"""The benchmark of the planes runs; what it measures is for a quiet machine."""

import json

import pytest

from sim import bench_transport


@pytest.mark.slow
def test_every_plane_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    bench_transport.main(["--mib", "2", "--repeat", "1", "--json", "--deadline", "60"])
    result = json.loads(capsys.readouterr().out)
    assert [row["plane"] for row in result["rows"]] == ["tls", "libp2p", "ssl", "trio"]
    for row in result["rows"]:
        assert row["mb_per_second"] > 0
        assert row["receive_cpu_per_gib"] > 0
        assert row["send_cpu_per_gib"] > 0


@pytest.mark.slow
def test_the_sender_can_be_paced(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--mib", "4", "--mbit", "80", "--repeat", "1", "--plane", "tls", "--deadline", "60"]
    bench_transport.main([*arguments, "--json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert 5 < row["mb_per_second"] < 12
