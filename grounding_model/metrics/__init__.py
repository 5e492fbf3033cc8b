"""Evaluation metrics, one per module, all exported by grounding_model.metrics.evaluate. None imports torch."""
