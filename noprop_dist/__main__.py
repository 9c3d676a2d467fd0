"""`python -m noprop_dist` is `noprop-dist`."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working directory, whose files would take the place of any module from here on

from noprop_dist.cli import main

if __name__ == "__main__":
    main()
