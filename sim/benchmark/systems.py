"""All systems that are measured, in the order of the tables."""

from sim.benchmark import direct, docker_registry, libtorrent_sessions, meshsat_nodes
from sim.benchmark.system import System

SYSTEMS: tuple[System, ...] = (
    meshsat_nodes.SYSTEM,
    libtorrent_sessions.SYSTEM,
    docker_registry.SYSTEM,
    direct.SYSTEM,
)
