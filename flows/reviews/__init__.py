"""Corrections that a person made in another program, taken over from its export."""
