"""The sections of a run's settings, each with what it checks by itself; `schema` puts them together."""
