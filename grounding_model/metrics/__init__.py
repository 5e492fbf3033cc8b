"""A module for each metric; grounding_model.metrics.evaluate exports all of them. None loads torch."""
