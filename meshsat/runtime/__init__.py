"""Container runtimes on this host, and how their pulls come to the node first.

A runtime is configured by *planning*: a pure function reads its files through a `View` and says what they
should be (`plans`, `containerd`, `rancher`, `containers`, `docker`). `apply` makes it so: with a journal,
with what was there kept aside, all of it or nothing. `unmerge` takes our part out of a file that somebody
edited since.

To add a runtime: write its plan, and enter it in `catalog`.
"""
