"""Another look at the same images: a detector that sees them mirrored and answers in pixels of the stored image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.labelling.settings import View
from formats.io.errors import InputError
from formats.record import Box, Record

if TYPE_CHECKING:
    import numpy as np

    from grounding_model.inputs.prompt import Prompt


def shown_as(view: View, detector: Any) -> Any:
    """The detector, which is shown every image in this view and answers in pixels of the stored image.

    Its scale is the detector's own business: predict_each takes it.
    """
    return Mirrored(detector) if view.mirrored else detector


class Mirrored:
    """What labelling asks of a detector, given the mirror image of every picture.

    A caption or name that says left or right would be false of a mirror image: its picture is shown as it is.
    """

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def predict_each(self, images: Sequence[Path], prompt: Prompt | Sequence[Prompt], **settings: Any) -> Iterator[Any]:
        """As grounding_model.Detector.predict_each: in order, a record an image, or a failure with its `error`."""
        from grounding_model.data.augment import says_left_or_right
        from grounding_model.inputs.prompt import Prompt

        prompts = repeat(prompt) if isinstance(prompt, Prompt) else prompt
        turned = [not says_left_or_right(" ".join((asked.text, *asked.labels))) for _, asked in zip(images, prompts)]
        seen = (_mirror_image(path) if turn else path for path, turn in zip(images, turned))
        for outcome, turn in zip(self._detector.predict_each(seen, prompt, **settings), turned):
            yield turned_back(outcome) if turn and isinstance(outcome, Record) else outcome


def turned_back(record: Record) -> Record:
    """The boxes of a mirror image as they lie in the image itself."""

    def box_of(box: Box) -> Box:
        x1, y1, x2, y2 = box
        return record.width - x2, y1, record.width - x1, y2

    instances = record.instances and tuple(replace(each, box=box_of(each.box)) for each in record.instances)
    regions = record.regions and tuple(replace(each, boxes=tuple(map(box_of, each.boxes))) for each in record.regions)
    return replace(record, instances=instances, regions=regions)


def _mirror_image(path: Path) -> np.ndarray | Path:
    """(H, W, 3); the path itself where there is no image, so that the detector says so as it always does."""
    from grounding_model.inputs.image import read_image

    try:
        return read_image(path)[:, ::-1].copy()
    except InputError:
        return path
