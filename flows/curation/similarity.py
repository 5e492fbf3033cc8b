"""Selection by feature vectors: a diverse set that covers all images, or the images most similar to an example.

N images, D dimensions of a feature
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def select_diverse(features: np.ndarray, count: int, start: Sequence[int] = ()) -> list[int]:
    """Selects `count` of N images such that no image is far from a selected one; in the order of selection.

    features: (N, D). start: images that are already selected, such as labelled ones; they are not returned. Without a
    start, the first one is the image nearest to the mean.

    Farthest-first traversal: each step takes the image farthest from all selected ones; the result is within a factor
    of two of the optimal cover (Gonzalez, 1985; k-center greedy in Sener and Savarese, arXiv 1708.00489).
    Raises ValueError if fewer than `count` images are left.
    """
    if count > len(features) - len(set(start)):
        raise ValueError(f"{count} images of {len(features) - len(set(start))} cannot be selected")
    features = np.asarray(features, np.float32)
    chosen: list[int] = []
    distance = np.full(len(features), np.inf, np.float32)
    for index in start:
        distance = np.minimum(distance, _distances(features, index))
    while len(chosen) < count:
        if np.isinf(distance).all():
            centre = features.mean(axis=0)
            index = int(((features - centre) ** 2).sum(axis=1).argmin())
        else:
            index = int(distance.argmax())
        chosen.append(index)
        distance = np.minimum(distance, _distances(features, index))
        distance[index] = -1
        distance[list(start)] = -1
    return chosen


def most_similar(features: np.ndarray, example: np.ndarray, count: int) -> list[int]:
    """The `count` images nearest to an example, nearest first. features: (N, D); example: (D,)."""
    distance = ((np.asarray(features, np.float32) - np.asarray(example, np.float32)) ** 2).sum(axis=1)
    return [int(index) for index in np.argsort(distance, kind="stable")[:count]]


def _distances(features: np.ndarray, index: int) -> np.ndarray:
    return ((features - features[index]) ** 2).sum(axis=1)
