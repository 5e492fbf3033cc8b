"""The training loop, its losses, optimizer, state and log."""
