"""What keeps a node's disk right: collection of what nothing refers to, eviction under the budget, scrubbing.

`task.Upkeep` is the way in. `marking` decides, purely; `stock` tells it what there is and why it is kept;
`budget` says how much may be there; `scrub` reads what is there again.
"""
