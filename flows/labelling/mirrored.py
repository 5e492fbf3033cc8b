"""Runs a detector on flipped or transposed images, and maps its boxes back to the stored images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from flows.labelling.settings import View
from formats.io.errors import InputError
from formats.record import Box, Record
from grounding_model.data.augment import says_left_or_right
from grounding_model.inputs.image import read_image
from grounding_model.inputs.prompt import Prompt

_ABOVE_OR_BELOW = re.compile(r"\b(above|below|under|beneath|over|top|bottom|upper|lower|upside|up|down)", re.IGNORECASE)


def shown_as(view: View, detector: Any) -> Any:
    """A detector that processes every image in this view and returns boxes in pixels of the stored image.

    The scale of the view is not handled here: it is an argument of predict_each.
    """
    return Flipped(detector, view) if view.mirrored or view.upside_down or view.transposed else detector


class Flipped:
    """A detector that is shown every image mirrored, upside down, transposed, or a combination of these.

    With "left" or "right" in the prompt, an image is not mirrored; with "above" or "below", it is not turned upside
    down; with either, it is not transposed, since the prompt would no longer be true.
    """

    def __init__(self, detector: Any, view: View) -> None:
        self._detector, self._view = detector, view

    def predict_each(self, images: Sequence[Path], prompt: Prompt | Sequence[Prompt], **settings: Any) -> Iterator[Any]:
        """Like grounding_model.Detector.predict_each: yields a record or failure (with `error`) per image, in order."""
        prompts = repeat(prompt) if isinstance(prompt, Prompt) else prompt
        views = [self._view_for(" ".join((each.text, *each.labels))) for _, each in zip(images, prompts)]
        seen = (_flipped(path, view) for path, view in zip(images, views))
        for outcome, view in zip(self._detector.predict_each(seen, prompt, **settings), views):
            yield flipped_back(outcome, view) if isinstance(outcome, Record) else outcome

    def _view_for(self, text: str) -> View:
        across, along = says_left_or_right(text), bool(_ABOVE_OR_BELOW.search(text))
        return View(
            mirrored=self._view.mirrored and not across,
            upside_down=self._view.upside_down and not along,
            transposed=self._view.transposed and not (across or along),
        )


def flipped_back(record: Record, view: View) -> Record:
    """A record predicted in this view, mapped back to the stored image."""
    height, width = record.height, record.width
    if view.transposed:
        height, width = width, height

    def box_of(box: Box) -> Box:
        x1, y1, x2, y2 = box
        if view.transposed:
            x1, y1, x2, y2 = y1, x1, y2, x2
        if view.mirrored:
            x1, x2 = width - x2, width - x1
        if view.upside_down:
            y1, y2 = height - y2, height - y1
        return x1, y1, x2, y2

    instances = record.instances and tuple(replace(each, box=box_of(each.box)) for each in record.instances)
    regions = record.regions and tuple(replace(each, boxes=tuple(map(box_of, each.boxes))) for each in record.regions)
    return replace(record, height=height, width=width, instances=instances, regions=regions)


def _flipped(path: Path, view: View) -> np.ndarray | Path:
    """(H, W, 3) in this view; for an unreadable image its path, so that the detector reports the usual error."""
    if not (view.mirrored or view.upside_down or view.transposed):
        return path
    try:
        image = read_image(path)[:: -1 if view.upside_down else 1, :: -1 if view.mirrored else 1]
    except InputError:
        return path
    return (image.transpose(1, 0, 2) if view.transposed else image).copy()
