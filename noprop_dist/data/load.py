"""From `data` settings to a data set in memory."""

from noprop_dist.configuration.settings import DataSettings
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.digits import load_digits
from noprop_dist.data.image_folder import load_image_folder
from noprop_dist.data.npz import load_npz
from noprop_dist.data.torchvision_sets import load_torchvision


def load_data(settings: DataSettings) -> DataSet:
    """Load, check and split the data set that the settings name.

    Raises:
        UserError: a file is missing, truncated or not what it should be; labels or shapes do not fit.
    """
    match settings.name:
        case "digits":
            return load_digits(settings.validation_fraction)
        case "image-folder":
            return load_image_folder(settings)
        case "npz":
            return load_npz(settings)
        case _:
            return load_torchvision(settings)
