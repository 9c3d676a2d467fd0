"""Where trackers write."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from noprop_dist.files import state_folder
from noprop_dist.storage.run_directory import RunDirectory


def tracking_folder(directory: RunDirectory) -> Path:
    """The folder of a run's trackers: `tracking` in the run directory.

    Trackers write local files. The run of an object store has a folder on the coordinator's machine, among the
    user's state; where there is none, a temporary one.
    """
    if directory.local_root is not None:
        return directory.local_root / "tracking"
    state, name = state_folder(), str(directory).rpartition("/")[2]
    if state is None:
        return Path(tempfile.mkdtemp(prefix="noprop-dist-tracking-"))
    return state / "tracking" / f"{name}-{hashlib.sha256(str(directory).encode()).hexdigest()[:8]}"


def new_folder(folder: Path, ours: str) -> Path:
    """A folder without what an earlier process of the run wrote there.

    Args:
        folder: made if it is not there.
        ours: pattern of the names of what that was; all else stays.

    Raises:
        OSError: it cannot be made, or a link leads elsewhere, where nothing of ours is.
    """
    check_no_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(ours):
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    return folder


def check_no_link(folder: Path) -> None:
    """Refuse a tracker's folder that is a link: a stranger's run must not make us write elsewhere.

    Raises:
        OSError: it is one, or a folder above it up to `tracking`.
    """
    for each in (folder, *folder.parents):
        if each.is_symlink():
            raise OSError(f"{each}: is a link; nothing is written through it")
        if each.name == "tracking":
            return
