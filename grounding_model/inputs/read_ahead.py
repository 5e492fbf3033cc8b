"""Reads pictures with their prompts in threads, ahead of the model, and groups them into batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.record import Record
from grounding_model.inputs.image import check_image, read_resized, resize_for_test
from grounding_model.inputs.image_batch import normalise
from grounding_model.inputs.predict import (
    Failure,
    ImageSource,
    as_source,
)
from grounding_model.inputs.prompt import Prompt

# Threads that decode and resize images: a GPU processes more than 100 photos per second.
READERS = max(4, min(16, os.cpu_count() or 1))

PictureT = TypeVar("PictureT")
PromptT = TypeVar("PromptT")
LoadedT = TypeVar("LoadedT")


class Chunk(NamedTuple):
    """One caption of a prompt.

    tokens: the token columns of each entity; empty for an expression. labels: the label of each entity.
    """

    caption: str
    tokens: list[list[int]]
    labels: tuple[int, ...]


class ReadyPrompt(NamedTuple):
    prompt: Prompt
    chunks: list[Chunk]


class Picture(NamedTuple):
    """A decoded and resized image.

    height, width: size of the stored image in pixels. pixels: (3, h, w) RGB at the model's input size, as normalised
    float32; for a GPU as uint8, which is copied to the device in a quarter of the time.
    """

    height: int
    width: int
    pixels: Tensor


class LoadedImage(NamedTuple):
    """An image together with its prompt. Consecutive images may share one Picture."""

    filename: str
    picture: Picture
    prompt: ReadyPrompt


def read_ahead(
    pairs: Iterable[tuple[ImageSource, PromptT]],
    read: Callable[[ImageSource, str], PictureT],
    join: Callable[[str, PictureT, PromptT], LoadedT],
    ahead: int,
) -> Iterator[LoadedT | Failure]:
    """Loads images in order, at most `ahead` in advance. Consecutive equal paths share one decoded image.

    join: makes a file name, its picture and its prompt into what the model takes. An InputError of read or join becomes
    a Failure.
    """
    waiting: deque[Future[LoadedT | Failure]] = deque()
    last: str | None = None
    with ThreadPoolExecutor(READERS, thread_name_prefix="read-image") as readers:
        try:
            for index, (source, prompt) in enumerate(pairs):
                image = as_source(source)
                filename = f"image-{index}" if isinstance(image, np.ndarray) else str(image)
                if isinstance(image, np.ndarray) or filename != last:  # an array may have changed since
                    picture = readers.submit(read, image, filename)  # before _load, which waits for it
                last = filename
                waiting.append(readers.submit(_load, filename, picture, prompt, join))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_for_model(image: ImageSource, filename: str, scale: tuple[int, int], for_gpu: bool) -> Picture:
    """The part of the preprocessing that needs no model and can therefore run in threads."""
    if not isinstance(image, np.ndarray):
        resized, height, width = read_resized(image, scale)
    else:
        height, width = check_image(image, filename).shape[:2]
        resized = resize_for_test(image, scale)
    if not for_gpu:
        return Picture(height, width, torch.from_numpy(normalise(resized)))
    return Picture(height, width, torch.from_numpy(resized.transpose(2, 0, 1).copy()).pin_memory())


def _load(
    filename: str, picture: Future[PictureT], prompt: PromptT, join: Callable[[str, PictureT, PromptT], LoadedT]
) -> LoadedT | Failure:
    try:
        return join(filename, picture.result(), prompt)
    except InputError as error:
        return Failure(filename, error)


def in_batches(
    loaded: Iterable[LoadedT | Failure],
    batch_size: int,
    label: Callable[[Sequence[LoadedT]], Callable[[], list[Record]]],
    ahead: int,
) -> Iterator[Record | Failure]:
    """Yields records and failures in order. ahead: number of batches started before waiting for the oldest."""
    begun: deque[Callable[[], Iterator[Record | Failure]]] = deque()
    for batch in _batches(loaded, batch_size):
        begun.append(partial(_outcomes, batch, label([image for image in batch if not isinstance(image, Failure)])))
        if len(begun) > ahead:
            yield from begun.popleft()()
    while begun:
        yield from begun.popleft()()


def _batches(loaded: Iterable[LoadedT | Failure], size: int) -> Iterator[list[LoadedT | Failure]]:
    """Groups of `size` images each, together with the failures between them."""
    batch: list[LoadedT | Failure] = []
    images = 0
    for outcome in loaded:
        batch.append(outcome)
        images += not isinstance(outcome, Failure)
        if images == size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _outcomes(batch: Sequence[LoadedT | Failure], finish: Callable[[], list[Record]]) -> Iterator[Record | Failure]:
    records = iter(finish())
    for outcome in batch:
        yield outcome if isinstance(outcome, Failure) else next(records)
