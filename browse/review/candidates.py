"""The model's boxes of an image that did not become labels, from the candidates of a plan.

They are stored with their scores in the folder of the plan, in `candidates/shard-00000.parquet` and so on. A reviewer
can add one with a single key instead of drawing it.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from browse.review.index import LabelLines, LineIndex
from browse.review.line_facts import hash_of
from browse.review.page_json import Phrase
from formats.boxes import pairwise_iou
from formats.candidates import Candidates, read_candidates, read_image_features
from formats.dataset_names import metadata_path
from formats.io.errors import InputError
from formats.io.files import load_json
from formats.record import Record
from formats.review_journal import key_bytes
from formats.reviewed import Key, key_of

MANIFEST = "manifest.json"
SHARDS_IN_MEMORY = 4
DUPLICATE = 0.7  # a candidate with at least this IoU with a label of the same name is a duplicate
MAX_SHOWN = 200  # per image, best first


@dataclass(frozen=True)
class Plan:
    """The candidates that a manifest.json describes. shards: (first line, number of lines) of each."""

    folder: Path
    source: Path
    names: tuple[str, ...] | None
    shards: tuple[tuple[int, int], ...]

    def shard_of(self, line: int) -> int | None:
        """The index of the shard that contains a line of the source."""
        return next((i for i, (first, count) in enumerate(self.shards) if first <= line < first + count), None)


def find_plan(annotations: Path, work_dir: Path | None) -> Plan | None:
    """The plan that made these labels: in work_dir, or found through the labels' .meta.json and in `work_dirs/`.

    None if there is none. Raises InputError if work_dir is given and has no plan.
    """
    if work_dir is not None:
        return read_plan(work_dir)
    meta = metadata_path(annotations)
    try:
        made_by = json.loads(meta.read_text(encoding="utf-8"))
        key, folder = made_by["plan"], made_by.get("folder")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for plan_folder in _places(annotations, folder):
        try:
            if json.loads((plan_folder / MANIFEST).read_text(encoding="utf-8")).get("key") == key:
                return read_plan(plan_folder)
        except (OSError, ValueError, AttributeError, InputError):
            continue
    return None


def _places(annotations: Path, folder: object) -> Iterator[Path]:
    if isinstance(folder, str):
        yield annotations.parent / folder
    work_dirs = Path("work_dirs")
    yield from (path.parent for path in sorted(work_dirs.glob(f"*/{MANIFEST}")))
    yield from (path.parent for path in sorted(work_dirs.glob(f"*/round-*/{MANIFEST}")))


def read_plan(folder: Path) -> Plan:
    """Reads the plan in a folder. Raises InputError if there is none."""
    manifest: Any = load_json(folder / MANIFEST, "expected the work_dir of a labelling, or of a round")
    try:
        label_map = manifest["label_map"]
        names = None if label_map is None else tuple(label_map.values())
        shards = tuple((int(each["first_line"]), int(each["lines"])) for each in manifest["shards"])
        return Plan(folder, Path(manifest["source"]), names, shards)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(folder / MANIFEST, f"is not a plan ({error})", "expected that of a labelling") from error


class CandidateBoxes:
    """The candidates of a plan by line. Thread-safe."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._source = LabelLines(plan.source) if plan.source.is_file() else None
        self._shards: OrderedDict[int, Candidates] = OrderedDict()
        self._numbers: dict[Key, int] | None = None
        self._lock = threading.Lock()

    def of_line(
        self,
        number: int,
        record: Record,
        model: Sequence[Mapping[str, Any]],
        phrases: Sequence[Phrase],
        labels: Mapping[str, int],
    ) -> list[dict[str, Any]]:
        """[{"box", "of", "score"}], best first, without duplicates of boxes that became labels.

        number, record: the line in the label file. model: its boxes as in the page. labels: category -> label.
        """
        number = self._in_source(number, record)
        line = number if self._source is None or number >= len(self._source) else self._source.physical(number)
        index = self._plan.shard_of(line)
        if index is None:
            return []
        shard = self._shard(index)
        start, end = np.searchsorted(shard.line, [line, line + 1])
        rows = slice(start, end)
        if start == end or shard.filename[start] != record.filename:
            return []  # the labels are another file than the plan was made for
        kinds = self._kinds(number, record, phrases, labels)
        found = [
            {"box": [round(float(side), 2) for side in _cut(box, record)], "of": kinds.get(int(region)), "score": score}
            for box, region, score in zip(shard.box[rows], shard.region[rows], shard.score[rows].astype(float).tolist())
        ]
        found = [each for each in found if each["of"] is not None and _has_area(each["box"])]
        return _without_duplicates(sorted(found, key=lambda each: -each["score"]), model)[:MAX_SHOWN]

    def _kinds(
        self, number: int, record: Record, phrases: Sequence[Phrase], labels: Mapping[str, int]
    ) -> dict[int, int]:
        """Region of a candidate -> its `of` in the page: a label, or the position of a phrase."""
        if self._plan.names is not None:
            return {index: labels[name] for index, name in enumerate(self._plan.names) if name in labels}
        if self._source is None or number >= len(self._source):
            return {}
        try:
            source_record = self._source.record(number)
        except InputError:
            return {}
        if (source_record.filename, source_record.caption) != (record.filename, record.caption):
            return {}
        known = {phrase: position for position, phrase in enumerate(phrases)}
        named = (
            (index, Phrase(region.phrase, region.spans)) for index, region in enumerate(source_record.regions or ())
        )
        return {index: known[phrase] for index, phrase in named if phrase in known}

    @property
    def shards(self) -> int:
        """The number of shards of the plan."""
        return len(self._plan.shards)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The categories in the model's prompt, by region; None for captions."""
        return self._plan.names

    def asked_phrases(self, number: int, record: Record) -> list[Phrase]:
        """The phrases that the model looked for in a caption, found or not."""
        number = self._in_source(number, record)
        if self._source is None or record.caption is None or number >= len(self._source):
            return []
        try:
            source_record = self._source.record(number)
        except InputError:
            return []
        if (source_record.filename, source_record.caption) != (record.filename, record.caption):
            return []
        return [Phrase(region.phrase, region.spans) for region in source_record.regions or ()]

    def features(self, index: LineIndex, max_images: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(N,) lines of the label file, ascending, and (N, D) features of their images; None if there are none.

        index: of the label file. max_images: if there are more, only some shards, spread over the file, are read.
        """
        shards = range(0, len(self._plan.shards), max(1, -(-len(index.lines) // max_images)))
        found: dict[int, np.ndarray] = {}
        captions = index.has_captions()
        for shard in shards:
            try:
                for line, filename, feature in read_image_features(self.shard_path(shard)):
                    number = self._number(line)
                    if number is None or number >= len(index.lines):
                        continue
                    if captions or int(index.hashes[number]) == hash_of(key_bytes(filename, None)):
                        found[number] = feature  # else the labels are another file than the plan was made for
            except InputError:  # it is being labelled again
                continue
        if not found or len({len(feature) for feature in found.values()}) > 1:
            return None
        numbers = np.array(sorted(found), np.int64)
        return numbers, np.stack([found[number] for number in numbers.tolist()])

    def _number(self, line: int) -> int | None:
        """The number of a line of the source, not counting blank lines."""
        return line if self._source is None else self._source.number(line)

    def shard_path(self, index: int) -> Path:
        """The file with the candidates of a shard."""
        return self._plan.folder / "candidates" / f"shard-{index:05d}.parquet"

    def _in_source(self, number: int, record: Record) -> int:
        """The line of the source. It has the same number, because labels have one line per non-blank line of the
        source; in a part of the labels, such as an audit's sample, the line is looked up by its image.
        """
        if self._source is None or self._key(number) == key_of(record):
            return number
        with self._lock:
            if self._numbers is None:
                self._numbers = {key: line for line in range(len(self._source)) if (key := self._key(line)) is not None}
            return self._numbers.get(key_of(record), number)

    def _key(self, number: int) -> Key | None:
        if self._source is None or number >= len(self._source):
            return None
        try:
            return key_of(self._source.record(number))
        except InputError:
            return None

    def _shard(self, index: int) -> Candidates:
        with self._lock:
            if index not in self._shards:
                self._shards[index] = read_candidates(self.shard_path(index))
                if len(self._shards) > SHARDS_IN_MEMORY:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(index)
            return self._shards[index]


def _without_duplicates(found: list[dict[str, Any]], model: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Removes boxes that duplicate a better one or a label."""
    boxes = np.array([each["box"] for each in (*model, *found)], float).reshape(-1, 4)
    kinds = np.array([each["of"] for each in (*model, *found)])
    iou = pairwise_iou(boxes, boxes) * (kinds[:, None] == kinds[None, :])
    taken = list(range(len(model)))
    for index in range(len(model), len(boxes)):
        if not taken or iou[index, taken].max() < DUPLICATE:
            taken.append(index)
    return [found[index - len(model)] for index in taken[len(model) :]]


def _cut(box: np.ndarray, record: Record) -> np.ndarray:
    return np.clip(box, 0, [record.width, record.height, record.width, record.height])


def _has_area(box: Sequence[float]) -> bool:
    return box[0] < box[2] and box[1] < box[3]
