"""Callbacks that follow a run by its records, and the experiment trackers that are built on them."""
