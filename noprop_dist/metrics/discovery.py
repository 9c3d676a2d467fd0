"""File-based service discovery: Prometheus finds a run without a change to its configuration."""

import json
import os
import re
from contextlib import suppress

from noprop_dist.errors import UserError, why
from noprop_dist.files import local_path


class DiscoveryFile:
    """`FOLDER/noprop-RUN.json` for Prometheus's `file_sd_configs`, for as long as an endpoint is served.

    If the process is killed the file stays, so Prometheus reports that the endpoint is down. The run's next coordinator
    writes the file anew.

    Args:
        folder: that Prometheus reads; made if it is not there.
        run: name of the run.
        target: HOST:PORT, as Prometheus reaches it.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, folder: str, run: str, target: str) -> None:
        self._file = local_path(folder) / f"noprop-{re.sub(r'[^A-Za-z0-9._-]', '_', run)}.json"
        content = json.dumps([{"targets": [target], "labels": {"job": "noprop"}}])
        part = self._file.with_suffix(f".{os.getpid()}.part")  # Prometheus reads *.json
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(content)
            part.replace(self._file)
        except OSError as error:
            raise UserError(f"metrics.discovery={folder}: cannot be written: {why(error)}") from error

    def remove(self) -> None:
        """Remove the file, before the endpoint ends."""
        with suppress(OSError):  # it may be gone, or its folder read-only by now
            self._file.unlink()
