"""What the fleet wants of its sites: the desired state, and how a node comes to hold it."""
