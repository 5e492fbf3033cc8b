"""What every benchmark prints and keeps: tables, and the last ratios beside the new ones. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))


def beside(new: float, last: float | None) -> str:
    return f"{new:.2f}" if last is None else f"{new:.2f} (last: {last:.2f})"


def arguments(document: str | None, script: str, rounds: int) -> argparse.ArgumentParser:
    """The options common to all benchmarks. document: docstring of the script. script: its __file__."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="number of measurements of each model (default %(default)s)"
    )
    kept = Path(script).with_suffix(".json").name
    parser.add_argument("--keep", action="store_true", help=f"write the new ratios into {kept}")
    return parser


def last_ratios(script: str) -> dict[str, float]:
    kept = Path(script).with_suffix(".json")
    return json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}


def finish(script: str, new: Mapping[str, float], keep: bool) -> None:
    """Prints the load of the machine; stores the new ratios beside the script if `keep` is set."""
    print(f"load of the machine meanwhile: {os.getloadavg()[1]:.1f} processes on {os.cpu_count()} cores")
    if keep:
        rounded = {name: round(value, 3) for name, value in new.items()}
        Path(script).with_suffix(".json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
