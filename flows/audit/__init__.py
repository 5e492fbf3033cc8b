"""Estimates the quality of labels from a reviewed sample, with intervals, and finds labels that are probably wrong."""
