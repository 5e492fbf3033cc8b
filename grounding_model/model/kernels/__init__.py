"""Layers of the network as single GPU kernels. The plain layers in the parent folder define what each computes."""
