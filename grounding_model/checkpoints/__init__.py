"""Weights in and out: ours, mmdetection's, Hugging Face's; a checkpoint loads whole or not at all."""
