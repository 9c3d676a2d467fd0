"""What explains the error with which a driver ends: the faults of which one must have struck."""

import re
from typing import TYPE_CHECKING

from noprop_dist.engines.core.failure_policy import UNLIMITED

if TYPE_CHECKING:
    from noprop_dist.simulation.simulation import Simulation

STORE = frozenset(
    {
        "disk full",
        "store fails",
        "store hangs",
        "store slow",
        "listings stale",
        "power lost",
        "disk not there for a while",
    }
)
DAMAGE = frozenset(
    {
        *("bit flipped in a snapshot", "entry damaged", "manifest truncated"),
        *("metrics.jsonl: lines doubled", "metrics.jsonl: cut off", "metrics.jsonl: bit flipped"),
    }
)
"""Each of these also kills the coordinator."""
COORDINATOR = DAMAGE | {
    "coordinator killed",
    "coordinator out of reach",
    "coordinators killed for a while",
    "coordinator stopped for a while",
    "driver killed",
    "power lost",
}
STRANGERS = frozenset({"snapshot of another run", "seed edited", "other data"})
UNSURE = DAMAGE | STRANGERS | {"power lost", "listings stale", "disk not there for a while"}
"""After these a file may be missing or damaged, or seem so."""
NODES = frozenset({"node killed", "raylet killed", "raylet stopped", "node drained"})
ROOM = NODES | {"node drained, then kept", "no room: another run"}
SILENCE = (
    NODES
    | frozenset(
        {
            "one lane stuck",
            "actor stopped (SIGSTOP)",
            "actor stopped for a while",
            "actor slow",
            "network slow",
        }
    )
    | STORE
)
EXPLAINED = {
    r"could not be written for checkpoint.storage_timeout_seconds": STORE,
    r"did not answer for checkpoint.storage_timeout_seconds": STORE,
    r"the run directory cannot be (read or )?written": STORE,
    r"cannot be read: .*did not answer": STORE,
    r"last snapshots could not be written before the end of engine.grace_seconds": frozenset(),
    r"config.yaml is gone|holds no run|began there": frozenset({"disk not there for a while"}),
    r"cannot be read: .*No such file": frozenset({"disk not there for a while"}),
    r"is writing this run|already holds a run": COORDINATOR | STORE,
    r"the coordinator was lost": COORDINATOR | STORE,
    r"no machine here has more than 0|there is no GPU here": ROOM,
    r"the coordinator did not end within engine.grace_seconds": frozenset({"stop asked for"}),
    r"not trained to the end: .*NonFiniteError": frozenset({"NaN in one block"}),
    r"not trained to the end: .*workers were lost": frozenset(),
    r"no block worker (was there|started)": ROOM,
    r"could not be measured": frozenset({"evaluator cannot start", "evaluator killed"}) | SILENCE | ROOM,
}
"""Errors with which a driver may end, and the faults of which one must have struck; none means any."""


def check_error(simulation: "Simulation", error: str) -> None:
    """A driver may end with an error only if something explains it."""
    struck, driver = simulation.outcome.struck.keys(), simulation.driver
    is_unlimited = simulation.plan.config.engine.max_failures == UNLIMITED
    if "the coordinator was lost" in error and is_unlimited and driver is not None and not driver.stop:
        simulation.violate(f"the driver ended, and engine.max_failures is {UNLIMITED}: {error}")
    for pattern, kinds in EXPLAINED.items():
        if re.search(pattern, error) and (not kinds or struck & kinds):
            return
    simulation.violate(f"nothing explains the error: {error}")
