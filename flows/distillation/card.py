"""The model card of a student, as model hubs show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from formats.io.files import write_whole

CARD = """\
---
library_name: transformers
pipeline_tag: object-detection
{licence}---

# A detector of {some}

A closed-set detector, trained by Groundhog on the labels that are named below.

Classes, in the order of their labels: {names}. Images are resized to {side} x {side} pixels.

{table}

AP is COCO's, on labelled images that no training saw. Time is the median of one image at a time on the CPU of the
machine that trained.

## Where it comes from

{facts}
"""


def write_card(path: Path, names: Sequence[str], side: int, facts: Mapping[str, str], table: str) -> None:
    """Writes the card of a student of these classes. facts: by name. table: Markdown."""
    licence = f"license: {facts['teacher_licence'].lower()}\n" if "teacher_licence" in facts else ""
    rows = "\n".join(f"- {name.replace('_', ' ')}: `{value}`" for name, value in facts.items())
    some = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
    text = CARD.format(licence=licence, some=some, names=", ".join(names), side=side, table=table, facts=rows)
    with write_whole(path) as stream:
        stream.write(text)
