"""Exports a student as one self-contained ONNX file: its input is images, its output boxes with classes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.record import Instance, Record
from grounding_model.inputs.image import check_image, read_image
from grounding_model.inputs.predict import Failure, ImageSource, PredictSettings
from grounding_model.inputs.prompt import Prompt
from grounding_model.students.detector import classes_of
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


class OnnxSession:
    """Runs an ONNX file in ONNX Runtime on the CPU. threads: per image; 0: one per core."""

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
        """(B, H, W, 3) uint8 RGB -> labels, boxes, scores; see export_onnx."""
        return self._session.run(None, {"images": images})


class OnnxDetector:
    """A student's ONNX file with the interface of a detector, so that its AP can be measured.

    It runs one image at a time, since a batch needs images of one size.
    """

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self.names: tuple[str, ...] = tuple(json.loads(session.metadata["names"]))

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """See StudentDetector.predict_each; only score_threshold and max_per_image have an effect."""
        chosen = PredictSettings(**settings)
        pairs = ((image, prompt) for image in images) if isinstance(prompt, Prompt) else zip(images, prompt)
        for image, of_image in pairs:
            filename = "image" if isinstance(image, np.ndarray) else str(image)
            try:
                pixels = check_image(image, filename) if isinstance(image, np.ndarray) else read_image(image)
                yield self._record(filename, np.ascontiguousarray(pixels), of_image, chosen)
            except InputError as error:
                yield Failure(filename, error)

    def _record(self, filename: str, pixels: np.ndarray, prompt: Prompt, settings: PredictSettings) -> Record:
        label_of = {known: label for label, classes in enumerate(classes_of(self.names, prompt)) for known in classes}
        outputs = (output[0].tolist() for output in self._session(pixels[None]))
        instances = [
            Instance(tuple(box), label_of[number], prompt.labels[label_of[number]], score)
            for number, box, score in zip(*outputs)
            if number in label_of and score >= settings.score_threshold
        ]
        height, width = pixels.shape[:2]
        return Record(filename, height, width, tuple(instances[: settings.max_per_image]))
