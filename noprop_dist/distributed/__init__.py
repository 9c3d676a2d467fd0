"""The Ray engine: coordinator, block workers, classifier worker and evaluator. Only this package imports ray."""
