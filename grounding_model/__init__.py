"""MM-Grounding-DINO: model, training, evaluation. Names are loaded when asked for, so that importing costs nothing."""
