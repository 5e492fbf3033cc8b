"""Labels images: bootstrap, plan, infer, filter. Work is redone only if the key of the plan changes."""
