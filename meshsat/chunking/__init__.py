"""How a blob is cut into chunks, and the list of them. Pure."""
