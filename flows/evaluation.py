"""The evaluation stage: a detector over labelled images, judged by COCO AP."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flows.inference import BATCH_SIZE, Predictor
from formats.files import write_whole
from formats.problems import InputError
from formats.record import Record
from formats.toml_config import read_config
from grounding_model.data import GlyphData, OdvgData, open_dataset

if TYPE_CHECKING:
    import numpy as np

    from grounding_model.evaluate import CocoResult


SHOWN_SCORE = 0.3  # a picture of all 300 boxes shows nothing


@dataclass(frozen=True)
class CocoData:
    """Truth in a COCO annotation file."""

    annotations: Path
    image_root: Path
    kind: Literal["coco"] = "coco"


Truth = OdvgData | GlyphData | CocoData


@dataclass(frozen=True)
class EvaluateConfig:
    """A measurement: `groundhog evaluate`. categories: None asks for all of the truth."""

    truth: OdvgData | GlyphData | CocoData
    weights: str = "glyph-tiny"
    text_encoder: Path | None = None
    categories: tuple[str, ...] | None = None
    scale: tuple[int, int] | None = None  # the model's own
    max_per_image: int = 300
    chunk_size: int | None = None
    batch_size: int = BATCH_SIZE
    device: str = "auto"
    out: Path = Path("outputs/evaluation.json")


def evaluate(
    truth: Truth,
    detector: Predictor | str | Path,
    categories: Sequence[str] | None = None,
    *,
    scale: tuple[int, int] | None = None,
    max_per_image: int = 300,
    chunk_size: int | None = None,
    batch_size: int = BATCH_SIZE,
    out: str | Path | None = None,
    show_dir: str | Path | None = None,
) -> CocoResult:
    """COCO AP of a detector that is asked for `categories` (None: all of the truth) on every labelled image.

    detector: or the weights of one.
    out: where the numbers are written as JSON. show_dir: where predictions are drawn.
    Raises InputError for an image that cannot be read (a truth with holes is none) and for a category that the truth
    does not have.
    """
    from grounding_model.detector import load_detector
    from grounding_model.evaluate import evaluate_coco
    from grounding_model.prompt import Prompt

    detector = load_detector(detector) if isinstance(detector, str | Path) else detector
    known, images = _open(truth)
    names = list(known) if categories is None else list(categories)
    if unknown := [name for name in names if name not in known]:
        raise InputError("categories", f"the truth has no {', '.join(unknown)}", f"want some of {', '.join(known)}")
    truths: list[Record] = []
    drawn: deque[np.ndarray | Path] = deque()  # pictures that are read ahead of their predictions

    def pictures() -> Iterator[np.ndarray | Path]:
        for index, (picture, record) in enumerate(images):
            truths.append(replace(record, filename=f"image-{index}"))
            if show_dir is not None:
                drawn.append(picture)
            yield picture

    outcomes = detector.predict_each(
        pictures(),
        Prompt.categories(names),
        score_threshold=0.0,
        max_per_image=max_per_image,
        scale=scale,
        batch_size=batch_size,
        chunk_size=chunk_size,
        mixed_sizes=False,
    )
    predictions = []
    for index, outcome in enumerate(outcomes):
        if not isinstance(outcome, Record):
            raise outcome.error
        predictions.append(replace(outcome, filename=f"image-{index}"))
        if show_dir is not None:
            _draw(drawn.popleft(), outcome, Path(show_dir) / f"image-{index:05d}.jpg")
    result = evaluate_coco(truths, predictions, names)
    if out is not None:
        with write_whole(out) as file:
            json.dump(result.as_dict() | {"images": len(truths), "categories": names}, file, indent=2)
            file.write("\n")
    return result


def evaluate_config(path: str | Path, overrides: Sequence[str] = (), show_dir: str | Path | None = None) -> str:
    """`groundhog evaluate`: measures as a TOML file says, writes the JSON, gives the table."""
    from grounding_model.detector import load_detector

    config = read_config(path, EvaluateConfig, overrides)
    result = evaluate(
        config.truth,
        load_detector(config.weights, config.text_encoder, config.device),
        config.categories,
        scale=config.scale,
        max_per_image=config.max_per_image,
        chunk_size=config.chunk_size,
        batch_size=config.batch_size,
        out=config.out,
        show_dir=show_dir,
    )
    return f"{result.table()}\nwritten to {config.out}"


def _draw(picture: np.ndarray | Path, record: Record, target: Path) -> None:
    """The boxes worth showing, on their picture."""
    from PIL import Image

    from browse.draw import draw_record
    from grounding_model.image import read_image

    shown = tuple(instance for instance in record.instances or () if (instance.score or 0.0) >= SHOWN_SCORE)
    target.parent.mkdir(parents=True, exist_ok=True)
    pixels = read_image(picture) if isinstance(picture, Path) else picture
    Image.fromarray(draw_record(pixels, replace(record, instances=shown))).save(target)


def _open(truth: Truth) -> tuple[list[str], Iterator[tuple[np.ndarray | Path, Record]]]:
    """Category names, and every image with its record."""
    if isinstance(truth, CocoData):
        from formats.coco import read_coco, read_coco_categories
        from formats.images import safe_join

        names = list(read_coco_categories(truth.annotations))
        return names, (
            (safe_join(truth.image_root, record.filename), record) for record in read_coco(truth.annotations)
        )
    dataset = open_dataset(truth)
    return list(dataset.categories.values()), (dataset.load(index) for index in range(len(dataset)))
