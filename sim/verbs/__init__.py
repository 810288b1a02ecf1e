"""What `python -m sim` can do, one file a verb: `add_flags(parser)` and `run(given) -> exit code`."""
