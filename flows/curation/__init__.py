"""Duplicates, leakage, diverse selection, and publishing a folder that others can use."""
