"""Benchmarks: ours beside the bare limits, in one run. Never tests."""
