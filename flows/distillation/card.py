"""The model card of a student, as model hubs show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from formats.io.files import write_whole
from grounding_model.students.network import Student

CARD = """\
---
library_name: transformers
pipeline_tag: object-detection
{licence}---

# A detector of {some}

A closed-set detector, trained by Groundhog on the labels that are named below.

Classes, in the order of their labels: {names}. Images are resized to {side} x {side} pixels.
{duplicates}
{table}

AP is COCO's, on labelled images that no training saw. Time is the median of one image at a time on the CPU of the
machine that trained.

## Where it comes from

{facts}
"""


DUPLICATES = """
Of two boxes of a class whose IoU is above {nms_iou:g}, the better one counts. The ONNX file scores the other one 0; in
what transformers gives, drop it with `torchvision.ops.batched_nms(boxes, scores, labels, {nms_iou:g})`.
"""


def write_card(path: Path, student: Student, facts: Mapping[str, str], table: str) -> None:
    """Writes the card of a student. facts: by name. table: Markdown."""
    names = student.names
    licence = f"license: {facts['teacher_licence'].lower()}\n" if "teacher_licence" in facts else ""
    rows = "\n".join(f"- {name.replace('_', ' ')}: `{value}`" for name, value in facts.items())
    some = ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
    text = CARD.format(
        licence=licence,
        some=some,
        names=", ".join(names),
        side=student.image_size,
        duplicates="" if student.nms_iou is None else DUPLICATES.format(nms_iou=student.nms_iou),
        table=table,
        facts=rows,
    )
    with write_whole(path) as stream:
        stream.write(text)
