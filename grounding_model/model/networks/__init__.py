"""Convolutional networks by timm's names, so that the embedded models start without timm, which takes two seconds."""
