"""Callbacks on their way to the coordinator: pickled as Ray pickles functions, so that a script's own travel, too."""

from collections.abc import Sequence
from typing import cast

from ray import cloudpickle

from noprop_dist.errors import UserError
from noprop_dist.tracking.callback import Callback


def pickled(callbacks: Sequence[Callback]) -> bytes | None:
    """Callbacks as bytes; None if there are none.

    Raises:
        UserError: one holds something that cannot be sent, such as an open file.
    """
    for each in callbacks:
        check_travels(each, f"callback {type(each).__name__}", "open files and connections in on_start")
    return cast(bytes, cloudpickle.dumps(tuple(callbacks))) if callbacks else None


def check_travels(value: object, what: str, otherwise: str) -> None:
    """Check that something can be sent to other processes.

    Args:
        value: to be sent.
        what: it is, for people.
        otherwise: what the user can do.

    Raises:
        UserError: it holds something that cannot be sent, such as an open file.
    """
    try:
        cloudpickle.dumps(value)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what}: cannot be sent to the run's coordinator: {cause}; {otherwise}") from error


def unpickled(callbacks: bytes | None) -> Sequence[Callback]:
    """What `pickled` made.

    Raises:
        UserError: a module that they need is not where the coordinator runs.
    """
    try:
        return () if callbacks is None else cast(Sequence[Callback], cloudpickle.loads(callbacks))
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"callbacks: cannot be loaded where the run's coordinator is: {cause}") from error
