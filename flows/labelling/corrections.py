"""Checks that corrected lines belong to a label file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.labelling.manifest import Manifest, parse_line, read_lines
from formats.io.errors import InputError, expected_one_of
from formats.odvg_lines import is_quarantined
from formats.record import Instance
from formats.reviewed import Correction, Key, key_of


def check_corrections(manifest: Manifest, corrections: Sequence[Correction]) -> None:
    """Like check_lines, for the source and the label map of a plan."""
    check_lines(manifest.source, manifest.label_map, corrections)


def check_lines(labels: Path, label_map: Mapping[str, str] | None, corrections: Sequence[Correction]) -> None:
    """Raises InputError for a line that is not in the labels, is listed twice or has another image size, and for a
    label that is not in the label map.

    labels: an ODVG file, the source or the labels of a round. label_map: with string keys; None for captions.
    """
    _check_images(labels, corrections)
    for each in corrections:
        if each.withdrawn:
            continue
        if (each.record.instances if label_map is not None else each.record.regions) is None:
            raise InputError(each.location, "unlabelled line", 'expected "instances": [] if there is no object')
        for instance in each.record.instances or ():
            if label_map is not None:
                _check_category(label_map, instance, each.location)


def _check_images(labels: Path, corrections: Sequence[Correction]) -> None:
    missing: dict[Key, Correction] = {}
    first: dict[tuple[Key, int], Correction] = {}
    for each in corrections:
        missing[key_of(each.record)] = each
        if (same := first.setdefault((key_of(each.record), each.since), each)) is not each:
            what = f"{_described(key_of(each.record))} is listed twice, first in {same.location}"
            raise InputError(each.location, what, "expected one line per image")
    for line in read_lines(labels):
        if not missing:
            return
        if not is_quarantined(line.text):
            try:
                record = parse_line(line, labels)
            except InputError:  # an invalid line, which labelling quarantines
                continue
            if (correction := missing.pop(key_of(record), None)) is not None:
                size, known = (correction.record.height, correction.record.width), (record.height, record.width)
                if size != known:
                    what = f"says {size[1]}x{size[0]} pixels, {labels.name} says {known[1]}x{known[0]}"
                    raise InputError(correction.location, what, "expected boxes in pixels of the same image")
    for key, correction in missing.items():
        more = f" (nor are {len(missing) - 1} more)" if len(missing) > 1 else ""
        what = f"{_described(key)} is not a line of {labels.name}{more}"
        raise InputError(correction.location, what, "expected lines of these labels")


def _described(key: Key) -> str:
    filename, caption = key
    return repr(filename) if caption is None else f"{filename!r} with the caption {caption!r}"


def _check_category(label_map: Mapping[str, str], instance: Instance, location: str) -> None:
    name = label_map.get(str(instance.label))
    if name == instance.category:
        return
    what = f"label {instance.label} is not {instance.category!r}"
    if instance.category in label_map.values():
        raise InputError(location, what, f"expected one of {dict(label_map)}")
    what += ", which is not a category of this plan"
    raise InputError(location, what, expected_one_of(label_map.values(), instance.category))
