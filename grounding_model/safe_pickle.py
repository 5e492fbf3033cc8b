"""The former place of `checkpoints.safe_pickle`, kept for scripts that import from it."""

from grounding_model.checkpoints.safe_pickle import read_pickled_checkpoint

__all__ = ["read_pickled_checkpoint"]
