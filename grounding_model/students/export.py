"""A student as one ONNX file that needs nothing beside it: stored images in, boxes of classes out."""

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

OPSET = 18  # the first whose Resize is antialiased, as ours is
EXTRA = "expected `pip install groundhog[onnx]`"


def export_onnx(path: str | Path, student: Student, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the student as ONNX, whole or not at all.

    Input `images`: (B, H, W, 3) uint8 RGB, any B, H and W. Outputs, best first: `labels` (B, K) int64, `boxes`
    (B, K, 4) float32 x1, y1, x2, y2 in pixels of the images, `scores` (B, K) float32. Resizing, normalisation and the
    choice of the best are inside; the names of the labels are in the file's metadata as JSON, beside `metadata`.
    Raises InputError where the packages for it are missing.
    """
    _check_installed()
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
    """transformers checks shapes at run time by an operation that ONNX does not have; a variable switches it off."""
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


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError("ONNX", f"cannot be written ({error})", EXTRA) from None


class OnnxSession:
    """An ONNX file in ONNX Runtime on the CPU. threads: of one image; 0: as many as there are cores."""

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("ONNX Runtime", f"is not installed ({error})", EXTRA) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: Any) -> list[Any]:
        """(B, H, W, 3) uint8 RGB -> labels, boxes, scores, as export_onnx has them."""
        return self._session.run(None, {"images": images})
