"""The embedded registry: the read side of the OCI distribution specification, over content it is given."""
