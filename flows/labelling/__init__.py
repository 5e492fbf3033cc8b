"""From unlabelled images to a label file: bootstrap, plan, infer, filter. The plan's key decides what is redone."""
