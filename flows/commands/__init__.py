"""The `groundhog` commands, a module a family: `add(commands)` puts their parsers among the others."""
