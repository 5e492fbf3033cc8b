"""The loop: label, filter, train, evaluate, gate, and again. Its state on disk, its report and its configuration."""
