"""The way to upstream registries: the only package that sends bytes over the WAN."""
