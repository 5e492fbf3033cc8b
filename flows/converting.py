"""`groundhog convert`: annotations of one format into another, as a stream of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from flows.planning import label_map_beside
from formats.problems import InputError
from formats.record import Record


def convert(
    source_format: str,
    target_format: str,
    source: str | Path,
    out: str | Path,
    images: str | Path | None = None,
    categories: Sequence[str] | None = None,
) -> str:
    """Reads `source`, writes `out` (and, for odvg, the label map beside it); gives a line that says what was made.

    categories: names in the order of the labels; by default those of the source.
    """
    from formats.coco import write_coco
    from formats.label_map import write_label_map
    from formats.odvg import write_odvg

    names, records = _read(source_format, Path(source), images, categories)
    out = Path(out)
    if target_format == "coco":
        write_coco(out, records, names)
        return f"{out}: {len(names)} categories"
    first = next(records, None)
    records = chain([] if first is None else [first], records)
    write_odvg(out, records)
    if first is not None and first.caption is not None:
        return f"{out}: captions"
    write_label_map(label_map_beside(out), dict(enumerate(names)))
    return f"{out}: {len(names)} categories in {label_map_beside(out)}"


def _read(
    source_format: str, source: Path, images: str | Path | None, categories: Sequence[str] | None
) -> tuple[list[str], Iterator[Record]]:
    """Category names in the order of labels, and the records."""
    if source_format == "coco":
        from formats.coco import read_coco, read_coco_categories

        return list(read_coco_categories(source)), read_coco(source)
    if source_format == "voc":
        from formats.voc import read_voc

        return _categories(categories, read_voc(source, None, images)), read_voc(source, categories, images)
    if source_format == "yolo":
        from formats.yolo import read_yolo

        if images is None or categories is None:
            raise InputError("convert yolo", "images or categories are not given", "want --images and --categories")
        return list(categories), read_yolo(source, images, categories)
    from formats.odvg import read_odvg

    return _categories(categories, read_odvg(source)), read_odvg(source)


def _categories(given: Sequence[str] | None, records: Iterator[Record]) -> list[str]:
    """The given names, or those of the records in the order of their labels."""
    if given is not None:
        return list(given)
    names: dict[int, str] = {}
    for record in records:
        names.update((instance.label, instance.category) for instance in record.instances or ())
    return [names.get(label, f"unused {label}") for label in range(max(names, default=-1) + 1)]
