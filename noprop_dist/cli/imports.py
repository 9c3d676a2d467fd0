"""How the commands import libraries."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """Look for no garbage within the `with`, nor ever again in what was made there: what is imported stays.

    torch's import makes objects enough for a dozen collections, and the end of a process is two more. Where torch is
    there already this does nothing.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
