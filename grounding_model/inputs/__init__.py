"""From words and pixels to tensors: prompts, tokens, images."""
