"""The Ray engine: carries out what `engines.core` decides. Only this package and `baseline` import ray."""

from noprop_dist.elsewhere import import_elsewhere

import_elsewhere()  # a worker has the driver's working directory
