"""The training stage: mixing data sets, running each training only once, and torchrun for several processes."""
