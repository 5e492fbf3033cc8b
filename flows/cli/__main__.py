"""`python -m flows.cli` is the `groundhog` command."""

from __future__ import annotations

import sys

from flows.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
