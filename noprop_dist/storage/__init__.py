"""The run directory, on any file system that pyarrow reaches; loading never executes code."""
