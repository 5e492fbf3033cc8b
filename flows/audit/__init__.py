"""How good labels are, from a reviewed sample with intervals, and which of them are probably wrong."""
