"""The node's API: health, metrics and the verbs, over a view of the node that it is given."""
