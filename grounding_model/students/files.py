"""Students on disk: a folder that AutoModelForObjectDetection of transformers loads, plus a record of the training.

config.json, model.safetensors   as transformers writes them, with the classes' names
preprocessor_config.json         size and normalisation, for AutoImageProcessor
student.json                     how the weights were made
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from formats.io.errors import InputError
from formats.io.files import load_json, write_json, write_whole_folder
from grounding_model.checkpoints.locations import HUB_PREFIX
from grounding_model.students.config import MODEL_TYPES, is_student
from grounding_model.students.network import Student

if TYPE_CHECKING:
    from transformers import RTDetrImageProcessor

PROVENANCE_FILE = "student.json"
PROCESSOR_FILE = "preprocessor_config.json"
LEVELS = 255.0  # maximum value of a pixel
NMS_KEY = "nms_iou"  # key in config.json; transformers preserves keys that it does not know
CLASS_TENSORS = ("class_embed", "enc_score_head")  # parts of the names of tensors with one row per class


def load_student(source: str | Path, names: Sequence[str] | None = None, image_size: int | None = None) -> Student:
    """Loads a student from a folder or, if there is no such folder, from a repository of the Hugging Face hub.

    names: classes to train instead of the stored ones; weights of classes with the same name are kept, others are
    initialised. image_size: None: that of the folder. Raises InputError when the folder is not a student or cannot be
    read.
    """
    from transformers import AutoModelForObjectDetection

    from grounding_model.checkpoints.hub import download

    folder = Path(source) if Path(source).is_dir() else download(str(source).removeprefix(HUB_PREFIX))
    if not is_student(folder):
        expected = f"expected a folder of transformers with {' or '.join(MODEL_TYPES[:2])}"
        raise InputError(source, "is not a closed-set detector", expected)
    try:
        with _quiet():
            detector = AutoModelForObjectDetection.from_pretrained(
                folder,
                local_files_only=True,
                dtype=torch.float32,
                trust_remote_code=False,  # otherwise the auto_map of a folder could run its Python code after a "y"
            )
    except Exception as error:  # transformers raises nearly anything for a broken folder
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            folder, f"cannot be loaded ({reason})", "expected a complete folder, as transformers writes it"
        ) from None
    processor = _processor(folder)
    if names is not None:
        detector = _for_classes(detector, names)
    return Student(
        detector,
        _names_of(detector.config),
        image_size or int(processor["size"]["height"]),
        [LEVELS * value for value in processor["image_mean"]] if processor["do_normalize"] else [0.0] * 3,
        [LEVELS * value for value in processor["image_std"]] if processor["do_normalize"] else [LEVELS] * 3,
        _provenance(folder),
        getattr(detector.config, NMS_KEY, None),
    ).eval()


def inspect_student(folder: str | Path) -> str:
    """What a student is and how it was made, one fact per line."""
    student = load_student(folder)
    millions = sum(tensor.numel() for tensor in student.detector.parameters()) / 1e6
    kind = student.detector.config.model_type
    facts = {
        "format": f"student, a closed-set detector of transformers ({kind})",
        "classes": ", ".join(student.names),
        "images": f"resized to {student.image_size} x {student.image_size} pixels",
        "parameters": f"{millions:.1f} million",
        **{key.replace("_", " "): value for key, value in student.provenance.items()},
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def save_student(folder: str | Path, student: Student, provenance: Mapping[str, str], half: bool = False) -> None:
    """Writes the folder atomically, replacing the one of an earlier training.

    half: store the weights as float16, at half the size.
    """
    folder = Path(folder)
    if is_student(folder):
        shutil.rmtree(folder)
    with write_whole_folder(folder) as target, _quiet():
        tensors = {
            name: value.half() if half and value.is_floating_point() else value
            for name, value in student.detector.state_dict().items()
        }
        setattr(student.detector.config, NMS_KEY, student.nms_iou)
        student.detector.save_pretrained(target, state_dict=tensors)
        _processor_of(student).save_pretrained(target)
        write_json(target / PROVENANCE_FILE, dict(provenance), ensure_ascii=False)


def _names_of(config: Any) -> list[str]:
    return [config.id2label[label] for label in range(config.num_labels)]


def _for_classes(detector: Any, names: Sequence[str]) -> Any:
    """Adapts a detector to other classes. Weight rows of classes with the same name are kept.

    If a table has one row more than there are classes, the last row stands for "no class".
    """
    before = [name.casefold() for name in _names_of(detector.config)]
    kept = [(label, before.index(name.casefold())) for label, name in enumerate(names) if name.casefold() in before]
    config = copy.deepcopy(detector.config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in enumerate(names)}
    other = type(detector)(config)
    old = detector.state_dict()
    for name, tensor in other.state_dict().items():
        if not any(part in name for part in CLASS_TENSORS):
            tensor.copy_(old[name])
            continue
        for row, source in [*kept, (-1, -1)] if len(tensor) == len(names) + 1 else kept:
            tensor[row] = old[name][source]
    return other


def _processor_of(student: Student) -> RTDetrImageProcessor:
    from transformers import RTDetrImageProcessor

    side = student.image_size
    return RTDetrImageProcessor(
        size={"height": side, "width": side},
        do_normalize=True,
        image_mean=[value / LEVELS for value in student.mean],
        image_std=[value / LEVELS for value in student.std],
    )


def _processor(folder: Path) -> Mapping[str, Any]:
    """The relevant settings of the image processor; missing ones have the defaults of transformers."""
    default = {"size": {"height": 640, "width": 640}, "do_normalize": False, "image_mean": None, "image_std": None}
    if not (folder / PROCESSOR_FILE).is_file():
        return default
    settings = load_json(folder / PROCESSOR_FILE, "expected JSON as transformers writes it")
    merged = default | {key: value for key, value in settings.items() if key in default}
    if not isinstance(merged["size"], dict) or merged["size"].get("height") != merged["size"].get("width"):
        raise InputError(folder / PROCESSOR_FILE, f"size is {merged['size']}", "expected equal height and width")
    return merged


def _provenance(folder: Path) -> dict[str, str]:
    path = folder / PROVENANCE_FILE
    return load_json(path, "expected the JSON that `groundhog distill` wrote") if path.is_file() else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the progress bars and messages of transformers."""
    from transformers.utils import logging as transformers_logging

    before, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)
        if bars:
            transformers_logging.enable_progress_bar()
