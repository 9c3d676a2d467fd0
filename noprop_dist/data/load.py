"""Loads the data set that the `data` settings name."""

from noprop_dist.config.schema import DataSettings
from noprop_dist.data.dataset import DataSet
from noprop_dist.data.digits import load_digits
from noprop_dist.data.image_folder import load_image_folder
from noprop_dist.data.inputs import Keep, in_memory
from noprop_dist.data.npz import load_npz
from noprop_dist.data.packed import load_packed
from noprop_dist.data.torchvision_sets import load_torchvision


def load_data(settings: DataSettings, keep: Keep = in_memory) -> DataSet:
    """Load, check and split the data set that the settings name.

    Args:
        settings: of the data.
        keep: stores the samples of each split; a packed data set stays where it is.

    Raises:
        UserError: a file is missing, truncated or not what it should be; labels or shapes do not fit.
    """
    match settings.name:
        case "digits":
            return load_digits(settings.validation_fraction, keep)
        case "image-folder":
            return load_image_folder(settings, keep)
        case "npz":
            return load_npz(settings, keep)
        case "packed":
            return load_packed(settings.root or "")
        case _:
            return load_torchvision(settings, keep)
