"""The commands of `groundhog`: a module for each thing a user does, with `add` and `run`; `command.py` lists them."""
