"""The benchmark: distributors side by side on one site, one file a system. The entry is sim/bench.py."""
