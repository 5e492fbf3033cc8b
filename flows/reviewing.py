"""What a person says of labels: corrected lines that win over the model's, and the approval that lets a loop go on.

Corrections lie beside their source, `X_od_reviewed.json` beside `X_od.json`: ODVG lines with `"reviewed": true` and the
first round that they hold for, `"since_round": 2`. Filtering puts them in place of the model's lines, so that a run
that goes on makes the same labels again. Boxes of a person carry no score and have weight 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from flows.inference import parse_line
from flows.planning import Manifest, read_lines, read_manifest
from formats.files import load_json, write_whole
from formats.odvg import record_to_line
from formats.problems import InputError
from formats.record import Record

APPROVAL_NAME = "approval.json"
Key = tuple[str, str | None]  # file name and caption: what tells one line of a source from another


class Correction(NamedTuple):
    """A line as a person left it. place: file and line number. since: the first round that it holds for."""

    record: Record
    place: str
    since: int


def reviewed_path(source: str | Path) -> Path:
    """X_od.json -> X_od_reviewed.json beside it."""
    source = Path(source)
    return source.with_name(f"{source.stem}_reviewed{source.suffix}")


def corrections_for(path: str | Path | None, number: int | None = None) -> dict[Key, Record]:
    """The corrected lines that hold for a round (None: for all), by file name and caption; a later one wins.

    path: a file of reviewed lines; None, or one that is not there: nothing was corrected.
    """
    if path is None or not Path(path).is_file():
        return {}
    known = sorted(_marked(list(_read_corrections(path))), key=lambda correction: correction.since)
    return {_key(each.record): each.record for each in known if number is None or each.since <= number}


def reviewed_line(record: Record) -> dict[str, Any]:
    """The line of a corrected record, among labels or among corrections."""
    return record_to_line(record) | {"reviewed": True}


def add_corrections(manifest: Manifest, file: str | Path, number: int) -> int:
    """Puts the reviewed lines of a file beside the source of a plan, for this round and all later ones; how many.

    file: ODVG lines; those with `"reviewed": true`, or all where no line has it.
    Raises InputError for a line that is none of the source's, and for a label that its label map does not have.
    """
    given = _marked(list(_read_corrections(file)))
    if not given:
        raise InputError(file, "holds no line", "want ODVG lines that a person has corrected")
    _check(manifest, given)
    path = reviewed_path(manifest.source)
    known = {(_key(each.record), each.since): each for each in (_read_corrections(path) if path.is_file() else ())}
    known |= {(_key(each.record), number): each._replace(since=number) for each in given}
    with write_whole(path) as stream:
        for (_, since), each in sorted(
            known.items(), key=lambda item: (item[0][1], item[0][0][0], item[0][0][1] or "")
        ):
            stream.write(json.dumps(reviewed_line(each.record) | {"since_round": since}, ensure_ascii=False) + "\n")
    return len(given)


def approve(manifest: Manifest | str | Path, policy: Mapping[str, Any]) -> Path:
    """Writes that a person agrees to go on after the round of this plan; another plan or policy asks again."""
    manifest = manifest if isinstance(manifest, Manifest) else read_manifest(manifest)
    path = manifest.work_dir / APPROVAL_NAME
    with write_whole(path) as stream:
        json.dump(_approved(manifest, policy), stream, indent=2)
        stream.write("\n")
    return path


def is_approved(manifest: Manifest, policy: Mapping[str, Any]) -> bool:
    """Whether a person agreed to go on with the labels of this plan and policy."""
    path = manifest.work_dir / APPROVAL_NAME
    if not path.is_file():
        return False
    return load_json(path, "remove it and approve again") == _approved(manifest, policy)


def _approved(manifest: Manifest, policy: Mapping[str, Any]) -> dict[str, Any]:
    return {"plan": manifest.key, "policy": json.loads(json.dumps(policy))}


def _key(record: Record) -> Key:
    return record.filename, record.caption


def _read_corrections(path: str | Path) -> Iterator[Correction]:
    """Every line; since is 0 where the line is not marked as reviewed, and 1 where it names no round."""
    for line in read_lines(path):
        place = f"{path}:{line.number + 1}"
        record = _by_person(parse_line(line, path))
        entries = json.loads(line.text)
        since = entries.get("since_round", 1)
        if type(since) is not int or since < 1:
            raise InputError(place, f"since_round is {since!r}", "want the number of a round, from 1")
        yield Correction(record, place, since if entries.get("reviewed") is True else 0)


def _marked(corrections: list[Correction]) -> list[Correction]:
    return [each for each in corrections if each.since] or corrections


def _by_person(record: Record) -> Record:
    """The record without what a model said: its scores, and the weights that follow from them."""
    instances, regions = record.instances, record.regions
    return replace(
        record,
        instances=instances and tuple(replace(each, score=None, weight=1.0) for each in instances),
        regions=regions and tuple(replace(each, scores=(), weight=1.0) for each in regions),
    )


def _check(manifest: Manifest, given: list[Correction]) -> None:
    missing = {_key(each.record): each.place for each in given}
    for line in read_lines(manifest.source):
        if not missing:
            break
        if '"quarantined"' not in line.text:
            missing.pop(_key(parse_line(line, manifest.source)), None)
    for (filename, caption), place in missing.items():
        told = repr(filename) if caption is None else f"{filename!r} with the caption {caption!r}"
        raise InputError(place, f"{told} is no line of {Path(manifest.source).name}", "want lines of these labels")
    for each in given:
        if (each.record.instances if manifest.label_map is not None else each.record.regions) is None:
            raise InputError(each.place, "nobody has labelled this line", 'want "instances": [] where nothing is')
        for instance in each.record.instances or ():
            if manifest.label_map is not None and manifest.label_map.get(str(instance.label)) != instance.category:
                what = f"label {instance.label} is not {instance.category!r}"
                raise InputError(each.place, what, f"want one of {manifest.label_map}")
