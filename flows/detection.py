"""`groundhog detect`: pictures in, boxes drawn on them and written as JSON."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from formats.files import write_whole
from formats.images import list_images
from formats.problems import InputError
from formats.record import Record

if TYPE_CHECKING:
    from grounding_model.prompt import Prompt


@dataclass(frozen=True)
class DetectOptions:
    """As the command line has them; see `groundhog detect --help`."""

    weights: str
    text_encoder: str | None = None
    score_threshold: float = 0.3
    max_per_image: int = 300
    scale: tuple[int, int] = (800, 1333)
    chunk_size: int | None = None
    batch_size: int = 1
    device: str = "auto"
    palette: str = "category"
    out_dir: Path = Path("outputs")
    save_vis: bool = True
    save_pred: bool = True


class DetectResult(NamedTuple):
    """images: that were labelled. boxes: found in them. failures: image -> why not."""

    images: int
    boxes: int
    failures: dict[str, str]


def detect(sources: Sequence[str], prompt: Prompt, options: DetectOptions) -> DetectResult:
    """Labels the images of `sources` (files, folders, patterns); writes out_dir/vis/NAME and out_dir/preds/STEM.json.

    Images of a folder keep their folders below out_dir. A bad image is a failure, the rest goes on.
    """
    from tqdm import tqdm

    from grounding_model.detector import load_detector

    images = list(find_images(sources))
    detector = load_detector(options.weights, options.text_encoder, options.device)
    outcomes = detector.predict_each(
        [path for path, _ in images],
        prompt,
        score_threshold=options.score_threshold,
        max_per_image=options.max_per_image,
        scale=options.scale,
        batch_size=options.batch_size,
        chunk_size=options.chunk_size,
    )
    boxes, failures = 0, {}
    for outcome, (path, name) in tqdm(
        zip(outcomes, images, strict=True), total=len(images), unit="image", disable=None
    ):
        if not isinstance(outcome, Record):
            failures[str(path)] = str(outcome.error)
            continue
        prediction = as_prediction(outcome)
        boxes += len(prediction["bboxes"])
        if options.save_pred:
            with write_whole(options.out_dir / "preds" / Path(name).with_suffix(".json")) as file:
                json.dump(prediction, file, ensure_ascii=False)
        if options.save_vis:
            _draw(path, outcome, options.out_dir / "vis" / name, options.palette)
    return DetectResult(len(images) - len(failures), boxes, failures)


def find_images(sources: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Files, folders and patterns -> each image with the name that its outputs get, no name twice.

    Raises InputError for what does not exist and for two images that would write the same file.
    """
    owners: dict[str, Path] = {}
    for path, name in _listed(sources):
        key = str(Path(name).with_suffix(""))
        if key in owners:
            if owners[key] == path:
                continue
            raise InputError(path, f"its outputs would overwrite those of {owners[key]}", "label them in two runs")
        owners[key] = path
        yield path, name


def as_prediction(record: Record) -> dict[str, list]:
    """{"labels", "label_names", "scores", "bboxes"} of a record, best first."""
    found = [(instance.score, instance.label, instance.category, instance.box) for instance in record.instances or ()]
    for label, region in enumerate(record.regions or ()):
        name = " / ".join(region.phrase)
        found += [(score, label, name, box) for box, score in zip(region.boxes, region.scores)]
    found.sort(key=lambda entry: -(entry[0] or 0.0))
    return {
        "labels": [label for _, label, _, _ in found],
        "label_names": [name for _, _, name, _ in found],
        "scores": [score for score, _, _, _ in found],
        "bboxes": [list(box) for _, _, _, box in found],
    }


def _listed(sources: Sequence[str]) -> Iterator[tuple[Path, str]]:
    for source in sources:
        path = Path(source)
        if path.is_dir():
            names = list_images(path)
            if not names:
                raise InputError(path, "no images in this folder", "want .jpg, .png or other image files")
            yield from ((path / name, name) for name in names)
        elif path.exists():
            yield path, path.name
        else:
            matches = sorted(glob.glob(source, recursive=True))
            if not matches:
                raise InputError(source, "no such file, folder or pattern", "want images")
            yield from ((Path(match), Path(match).name) for match in matches if Path(match).is_file())


def _draw(path: Path, record: Record, target: Path, palette: str) -> None:
    import numpy as np
    from PIL import Image

    from browse.draw import draw_record
    from grounding_model.image import read_image

    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(draw_record(read_image(path), record, palette))).save(target)
