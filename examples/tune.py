"""A sweep with Ray Tune: trials of digits, each on its share of the cores of one Ray.

    python examples/tune.py [TRIALS]

Tune reserves a share of the cluster for each trial, a placement group. The workers of a trial's run live in it, and
`engine.workers` counts its cores. Trials that find no room wait. Their runs are kept in runs/tune; on a cluster of
several machines this has to be a folder or URI that all of them reach.
"""

import sys
from pathlib import Path
from typing import Any

from ray import tune

import noprop_dist

CORES = 1
"""Of each trial. With GPUs: `{"CPU": 1, "GPU": 1}` for each worker."""


def sweep(trials: int, folder: Path, steps: int = 200) -> tune.ResultGrid:
    """Run so many trials.

    Args:
        trials: how many.
        folder: of the trials' runs, and of what Tune keeps.
        steps: of every block of a trial.
    """
    folder = folder.absolute()

    def trial(settings: dict[str, Any]) -> dict[str, Any]:
        config = noprop_dist.RunConfig.preset("digits", **settings)
        result = noprop_dist.train(config, folder / f"run-{tune.get_context().get_trial_id()}")
        return {"accuracy": result.metrics["validation_accuracy"], "run": result.path}

    space = {
        "blocks": {"count": tune.choice([3, 5, 10])},
        "objective": {"eta": tune.choice([0.1, 1.0])},
        "training": {"learning_rate": tune.loguniform(1e-4, 1e-2), "max_steps": steps},
        "metrics": {"port": None},
    }
    tuner = tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([{"CPU": 0}, *[{"CPU": 1}] * CORES])),
        param_space=space,
        tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=trials),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder)),
    )
    return tuner.fit()


if __name__ == "__main__":
    best = sweep(int(sys.argv[1]) if len(sys.argv) > 1 else 4, Path("runs/tune")).get_best_result()
    print(f"validation accuracy {best.metrics['accuracy']:.2%} with {best.config}; the run is in {best.metrics['run']}")
