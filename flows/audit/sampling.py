"""Chooses the images to review: strata of images with similar expected numbers of errors, and an order of review of
which every prefix is a stratified sample with known probabilities.

N images. In a stratum with N_h images, of which n_h are reviewed, each was drawn with probability n_h / N_h.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flows.audit.estimation import Strata

MIN_OF_STRATUM = 2  # images: fewer have no variance
MAX_STRATA = 4  # of images with labels; more gain little (Cochran 1977, 5A.8) and cost degrees of freedom
IMAGES_OF_STRATUM = 15  # minimum reviews per stratum, by which the number of strata is chosen
UNKNOWN_SCORE = 0.7  # of a box without a score
# Terms of the expected number of errors of an image: for the image itself, and for each box even if its score is high;
# and how much more a box of a rare category counts. benchmarks/audit_coverage.py --sizes compares other values.
IMAGE_TERM, BOX_TERM = 0.5, 0.05
RARITY_POWER, MAX_RARITY = 0.5, 4.0  # (mean number of boxes per category / that of this one) ** power; Bankier 1988
# An image without labels has no doubtful box, but objects may be missing. It counts as much as this many average images
# with labels; all such images together count at most as much as all others, since most may truly be empty.
EMPTY_TERM = 2.0


class Design(NamedTuple):
    """stratum: (N,) int, the stratum of each image. order: (N,) the images in the order of their review."""

    stratum: np.ndarray
    order: np.ndarray

    def sample(self, reviewed: np.ndarray) -> tuple[np.ndarray, Strata]:
        """(N,) bool, whether each image is reviewed -> the images that count, in order, and their strata.

        In each stratum, only images before its first unreviewed one count. Otherwise skipping difficult images would
        bias the sample towards easy ones.
        """
        kept: list[int] = []
        closed: set[int] = set()
        for image in self.order:
            stratum = int(self.stratum[image])
            if reviewed[image] and stratum not in closed:
                kept.append(int(image))
            else:
                closed.add(stratum)
        images = np.array(kept, dtype=int)
        return images, Strata(self.stratum[images], np.bincount(self.stratum))


def design(sizes: np.ndarray, keys: Sequence[str], reviews: int, seed: int, empty: np.ndarray | None = None) -> Design:
    """Draws the strata and the order of review.

    sizes: (N,) > 0, expected number of errors of each image. keys: names of the images. reviews: planned number, which
    determines the number of strata; the order includes all images. empty: (N,) bool, images without labels; they form a
    separate stratum if a sample of this size would contain enough of them anyway.
    """
    count = max(1, min(MAX_STRATA, reviews // IMAGES_OF_STRATUM))
    apart = np.zeros(len(sizes), bool) if empty is None else empty
    if MIN_OF_STRATUM <= apart.sum() <= len(sizes) - MIN_OF_STRATUM and reviews * apart.mean() >= MIN_OF_STRATUM:
        stratum = np.zeros(len(sizes), dtype=int)
        stratum[~apart] = 1 + strata_of(sizes[~apart], count)
    else:
        stratum = strata_of(sizes, count)
    chance = np.array([_chance(seed, key) for key in keys])
    return Design(stratum, review_order(stratum, sizes, chance))


def expected_errors(
    images: Sequence[Mapping[str, Sequence[float | None]]], empty_term: float = EMPTY_TERM
) -> np.ndarray:
    """(N,) expected errors of each image. images: category -> scores of its boxes."""
    totals: dict[str, int] = {}
    for image in images:
        for name, scores in image.items():
            totals[name] = totals.get(name, 0) + len(scores)
    mean = np.mean([total for total in totals.values() if total]) if any(totals.values()) else 1.0
    rarity = {
        name: min(MAX_RARITY, float(mean / total) ** RARITY_POWER) if total else 1.0 for name, total in totals.items()
    }
    doubts = [sum(rarity[name] * sum(map(_doubt, labels)) for name, labels in each.items()) for each in images]
    sizes, empty = IMAGE_TERM + np.array(doubts, float), np.array([not any(each.values()) for each in images])
    return np.where(empty, _size_of_empty(sizes[~empty], int(empty.sum()), empty_term), sizes)


def _size_of_empty(others: np.ndarray, count: int, term: float) -> float:
    """Expected errors of an image without labels. others: those of images with labels. count: images without."""
    if not count or not len(others):
        return IMAGE_TERM
    return max(IMAGE_TERM, min(term * float(others.mean()), float(others.sum()) / count))


def _doubt(score: float | None) -> float:
    share = UNKNOWN_SCORE if score is None else score
    return share * (1 - share) + BOX_TERM


def strata_of(sizes: np.ndarray, count: int) -> np.ndarray:
    """(N,) int, 0 for the largest sizes: strata with equal sums of sizes, so that about the same number of reviews of
    each is optimal (Neyman's allocation, with sizes as standard deviations). Strata of one image are merged.
    """
    order = np.argsort(-sizes, kind="stable")
    middle = np.cumsum(sizes[order]) - sizes[order] / 2
    stratum = np.empty(len(sizes), dtype=int)
    stratum[order] = np.minimum(middle / sizes.sum() * count, count - 1e-9).astype(int)
    for value in range(count - 1):
        if 0 < (stratum == value).sum() < MIN_OF_STRATUM:
            stratum[stratum == value] = value + 1
    return np.unique(stratum, return_inverse=True)[1]


def review_order(stratum: np.ndarray, sizes: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """(N,) indices of images: two of every stratum, then always one of the stratum where it reduces the variance most.

    This is the exact optimal allocation for every number of reviews (Wright, The American Statistician 66, 2012).
    chance: (N,) random numbers, which order the images within a stratum.
    """
    count = int(stratum.max()) + 1
    queues = [np.flatnonzero(stratum == h)[np.argsort(chance[stratum == h], kind="stable")] for h in range(count)]
    worth = np.array([sizes[queue].sum() for queue in queues])
    ranks = np.concatenate([np.arange(len(queue)) for queue in queues])
    which = np.repeat(np.arange(count), [len(queue) for queue in queues])
    priority = np.where(ranks < MIN_OF_STRATUM, np.inf, worth[which] / np.sqrt(np.maximum(ranks * (ranks + 1), 1)))
    first = np.lexsort((which, ranks, -priority))
    return np.concatenate(queues)[first]


def _chance(seed: int, key: str) -> float:
    """A pseudo-random number in 0..1 that depends only on the seed and the image."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)
