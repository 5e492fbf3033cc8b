"""Estimates how good labels are from a reviewed sample, with intervals, and finds labels that are probably wrong."""
