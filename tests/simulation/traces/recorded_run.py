"""The driver of a run whose coordinator writes a trace: python recorded_run.py train|resume FOLDER [SETTING ...]."""

import json
import os
import sys
import time
from pathlib import Path

from turns import recorded, write_line

from noprop_dist.config.layers import load_config
from noprop_dist.engines.ray.actors import WorkerClasses
from noprop_dist.engines.ray.coordinator import Coordinator
from noprop_dist.engines.ray.driver import train_on_ray
from noprop_dist.engines.ray.workers import BlockWorker
from noprop_dist.storage.run_directory import RunDirectory


class FailingBlockWorker(BlockWorker):
    """A block worker that raises in its constructor while a file is there."""

    def __init__(self, *arguments):
        if Path(os.environ["TRACE_FLAG"]).exists():
            raise RuntimeError("the flag is there")
        super().__init__(*arguments)


class RecordedCoordinator(Coordinator):
    """Writes a line for each turn into a file of its own beside the run's folder; all processes share the clock."""

    def __init__(self, config, directory, resume=False, **options):
        classes = WorkerClasses(block=FailingBlockWorker) if "TRACE_FLAG" in os.environ else WorkerClasses()
        super().__init__(config, directory, resume, worker_classes=classes, **options)
        self._trace = f"{directory}.coordinator-{time.monotonic():012.3f}-{os.getpid()}.jsonl"

    def run(self):
        names = Path(self._trace).with_suffix(".names")
        with Path(self._trace).open("w", buffering=1) as file:

            def write(turn):
                if turn.events or turn.commands:
                    file.write(write_line(turn))
                if any(each.node for each in turn.events):  # now, for this process may be killed
                    names.write_text(json.dumps({"nodes": recorder.nodes, "processes": recorder.processes}))

            with recorded(write) as recorder:
                return super().run()


def main(how, folder, *settings):
    directory = RunDirectory(folder)
    config = directory.config() if how == "resume" else load_config("digits", None, settings)
    stop = Path(folder + ".stop")
    outcome = train_on_ray(
        config,
        folder,
        lambda _: None,
        how == "resume",
        stop.exists,
        lambda line: print(f"{time.monotonic():.2f}", line, flush=True),
        coordinator_class=RecordedCoordinator,
    )
    print(f"{time.monotonic():.2f}", "ended", outcome.step, outcome.stopped, flush=True)


if __name__ == "__main__":
    import recorded_run  # the coordinator's process imports its class by this name

    recorded_run.main(*sys.argv[1:])
