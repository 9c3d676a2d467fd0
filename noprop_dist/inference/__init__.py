"""The trained network at work: reverse process, decisions, and what is measured of them."""
