"""Merges the boxes of several views of an image: weighted boxes fusion (arXiv 1910.13302, section 3).

V views, N boxes of one view (N, 4) float64, x1, y1, x2, y2 in pixels of the stored image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from formats.boxes import pairwise_iou


class Boxes(NamedTuple):
    """The boxes of one image, best first: label (N,) int64, box (N, 4) pixels, score (N,) 0..1."""

    label: np.ndarray
    box: np.ndarray
    score: np.ndarray


class Fused(NamedTuple):
    """boxes: best first. share: (N,) of the views that found each box."""

    boxes: Boxes
    share: np.ndarray


@dataclass
class _Cluster:
    """Boxes of one label from different views, taken for the same object."""

    label: int
    members: dict[int, tuple[np.ndarray, float]]  # view -> box, score

    def box(self) -> np.ndarray:
        """The mean of the members' corners, weighted by their scores."""
        boxes, scores = zip(*self.members.values())
        return np.average(boxes, axis=0, weights=np.maximum(scores, 1e-9))

    def score(self, views: int) -> float:
        """The mean over all views; a view without the object counts as 0."""
        return sum(score for _, score in self.members.values()) / views


def fuse_views(views: Sequence[Boxes], iou: float) -> Fused:
    """The consensus of V views.

    Views must be free of duplicates: a cluster takes at most one box from each view (the paper allows several, which
    would count a view twice). Boxes of all views are processed best first. Each joins the cluster of its label whose
    fused box it overlaps most, if the IoU is above `iou`.
    """
    clusters: list[_Cluster] = []
    rows = [(view, row) for view, boxes in enumerate(views) for row in range(len(boxes.score))]
    for view, row in sorted(rows, key=lambda at: (-views[at[0]].score[at[1]], at)):
        label, box, score = (part[row] for part in views[view])
        cluster = _cluster_of(clusters, view, int(label), box, iou)
        if cluster is None:
            clusters.append(cluster := _Cluster(int(label), {}))
        cluster.members[view] = (box, float(score))
    clusters.sort(key=lambda cluster: -cluster.score(len(views)))
    boxes = Boxes(
        np.array([cluster.label for cluster in clusters], dtype=np.int64),
        np.array([cluster.box() for cluster in clusters], dtype=np.float64).reshape(-1, 4),
        np.array([cluster.score(len(views)) for cluster in clusters], dtype=np.float64),
    )
    return Fused(boxes, np.array([len(cluster.members) / len(views) for cluster in clusters]))


def _cluster_of(clusters: Sequence[_Cluster], view: int, label: int, box: np.ndarray, iou: float) -> _Cluster | None:
    free = [cluster for cluster in clusters if cluster.label == label and view not in cluster.members]
    if not free:
        return None
    overlaps = pairwise_iou(box[None], np.array([cluster.box() for cluster in free]))[0]
    best = int(np.argmax(overlaps))
    return free[best] if overlaps[best] > iou else None
