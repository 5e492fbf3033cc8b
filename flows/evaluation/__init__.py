"""From a labelled data set and weights to scores: benchmarks, predictions, metrics, reports and comparisons."""
