"""A student's ONNX file with the interface of grounding_model.detector, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.io.errors import InputError
from formats.record import Instance, Record
from grounding_model.inputs.image import pixels_of
from grounding_model.inputs.predict import Failure, ImageSource, PredictSettings
from grounding_model.inputs.prompt import Prompt
from grounding_model.inputs.read_ahead import READERS, in_batches, read_ahead
from grounding_model.students.detector import ClosedSetDetector
from grounding_model.students.export import EXTRA

INPUT, OUTPUTS = "images", ("labels", "boxes", "scores")  # of the files that export_onnx writes
NAMES_KEY = "names"  # of the metadata: the classes, as JSON
EXPECTED = "expected the student.onnx that `groundhog distill` wrote"


class OnnxSession:
    """Runs an ONNX file in ONNX Runtime on the CPU. threads: per image; 0: one per core."""

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        """Raises InputError where ONNX Runtime is missing or cannot read the file, and for a file of another model."""
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("ONNX Runtime", f"is not installed ({error})", EXTRA) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; they are raised too
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a class for each kind of fault, with the runtime's own base classes
            reason = str(error).strip().splitlines()[0]
            raise InputError(path, f"cannot be loaded by ONNX Runtime ({reason})", EXPECTED) from None
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.names = _names_in(path, self.metadata)
        inputs, outputs = (
            [each.name for each in side()] for side in (self._session.get_inputs, self._session.get_outputs)
        )
        if inputs != [INPUT] or tuple(outputs) != OUTPUTS:
            what = f"takes {', '.join(inputs)} and gives {', '.join(outputs)}"
            raise InputError(path, what, f"{EXPECTED}: {INPUT} to {', '.join(OUTPUTS)}")

    def __call__(self, images: Any) -> list[Any]:
        """(B, H, W, 3) uint8 RGB -> labels, boxes, scores; see export_onnx."""
        return self._session.run(None, {INPUT: images})


def _names_in(path: str | Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        names = json.loads(metadata[NAMES_KEY])
    except (KeyError, ValueError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(each, str) for each in names):
        raise InputError(path, "has no names of classes in its metadata", EXPECTED)
    return tuple(names)


class _Loaded(NamedTuple):
    """pixels: (H, W, 3) uint8. label_of: the prompt's label of each of the file's classes that it names."""

    filename: str
    pixels: np.ndarray
    prompt: Prompt
    label_of: Mapping[int, int]


class OnnxDetector(ClosedSetDetector):
    """A student's ONNX file as a detector. It has the classes and the image size that it was exported with.

    It runs one image at a time, since a batch needs images of one size.
    """

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self.names = session.names
        self.provenance: Mapping[str, str] = session.metadata

    def predict_each(
        self, images: Iterable[ImageSource], prompt: Prompt | Iterable[Prompt], **settings: Any
    ) -> Iterator[Record | Failure]:
        """See StudentDetector.predict_each. batch_size, chunk_size and mixed_sizes are ignored.

        Raises InputError for a scale, which the file fixes, and for the scores of all classes, which it does not give.
        """
        chosen = PredictSettings(**settings)
        if chosen.scale is not None:
            raise InputError("scale", "an ONNX file resizes images itself", "expected none, or the student's folder")
        if chosen.return_all_scores:
            what = "an ONNX file has only one score per box"
            raise InputError("return_all_scores", what, "expected the student's folder as weights")
        loaded = read_ahead(self._pairs(images, prompt), _read, self._with_labels, ahead=READERS)
        return in_batches(loaded, 1, lambda batch: partial(self._detect, batch, chosen), ahead=0)

    def _with_labels(self, filename: str, pixels: np.ndarray, prompt: Prompt) -> _Loaded:
        label_of = {known: label for label, classes in enumerate(self.classes_of(prompt)) for known in classes}
        return _Loaded(filename, pixels, prompt, label_of)

    def _detect(self, images: Sequence[_Loaded], settings: PredictSettings) -> list[Record]:
        return [self._record(image, settings) for image in images]

    def _record(self, image: _Loaded, settings: PredictSettings) -> Record:
        outputs = (output[0].tolist() for output in self._session(image.pixels[None]))
        instances = [
            Instance(tuple(box), image.label_of[number], image.prompt.labels[image.label_of[number]], score)
            for number, box, score in zip(*outputs)
            if number in image.label_of and score >= settings.score_threshold
        ]
        height, width = image.pixels.shape[:2]
        return Record(image.filename, height, width, tuple(instances[: settings.max_per_image]))


def _read(image: ImageSource, filename: str) -> np.ndarray:
    return np.ascontiguousarray(pixels_of(image, filename))


def inspect_onnx(path: str | Path) -> str:
    """What a student's ONNX file is and how it was made, one fact per line."""
    session = OnnxSession(path)
    facts = {
        "format": "ONNX file of a student, a closed-set detector",
        "classes": ", ".join(session.names),
        "input": f"{INPUT}: (batch, height, width, 3) bytes, RGB, of any size",
        "outputs": f"{', '.join(OUTPUTS)}: best first, boxes as x1, y1, x2, y2 in pixels",
        "megabytes": f"{Path(path).stat().st_size / 1e6:.1f}",
        **{key.replace("_", " "): value for key, value in session.metadata.items() if key != NAMES_KEY},
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
