"""The model card of a student, in the format of model hubs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from formats.io.files import write_whole
from formats.io.markdown import markdown_text
from formats.io.plurals import first_of
from grounding_model.students.network import Student

CARD = """\
---
library_name: transformers
pipeline_tag: object-detection
{licence}---

# A detector of {some}

A closed-set detector, trained with Groundhog on the labels listed below.

Classes, in the order of their labels: {names}. Images are resized to {side} x {side} pixels.
{duplicates}
{table}

AP is COCO's, on labelled images that were not used in training. Time is the median for single images on the CPU of the
training machine.

## Provenance

{facts}
"""


DUPLICATES = """
Of two boxes of a class with an IoU above {nms_iou:g}, only the one with the higher score counts. The ONNX file sets the
score of the other one to 0. With transformers, remove it by
`torchvision.ops.batched_nms(boxes, scores, labels, {nms_iou:g})`.
"""


def write_card(path: Path, student: Student, facts: Mapping[str, str], table: str) -> None:
    """Writes the card of a student. facts: name -> value, for the section on provenance. table: Markdown."""
    names = [markdown_text(name) for name in student.names]
    licence = f"license: {facts['teacher_licence'].lower()}\n" if "teacher_licence" in facts else ""
    rows = "\n".join(f"- {name.replace('_', ' ')}: `{value}`" for name, value in facts.items())
    some = first_of(names, 5)
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
