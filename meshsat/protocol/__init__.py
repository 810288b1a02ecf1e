"""The mesh's brain, sans-IO: what a node does about what happened. It touches no socket, clock or disk.

`Machine.handle(event, now)` takes what happened (`events`) and returns what to do (`effects`). The same
machine runs under `mesh/driver.py` for real, in tests under a fake clock, and in a simulator.
"""
