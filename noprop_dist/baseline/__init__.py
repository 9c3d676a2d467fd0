"""The back-propagation baseline of the paper, trained end to end by Ray Train."""
