"""Evaluation of weights on a labelled data set: benchmarks, predictions, metrics, reports and comparisons."""
