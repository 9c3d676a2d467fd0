"""The command line `noprop-dist`."""

from signal import SIGINT
from typing import Any

from noprop_dist.elsewhere import import_elsewhere

import_elsewhere()


def main() -> Any:
    """As `cli.app.main`; Ctrl-C while that is imported ends without a traceback, too."""
    try:
        from noprop_dist.cli import app
    except KeyboardInterrupt:
        raise SystemExit(128 + SIGINT) from None
    return app.main()
