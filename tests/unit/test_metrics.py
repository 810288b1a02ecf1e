"""Metrics: one registry a node, every name under one prefix."""

from prometheus_client import generate_latest

from meshsat.metrics import Metrics


def test_two_nodes_in_one_process_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.wan_in.inc(5)
    assert b"meshsat_wan_received_bytes_total 5.0" in generate_latest(one.registry)
    assert b"meshsat_wan_received_bytes_total 0.0" in generate_latest(other.registry)


def test_every_name_has_the_prefix() -> None:
    families = list(Metrics().registry.collect())
    assert len(families) > 10
    assert all(family.name.startswith("meshsat_") and family.documentation for family in families)
