"""Exports a student as one self-contained ONNX file: its input is images, its output boxes with classes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from formats.io.errors import InputError
from formats.io.files import write_whole
from grounding_model.students.network import Student

OPSET = 18  # the first with an antialiased Resize, which the student uses
EXTRA = "pip install 'groundhog[onnx]'"


def export_onnx(path: str | Path, student: Student, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the student as an ONNX file, atomically.

    Input `images`: (B, H, W, 3) uint8 RGB, any B, H and W. Outputs, best first: `labels` (B, K) int64, `boxes`
    (B, K, 4) float32 x1, y1, x2, y2 in pixels of the images, `scores` (B, K) float32. Resizing, normalisation and the
    selection of the best boxes are included; the label names are in the file's metadata as JSON, beside `metadata`.
    Raises InputError when a required package is missing.
    """
    check_onnx_installed()
    program = _traced(student.to("cpu").eval())
    properties = {"names": json.dumps(list(student.names), ensure_ascii=False), **(metadata or {})}
    program.model.metadata_props.update(properties)
    with write_whole(path, "wb") as stream:
        stream.write(program.model_proto.SerializeToString())


def _traced(student: Student) -> Any:
    dynamic = torch.export.Dim.DYNAMIC
    image = torch.zeros(2, student.image_size + 32, student.image_size + 64, 3, dtype=torch.uint8)
    with torch.no_grad(), _exportable():
        student(image[:, :64, :96])  # transformers keeps the anchors of its first call; they must be real ones
        return torch.onnx.export(
            student,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["labels", "boxes", "scores"],
            dynamic_shapes={"images": {0: dynamic, 1: dynamic, 2: dynamic}},
            verbose=False,
        )


@contextmanager
def _exportable() -> Iterator[None]:
    """Switches off run-time shape checks of transformers, which use an operation that ONNX lacks."""
    name = "TRANSFORMERS_DISABLE_TORCH_CHECK"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def check_onnx_installed() -> None:
    """Raises InputError when a package is missing that is needed to write or run ONNX files."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("ONNX", f"export needs a package that is missing ({error})", EXTRA) from None


def onnx_metadata(path: str | Path) -> Mapping[str, str]:
    """The metadata that export_onnx wrote into a file; empty if the file is missing or incomplete."""
    try:
        import onnx

        return {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
    except Exception:  # the reader raises nearly anything for a file that is not protobuf
        return {}
