"""Convolutional networks under timm's names: embedded models then need no timm, which takes two seconds to import."""
