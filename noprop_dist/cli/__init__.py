"""The command line `noprop-dist`."""
