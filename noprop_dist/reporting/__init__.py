"""Plots of a run and one self-contained HTML page."""
