"""Peers that the benchmarks measure beside us, each in its own process."""
