"""The command line `noprop-dist`."""

from noprop_dist.elsewhere import import_elsewhere

import_elsewhere()
