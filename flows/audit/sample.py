"""An audit on disk: a copy of the labels, the images that were drawn, and where their reviews are.

X_od_v1.audit/audit.json      settings, such as the seed and the number of images; probabilities follow from them
X_od_v1.audit/labels.json     the labels when the audit began, without later corrections
X_od_v1.audit/X_od_v1.json    the drawn lines in the order of their review, for the page or a labelling tool
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flows.audit import defaults
from flows.audit.estimation import Strata
from flows.audit.outcomes import labels_by_name
from flows.audit.sampling import EMPTY_TERM, Design, design, expected_errors
from flows.labelling.filter import MADE_BY
from flows.labelling.manifest import parse_line, read_lines
from formats.dataset_names import audit_folder, label_map_beside, metadata_path, reviewed_path
from formats.io.errors import InputError
from formats.io.files import load_json, sha256_of, write_json
from formats.io.plurals import many
from formats.odvg import write_odvg
from formats.odvg_lines import is_quarantined
from formats.record import Record
from formats.reviewed import Key, corrections_for, key_of

SETTINGS_NAME = "audit.json"
FROZEN_NAME = "labels.json"
MIN_REVIEWS = 10  # with fewer, intervals are too wide to be useful
_REMEDY = "remove the folder, or start again with --new"


@dataclass(frozen=True)
class AuditSettings:
    """The settings of an audit. labels: file name. drawn: images in the sample. planned: images in the first sample,
    which determined the strata.

    made_by: the entries of the .meta.json on how the labels were made; {} without one. empty_term, empty_apart: of the
    design; 0 and False in audits that older versions began, whose strata must not change.
    """

    labels: str
    labels_sha256: str
    drawn: int
    planned: int
    seed: int = defaults.SEED
    made_by: Mapping[str, Any] = field(default_factory=dict)
    empty_term: float = 0.0
    empty_apart: bool = False


@dataclass(frozen=True)
class Audit:
    """labels: the audited file. reviewed: the file of corrections."""

    labels: Path
    settings: AuditSettings
    reviewed: Path

    @property
    def folder(self) -> Path:
        return audit_folder(self.labels)

    @property
    def sample_path(self) -> Path:
        """The drawn lines. The file has the name of the labels, from which the page takes the round."""
        return self.folder / self.labels.name

    @cached_property
    def records(self) -> list[Record]:
        """The N images that may be drawn: those labelled by a model."""
        return [record for record, by_person in _labelled(self.folder / FROZEN_NAME) if not by_person]

    @cached_property
    def design(self) -> Design:
        records = self.records
        scores = [{name: [b.score for b in boxes] for name, boxes in labels_by_name(each).items()} for each in records]
        keys = [json.dumps(key_of(each)) for each in records]
        sizes = expected_errors(scores, self.settings.empty_term)
        empty = np.array([not any(each.values()) for each in scores]) if self.settings.empty_apart else None
        return design(sizes, keys, self.settings.planned, self.settings.seed, empty)

    @property
    def drawn(self) -> np.ndarray:
        """(n,) indices of the drawn images in `records`, in the order of their review."""
        return self.design.order[: self.settings.drawn]

    def truth(self) -> dict[Key, Record]:
        """The reviewed records, by file name and caption, of any round."""
        return corrections_for(self.reviewed)

    def sample(self, truth: Mapping[Key, Record]) -> tuple[np.ndarray, Strata, int]:
        """The reviewed images that count, their strata, and the number of reviews that do not count (Design.sample)."""
        reviewed = np.zeros(len(self.records), bool)
        drawn = self.drawn
        reviewed[drawn] = [key_of(self.records[image]) in truth for image in drawn]
        images, strata = self.design.sample(reviewed)
        return images, strata, int(reviewed.sum()) - len(images)


def draw_audit(
    labels: Path, reviews: int | None = None, seed: int | None = None, reviewed: Path | None = None, anew: bool = False
) -> Audit:
    """Begins the audit of a label file, or continues it, extending the sample if more reviews are requested.

    reviews: images in the sample; None: defaults.REVIEWS, or as many as drawn. seed: None: 0, or that of the sample.
    anew: discards an earlier audit of these labels; existing reviews are kept.
    Raises InputError for labels without anything to audit, for labels that were made again since the sample was drawn,
    and for another seed than that of the sample.
    """
    if reviews is not None and reviews < MIN_REVIEWS:
        raise InputError("-n", f"{reviews} reviews", f"expected at least {MIN_REVIEWS}")
    if anew:
        shutil.rmtree(audit_folder(labels), ignore_errors=True)
    audit = (
        read_audit(labels, reviewed) if is_begun(labels) else _begin(labels, reviews, seed or defaults.SEED, reviewed)
    )
    if seed is not None and seed != audit.settings.seed:
        what = f"{seed}, but the sample of these labels was drawn with seed {audit.settings.seed}"
        raise InputError("--seed", what, "expected the same seed, or --new for another sample")
    wanted = max(audit.settings.drawn, min(reviews or audit.settings.drawn, len(audit.records)))
    audit = replace(audit, settings=replace(audit.settings, drawn=wanted))
    write_odvg(audit.sample_path, [audit.records[image] for image in audit.drawn])
    if (known := label_map_beside(labels)).is_file():  # for tools that read the sample
        shutil.copyfile(known, label_map_beside(audit.sample_path))
    write_json(audit.folder / SETTINGS_NAME, asdict(audit.settings))
    return audit


def is_begun(labels: Path) -> bool:
    return (audit_folder(labels) / SETTINGS_NAME).is_file()


def read_audit(labels: Path, reviewed: Path | None = None) -> Audit:
    """The audit of a label file. Raises InputError if there is none, or if the labels were replaced since it began."""
    path = audit_folder(labels) / SETTINGS_NAME
    if not path.is_file():
        raise InputError(labels, "has no audit yet", f"expected `groundhog audit {shlex.quote(str(labels))}` first")
    try:
        settings = AuditSettings(**load_json(path, _REMEDY))
    except TypeError as error:
        raise InputError(path, f"is not an audit ({error})", _REMEDY) from None
    _check_same_labels(labels, settings)
    return Audit(labels, settings, reviewed or reviewed_path(labels))


def _begin(labels: Path, reviews: int | None, seed: int, reviewed: Path | None) -> Audit:
    folder = audit_folder(labels)
    audit = Audit(labels, AuditSettings(labels.name, "", 0, 0, seed), reviewed or reviewed_path(labels))
    lines = Counter(key_of(record) for record, _ in _labelled(labels))
    if twice := [filename for (filename, _), count in lines.items() if count > 1]:
        what = f"lists {many(len(twice), 'image')} more than once, such as {twice[0]}"
        raise InputError(labels, what, "expected one line for each image, since each counts as a review")
    count = sum(not by_person for _, by_person in _labelled(labels))
    if not count:
        raise InputError(labels, "has no image that a model labelled", "expected labels, such as X_od_v1.json")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(labels, folder / FROZEN_NAME)
    planned = min(count, reviews or defaults.REVIEWS)
    name, checksum = labels.name, sha256_of(labels)
    settings = AuditSettings(name, checksum, planned, planned, seed, made_by(labels), EMPTY_TERM, empty_apart=True)
    return replace(audit, settings=settings)


def made_by(labels: Path) -> dict[str, Any]:
    """The entries of a label file's .meta.json that identify how it was made; {} without one."""
    path = metadata_path(labels)
    if not path.is_file():
        return {}
    metadata = load_json(path, "remove it, or filter again")
    return {name: metadata[name] for name in MADE_BY if name in metadata}


def _check_same_labels(labels: Path, settings: AuditSettings) -> None:
    """Raises InputError if the labels were replaced. Labels of the same plan and policy differ only by corrections."""
    known = made_by(labels)
    same = known == dict(settings.made_by) if known or settings.made_by else sha256_of(labels) == settings.labels_sha256
    if not same:
        raise InputError(labels, "has changed since its audit was drawn", "audit the new labels with --new")


def _labelled(labels: Path) -> Iterator[tuple[Record, bool]]:
    """Yields every labelled record, and whether a person made or corrected it."""
    for line in read_lines(labels):
        if is_quarantined(line.text):
            continue
        record = parse_line(line, labels)
        if record.instances is not None or record.regions is not None:
            by_person = '"reviewed"' in line.text and json.loads(line.text).get("reviewed") is True
            yield record, by_person
