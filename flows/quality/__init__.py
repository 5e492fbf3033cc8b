"""Experiments that compare filter policies on data with known labels. Nothing in the loop depends on them."""
