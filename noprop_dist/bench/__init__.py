"""Benchmarks: both sides in one run, in turns, medians with spread."""
