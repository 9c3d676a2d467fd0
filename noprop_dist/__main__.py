"""`python -m noprop_dist` is `noprop-dist`."""

from noprop_dist.cli.app import main

if __name__ == "__main__":
    main()
