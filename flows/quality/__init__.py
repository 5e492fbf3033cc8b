"""Experiments that compare filter policies against held-back truth. Nothing in the loop depends on them."""
