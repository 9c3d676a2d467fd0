"""Where a run goes and how, and how it meets failures."""

from typing import Literal

from pydantic import Field, model_validator

from noprop_dist.config.sections.base import ChangesBaselineBits, ChangesBits, KeepsBits, Positive, Seconds, Settings


class ProfileSettings(Settings):
    """Profile some steps of one block with torch's profiler."""

    block: KeepsBits[Positive] = Field(description="number of the block")
    steps: KeepsBits[int] = Field(20, ge=1, le=200, description="steps to profile, after the first few of a process")


class WorkerRange(Settings):
    """How many block workers a run has as its cluster grows and shrinks; each has a device of its own."""

    min: Positive = Field(1, description="workers that have to be there before the run begins")
    max: Positive | Literal["auto"] = Field("auto", description="most workers (auto: one a block)")

    @model_validator(mode="after")
    def _in_order(self) -> "WorkerRange":
        if self.max != "auto" and self.min > self.max:
            raise ValueError(f"min={self.min} is more than max={self.max}")
        return self


class EngineSettings(Settings):
    """Where and how the blocks are run. Only the device and its threads change bits: they order the sums."""

    kind: KeepsBits[Literal["ray", "sequential"]] = "ray"
    address: KeepsBits[str | None] = Field(
        None, description="a running Ray cluster (default: $RAY_ADDRESS, else a Ray of our own)"
    )
    # The baseline's processes share every batch, as replicas_per_block do. NoProp's workers share nothing.
    workers: ChangesBaselineBits[Positive | Literal["auto"] | WorkerRange] = Field(
        "auto",
        description="block workers (auto: {min: 1, max: auto}, one a GPU or core as they come and go; a number: so "
        "many, which share devices if those are fewer, at most 16 on each); processes of the baseline",
    )
    device: ChangesBits[Literal["auto", "cpu", "cuda"]] = Field(
        "auto",
        description="that networks compute on (auto: a GPU if there is, or can be, one); fixes the bits",
    )
    threads_per_worker: ChangesBits[Positive] = Field(1, description="CPU threads of a worker; fixes the bits")
    round_steps: KeepsBits[Positive | Literal["auto"]] = Field(
        "auto",
        description="steps sent to a block in one message (auto: 16, on a GPU 256; more where they would be thousands "
        "a second)",
    )
    prefetch: KeepsBits[Positive] = Field(2, description="rounds in flight for each block")
    sampling: KeepsBits[Literal["auto", "coordinator", "worker"]] = Field(
        "auto",
        description="who draws z (auto: the workers if z is large, GPUs are many or cores few); always the same draws",
    )
    cuda_graphs: KeepsBits[Literal["auto", "always", "never"]] = Field(
        "auto", description="capture a block's step on a GPU once, then replay it (auto: if it can be)"
    )
    blocks_at_once: KeepsBits[Positive | Literal["auto"]] = Field(
        "auto", description="blocks that a worker trains at the same time (auto: up to 8 on a GPU, 1 on a CPU)"
    )
    blocks_per_worker: KeepsBits[Positive | None] = Field(
        None, description="most blocks that a worker holds at a time; the others wait their turn (default: no limit)"
    )
    max_failures: KeepsBits[int] = Field(
        8,
        ge=-1,
        lt=2**31,
        description="workers that may be lost while they train one block and it gets no further; -1 is any number",
    )
    max_preemption_failures: KeepsBits[int] = Field(
        -1, ge=-1, lt=2**31, description="the same of workers that are lost with their machine; -1 is any number"
    )
    spare_processes: KeepsBits[int] = Field(
        1,
        ge=0,
        le=8,
        description="idle processes that each node of a worker keeps, so that a lost one is back at once; none where "
        "memory is short",
    )
    start_timeout_seconds: KeepsBits[Seconds] = Field(
        900,
        description="for the first workers, or the baseline's processes, to be there; a cluster that grows starts a "
        "machine and pulls its image meanwhile",
    )
    coordinator_timeout_seconds: KeepsBits[Seconds] = Field(
        60, description="without answer, before a coordinator is given up and another one goes on"
    )
    worker_timeout_seconds: KeepsBits[Seconds] = Field(
        600, description="without any block worker, before a run that has had one is saved and ended"
    )
    move_after_seconds: KeepsBits[Seconds] = Field(
        30, description="blocks of a lost or missing worker wait this long for it, then they move to others"
    )
    hang_seconds: KeepsBits[Seconds] = Field(
        20, description="without reply, and ten times its slowest round, before a worker counts as hung"
    )
    stall_timeout_seconds: KeepsBits[Seconds] = Field(
        1800,
        description="the same before a worker's first round is done; a process that is stuck as a whole is noticed "
        "after four times hang_seconds",
    )
    profile: ProfileSettings | None = Field(
        None, description="{block: 3, steps: 20} writes a trace of them into profile/ (default: none)"
    )
    grace_seconds: KeepsBits[Seconds] = Field(
        30, description="for snapshots after SIGTERM or Ctrl-C; a second Ctrl-C ends at once"
    )
