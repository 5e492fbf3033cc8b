"""Layers of the network as single GPU kernels. Each has a plain twin in the room above that says what it computes."""
