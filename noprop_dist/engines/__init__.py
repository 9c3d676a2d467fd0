"""What trains a run: the sequential engine, and the Ray engine, whose decisions are in `core`."""
