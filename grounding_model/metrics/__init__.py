"""One metric a module; grounding_model.metrics.evaluate offers them all. None of them loads torch."""
