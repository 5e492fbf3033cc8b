"""One metric a module; grounding_model.evaluate offers them all. None of them loads torch."""
