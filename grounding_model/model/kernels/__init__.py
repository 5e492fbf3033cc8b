"""Layers of the network as single GPU kernels; a plain layer in the room above defines what each computes."""
