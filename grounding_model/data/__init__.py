"""Training data: where records come from, and how one becomes a sample with a caption and augmented pixels."""
