"""Many blocks: what a run does beside their steps takes no longer for it."""

import pytest

from noprop_dist.bench.idle import NoopWorker, idle_records
from noprop_dist.bench.simulated_workers import simulated_records
from noprop_dist.engines.coordination import POLL_SECONDS
from noprop_dist.engines.core.snapshots import SNAPSHOTS_AT_ONCE
from noprop_dist.records import RoundDone, RunEnded, SnapshotWritten, WorkerReady

pytestmark = pytest.mark.slow


def times(records, kind):
    return [record.time for record in records if isinstance(record, kind)]


def test_four_hundred_blocks_on_as_many_workers_begin_in_a_moment():
    """It took 9 s: for each block that was given to a worker, all workers looked through all blocks."""
    records = simulated_records(400, 16, 400, 0.0)
    assert min(times(records, RoundDone)) - min(times(records, WorkerReady)) < 5


@pytest.mark.usefixtures("ray_here")
def test_the_last_snapshots_of_a_run_follow_each_other_without_a_pause():
    """Four of them went at a time, and nobody looked for the next until the loop's wait for actors was over."""
    blocks = 160
    records = idle_records(blocks, 32, 2, NoopWorker)
    assert len(times(records, SnapshotWritten)) == blocks + 1
    seconds = max(times(records, RunEnded)) - max(times(records, RoundDone))
    assert seconds < 0.7 * POLL_SECONDS * blocks / SNAPSHOTS_AT_ONCE
