"""Training as a stage: mixtures of labels, one training done once, and torchrun for several processes."""
