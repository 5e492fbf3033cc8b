"""Finds duplicate images: equal files, and images that were re-encoded, resized, mirrored, or cropped from another.

Two images are duplicates if their perceptual hashes differ in few bits, or if enough ORB key points agree on one
rotation, scale and translation (RANSAC). Fewer key points suffice if the images, aligned by these, also correlate. Key
points are only compared for the images of most similar appearance.
docs/curation.md has the measurements behind the limits. N images
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flows.curation.fingerprints import HASH_BITS, Fingerprint

Kind = Literal["equal files", "near duplicate", "mirrored", "cropped"]

MAX_HASH_DISTANCE = 0.25  # share of different bits; at most 0.17 for copies of a photo, at least 0.35 for other pairs
MIN_CONTRAST = 2.0  # standard deviation of grey; the hash of a uniform image is noise
NEIGHBOURS = 10  # images of most similar appearance whose key points are compared
MIN_INLIERS = 24  # agreeing key points; different photos had up to 17
MIN_DOUBTFUL = 8  # agreeing key points that suffice if the aligned images correlate
MIN_CORRELATION = 0.75  # minimum correlation of grey values in that case
MIN_SHARED = 0.25  # minimum overlap in that case, as a share of a thumbnail
SCALE_RANGE = (0.3, 3.3)  # accepted scale between an image and its crop
RATIO = 0.8  # ratio test: largest distance of a match relative to the second best (Lowe, 2004, section 7.1)
MAX_CELLS = 1 << 24  # cells of a distance matrix computed at once: 64 MB in each of three or four arrays


@dataclass(frozen=True)
class DuplicatePair:
    """first, second: indices of images. similarity: share of equal bits, or of agreeing key points."""

    first: int
    second: int
    kind: Kind
    similarity: float


def find_duplicates(images: Sequence[Fingerprint]) -> list[DuplicatePair]:
    """All pairs of duplicates among N images, in the order of the images, each with its most certain kind."""
    pairs: dict[tuple[int, int], DuplicatePair] = {}
    for found in (_equal_files(images), _by_hash(images), _by_key_points(images, pairs)):
        for pair in found:
            pairs.setdefault((pair.first, pair.second), pair)
    return [pairs[key] for key in sorted(pairs)]


def duplicate_groups(count: int, pairs: Sequence[DuplicatePair]) -> list[list[int]]:
    """Connected components of the pairs: groups of at least two indices, in ascending order."""
    rows, columns = [pair.first for pair in pairs], [pair.second for pair in pairs]
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(int(label), []).append(index)
    return [group for group in groups.values() if len(group) > 1]


def _equal_files(images: Sequence[Fingerprint]) -> Iterator[DuplicatePair]:
    first: dict[str, int] = {}
    for index, image in enumerate(images):
        if (other := first.setdefault(image.sha256, index)) != index:
            yield DuplicatePair(other, index, "equal files", 1.0)


def _by_hash(images: Sequence[Fingerprint]) -> Iterator[DuplicatePair]:
    usable = np.array([index for index, image in enumerate(images) if image.contrast >= MIN_CONTRAST], np.int64)
    if not len(usable):
        return
    signs = _signs([images[index].bits for index in usable])
    mirrored = _signs([images[index].mirrored_bits for index in usable])
    block = _rows_at_once(len(usable))
    for start in range(0, len(usable), block):
        rows = signs[start : start + block]
        # The dot product of signs is bits - 2 x distance.
        near = (1 - rows @ signs.T / HASH_BITS) / 2
        turned = (1 - rows @ mirrored.T / HASH_BITS) / 2
        for row, column in zip(*np.nonzero(np.minimum(near, turned) <= MAX_HASH_DISTANCE)):
            if start + row < column:
                first, second = int(usable[start + row]), int(usable[column])
                kind: Kind = "near duplicate" if near[row, column] <= turned[row, column] else "mirrored"
                if images[first].sha256 == images[second].sha256:  # the third of three
                    kind = "equal files"
                distance = min(near[row, column], turned[row, column])
                yield DuplicatePair(first, second, kind, float(1 - distance))


def _rows_at_once(count: int) -> int:
    return max(1, MAX_CELLS // max(1, count))


def _signs(bits: Sequence[np.ndarray]) -> np.ndarray:
    return np.where(np.stack(bits), np.float32(1), np.float32(-1))


def _by_key_points(
    images: Sequence[Fingerprint], known: dict[tuple[int, int], DuplicatePair]
) -> Iterator[DuplicatePair]:
    appearance = np.stack([image.appearance for image in images]) if images else np.zeros((0, 1), np.float32)
    compared: set[tuple[int, int]] = set()
    block = _rows_at_once(len(images))
    for start in range(0, len(images), block):
        similarity = appearance[start : start + block] @ appearance.T
        np.fill_diagonal(similarity[:, start:], -1)
        count = min(NEIGHBOURS, len(images) - 1)
        for row, columns in enumerate(np.argpartition(-similarity, count - 1, axis=1)[:, :count] if count else ()):
            for column in columns:
                pair = min(start + row, int(column)), max(start + row, int(column))
                if pair in compared or pair in known:
                    continue
                compared.add(pair)
                inliers = agreeing_points(images[pair[0]], images[pair[1]])
                if inliers:
                    points = min(len(images[index].points) for index in pair)
                    yield DuplicatePair(*pair, "cropped", inliers / points)


def agreeing_points(first: Fingerprint, second: Fingerprint) -> int:
    """The number of key points of two images that agree on one similarity transform; 0 if they are too few to conclude
    that the images are duplicates.
    """
    if min(len(first.points), len(second.points)) < MIN_DOUBTFUL:
        return 0
    matches = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(first.descriptors, second.descriptors, k=2)
    good = [pair[0] for pair in matches if len(pair) == 2 and pair[0].distance < RATIO * pair[1].distance]
    if len(good) < MIN_DOUBTFUL:
        return 0
    source = first.points[[match.queryIdx for match in good]]
    target = second.points[[match.trainIdx for match in good]]
    cv2.setRNGSeed(0)  # for reproducible results
    transform, inliers = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=4.0)
    if transform is None or not SCALE_RANGE[0] < np.hypot(transform[0, 0], transform[1, 0]) < SCALE_RANGE[1]:
        return 0
    # Key points of the same corner in several octaves count once.
    count = len({tuple(point) for point in np.round(source[inliers.ravel() == 1] / 4).astype(int).tolist()})
    if count >= MIN_INLIERS:
        return count
    return count if count >= MIN_DOUBTFUL and _correlation(first, second, transform) >= MIN_CORRELATION else 0


def _correlation(first: Fingerprint, second: Fingerprint, transform: np.ndarray) -> float:
    """The correlation of the grey values of two thumbnails in their overlap, after aligning the first with the second.

    0 if they hardly overlap. transform: (2, 3), from key points of the first to those of the second.
    """
    scaled = second.point_scale * transform @ np.diag([1 / first.point_scale, 1 / first.point_scale, 1.0])
    height, width = second.thumbnail.shape
    moved = cv2.warpAffine(first.thumbnail.astype(np.float32), scaled, (width, height))
    shared = cv2.warpAffine(np.ones(first.thumbnail.shape, np.float32), scaled, (width, height)) > 0.99
    if shared.mean() < MIN_SHARED:
        return 0.0
    # Blurred, since one of the images may have had a lower resolution.
    one, other = (cv2.GaussianBlur(each, (0, 0), 1.0)[shared] for each in (moved, second.thumbnail.astype(np.float32)))
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / max(1e-6, np.sqrt((one**2).sum() * (other**2).sum())))
