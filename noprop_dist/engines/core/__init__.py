"""The decisions of the coordinator, without Ray, clock, thread or disk."""
