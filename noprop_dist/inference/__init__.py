"""The trained network: reverse process, decisions, accuracies, and the terms of Eq. 8."""
