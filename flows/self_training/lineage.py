"""Traces a box to its origin: its candidate, the checkpoint, prompt and policy that made it, the labels that the
checkpoint was trained on, and so on back to the first round.

The .meta.json beside the labels identifies plan, weights and parent labels by hash. Every file in the chain is hashed
again, and those that have changed are reported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flows.labelling.manifest import Manifest, parse_line, read_lines, read_manifest
from formats.boxes import pairwise_iou
from formats.candidates import read_candidates
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json, sha256_of
from formats.io.plurals import many
from formats.io.storage import as_path
from formats.odvg_lines import QUARANTINED
from formats.record import Box, Record
from grounding_model.checkpoints.locations import checkpoint_hash

REMEDY = "expected labels that `groundhog self-train` made, with their .meta.json beside them"


class LabelledBox(NamedTuple):
    """name: category or phrase. score: None from a person. overlap: IoU with the requested box."""

    name: str
    box: Box
    score: float | None
    overlap: float = 1.0


class FoundCandidate(NamedTuple):
    """The model's prediction: its unrounded score, its rank among the image's candidates, and the file."""

    score: float
    rank: int
    candidates: int
    shard: Path


@dataclass
class Link:
    """One round of the chain. weights: path or name of the checkpoint. mixed_with: pretraining data that the checkpoint
    was also trained on. reviewed: a person corrected the image. broken: messages about missing or changed files.
    """

    round: int
    labels: Path
    labels_sha256: str
    meta: Mapping[str, Any]
    weights: str = ""
    trained_on: str | None = None
    mixed_with: tuple[str, ...] = ()
    box: LabelledBox | None = None
    candidate: FoundCandidate | None = None
    reviewed: bool = False
    broken: list[str] = field(default_factory=list)


def lineage(labels: str | Path, image: str | None = None, box: int = 0) -> list[Link]:
    """Follows labels back to the first round. image: a filename in the labels; box: index of a box of this image.

    In earlier rounds, the box of the same name that overlaps it most is followed.
    Raises InputError if the labels have no such image or box, or were not made by a loop.
    """
    path: Path | None = as_path(labels)
    links: list[Link] = []
    wanted: LabelledBox | None = None
    while path is not None:
        link = _link(path, links[-1] if links else None)
        if image is not None and path.is_file():
            wanted = _trace(link, image, box, wanted) or wanted
        links.append(link)
        parent = link.meta.get("trained_on")
        path = None if parent is None else path.with_name(parent["labels"])
    return links


def _link(labels: Path, child: Link | None) -> Link:
    meta_path = metadata_path(labels)
    if not meta_path.is_file() and child is not None:
        gone = Link(child.round - 1, labels, "", {})
        gone.broken.append(f"{meta_path} is missing")
        return gone
    meta = load_json(meta_path, REMEDY)
    if not isinstance(meta, dict) or not {"round", "folder", "labels_sha256"} <= meta.keys():
        raise InputError(meta_path, "records no round", REMEDY)
    link = Link(meta["round"], labels, meta["labels_sha256"], meta)
    if not labels.is_file():
        link.broken.append(f"{labels} is missing")
    elif sha256_of(labels) != meta["labels_sha256"]:
        link.broken.append(f"{labels} has changed since it was made")
    if child is not None and child.meta["trained_on"]["labels_sha256"] != meta["labels_sha256"]:
        link.broken.append(f"{labels} was replaced: v{child.round} comes from an earlier file of this name")
    _follow_plan(link)
    return link


def _follow_plan(link: Link) -> None:
    """Adds what the round's plan records, and what its checkpoint was trained on; checks the hashes."""
    try:
        manifest = _manifest(link)
    except InputError as error:
        link.broken.append(str(error))
        return
    link.weights = manifest.weights
    if manifest.key != link.meta["plan"]:
        link.broken.append(f"{manifest.path} is not the plan of {link.labels.name}")
    hashes: tuple[tuple[object, Callable[[], str], str], ...] = (
        (manifest.source, lambda: sha256_of(manifest.source), manifest.source_sha256),
        (manifest.weights, lambda: checkpoint_hash(manifest.weights), manifest.weights_sha256),
    )
    for location, digest, recorded in hashes:
        try:
            if digest() != recorded:
                link.broken.append(f"{location} has changed since")
        except (InputError, OSError):
            link.broken.append(f"{location} is missing")
    if (parent := link.meta.get("trained_on")) is not None:
        link.trained_on = parent["labels"]
        merged = Path(manifest.weights).parent.parent / "merge.json"
        if merged.is_file():
            datasets = load_json(merged, "run the loop again")["datasets"]
            link.mixed_with = tuple(map(_described, datasets[1:]))


def _manifest(link: Link) -> Manifest:
    return read_manifest(os.path.normpath(link.labels.parent / link.meta["folder"]))


def _described(data: Mapping[str, Any]) -> str:
    if data["kind"] == "glyphs":
        return f"{data['images']} glyph scenes of {data['domain']!r}, weight {data['weight']:.3g}"
    return f"{data['annotations']}, {data['images']} images, weight {data['weight']:.3g}"


def _trace(link: Link, image: str, index: int, wanted: LabelledBox | None) -> LabelledBox | None:
    """Finds the box in a round's labels, and its candidate; returns the box."""
    found = _line(link.labels, image)
    if found is None:
        raise InputError(link.labels, f"has no image {image!r}", "expected a file name as in the labels")
    number, record, link.reviewed = found
    boxes = list(_boxes(record))
    if wanted is None:
        if not 0 <= index < len(boxes):
            raise InputError(f"{link.labels}: {image}", f"has no box {index}", f"expected less than {len(boxes)}")
        link.box = boxes[index]
    else:
        same_name = [each for each in boxes if each.name == wanted.name]
        ious = pairwise_iou([wanted.box], [each.box for each in same_name])
        if ious.size and ious.max() > 0:
            link.box = same_name[int(ious.argmax())]._replace(overlap=float(ious.max()))
    if link.box is not None and not link.reviewed:
        link.candidate = _candidate(link, number, link.box)
    return link.box


def _line(labels: Path, image: str) -> tuple[int, Record, bool] | None:
    """The line of an image, its record, and whether a person corrected it."""
    for line in read_lines(labels):
        entries = json.loads(line.text)
        if entries.get("filename") == image and QUARANTINED not in entries:
            return line.number, parse_line(line, labels), entries.get("reviewed") is True
    return None


def _boxes(record: Record) -> Iterator[LabelledBox]:
    for instance in record.instances or ():
        yield LabelledBox(instance.category, instance.box, instance.score)
    for region in record.regions or ():
        for box, score in zip(region.boxes, region.scores or (None,) * len(region.boxes)):
            yield LabelledBox(" ".join(region.phrase), box, score)


def _candidate(link: Link, number: int, box: LabelledBox) -> FoundCandidate | None:
    """The stored candidate of a label; None if a policy has moved the box, or its shard is missing."""
    try:
        manifest = _manifest(link)
        shard = next(each for each in manifest.shards if each.first_line <= number < each.first_line + each.lines)
        path = manifest.shard_path(shard.index)
        found = {each.line: each for each in read_candidates(path).by_line()}.get(number)
    except (InputError, StopIteration):
        link.broken.append(f"the candidates of round {link.round} are missing")
        return None
    if found is None:
        return None
    near = np.abs(found.box - np.array(box.box)).max(1) < 0.01  # labels have two decimals
    if box.score is not None:
        near &= np.abs(found.score - box.score) < 1e-5
    if not near.any():
        return None
    index = int(near.argmax())
    rank = 1 + int((found.score > found.score[index]).sum())
    return FoundCandidate(float(found.score[index]), rank, len(found.score), path)


def describe_lineage(links: Sequence[Link], image: str | None = None) -> str:
    """The chain as text, newest round first."""
    lines: list[str] = []
    for link in links:
        lines.append(f"v{link.round}  {link.labels}  sha256 {link.labels_sha256[:16]}")
        lines += [f"    {name:<11} {value}" for name, value in _facts(link, image)]
        lines += [f"    BROKEN      {what}" for what in link.broken]
    broken = sum(len(link.broken) for link in links)
    found = f"broken in {many(broken, 'place')}" if broken else "intact: all hashes match"
    lines.append(f"the chain is {found}")
    return "\n".join(lines)


def _facts(link: Link, image: str | None) -> Iterator[tuple[str, str]]:
    meta = link.meta
    if image is not None:
        yield "box", _box_text(link, image)
    if link.candidate is not None:
        score, rank, count, shard = link.candidate
        yield "candidate", f"score {score:.6f}, number {rank} of {count} of this image, in {shard}"
    if not meta:
        return
    prompt = meta["prompt"]
    yield "prompt", prompt if isinstance(prompt, str) else ", ".join(prompt)
    policy = {name: value.get("kind") if isinstance(value, dict) else value for name, value in meta["policy"].items()}
    yield "policy", ", ".join(f"{name} {value}" for name, value in policy.items() if value not in (None, False, [], ()))
    yield "source", f"{meta['source']}  sha256 {meta['source_sha256'][:16]}"
    yield "checkpoint", f"{link.weights or meta['weights']}  sha256 {meta['weights_sha256'][:16]}"
    if link.trained_on is not None:
        mixed = f", mixed with {'; '.join(link.mixed_with)}" if link.mixed_with else ""
        yield "trained on", f"{link.trained_on}{mixed}"
    else:
        yield "trained on", "no labels of this loop; it is the model that the loop started from"


def _box_text(link: Link, image: str) -> str:
    if link.box is None:
        return f"none of this name overlaps it in {image}"
    corners = ", ".join(f"{side:g}" for side in link.box.box)
    score = "drawn by a person" if link.box.score is None else f"score {link.box.score:g}"
    overlap = "" if link.box.overlap >= 1 else f", IoU {link.box.overlap:.2f} with the box of the later round"
    return f"{link.box.name} ({corners}) in {image}, {score}{overlap}"
