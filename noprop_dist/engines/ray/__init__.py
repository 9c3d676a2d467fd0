"""The Ray engine: carries out what `engines.core` decides. Only this package and `baseline` import ray."""
