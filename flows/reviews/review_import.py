"""`groundhog reviews import`: imports corrections made in another program into the file of corrections.

An export contains all images that were sent to the program. Imported are those that a person changed, and those marked
as finished there. Boxes that were not moved keep the coordinates of the labels, so rounding in the program changes
nothing. If any image cannot be matched, the whole export is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flows.labelling.corrections import check_lines
from flows.reviews.changed_boxes import (
    NEAR,
    Categories,
    Change,
    change_of,
    drawn_instances,
    ignored_beside,
)
from flows.reviews.image_names import ImageNames
from formats.dataset_names import label_map_beside, parse_annotation_name, reviewed_path
from formats.export_tools import TOLERANCE
from formats.exported import TOOLS, ExportedImage, ExportOptions, read_exported
from formats.io.errors import InputError, handed_to
from formats.io.plurals import first_lines, many
from formats.label_map import read_label_map, relabelled
from formats.odvg import read_odvg
from formats.omissions import refuse_caption
from formats.record import Record
from formats.review_journal import key_bytes, locked_corrections, unfinished_drafts
from formats.reviewed import (
    Correction,
    holding,
    key_of,
    marked,
    parse_correction,
    read_corrections,
    reviewed_text,
    write_corrections,
)

_MIN_ROUNDED = 5  # with fewer moved boxes, a person may have moved them all
MAX_LISTED = 20  # problems that are listed; the rest is only counted


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    export: options of its format. label_map: by default the one beside the labels. out: the file of corrections, by
    default the one that the loop and the review page use. tolerance: pixels, see TOLERANCE. everything: count every
    image of the export as reviewed. skip: leave out images that cannot be matched. overwrite: replace other corrections
    of the same images that were made since the labels.
    """

    export: ExportOptions = field(default_factory=ExportOptions)
    label_map: Path | None = None
    out: Path | None = None
    tolerance: float = TOLERANCE
    everything: bool = False
    skip: bool = False
    overwrite: bool = False


@dataclass
class ImportCounts:
    """Counts of images and boxes of an export. A moved box counts as removed and added."""

    exported: int = 0
    by_path: int = 0
    by_name: int = 0
    changed: int = 0
    confirmed: int = 0
    unchanged: int = 0
    unfinished: int = 0
    already: int = 0
    added: int = 0
    removed: int = 0
    near: int = 0
    drawn: int = 0
    problems: list[InputError] = field(default_factory=list)


@dataclass(frozen=True)
class Imported:
    """path: the file of corrections. written: number of lines added. number: the first round to which they apply.

    absent: number of lines that are not in the export.
    """

    path: Path
    written: int
    number: int
    absent: int
    counts: ImportCounts


@dataclass(frozen=True)
class _Labels:
    """The labels that were exported. records: by file name. names: those of the label map."""

    path: Path
    records: dict[str, Record]
    names: dict[int, str]


def import_reviews(
    labels: str | Path, export: str | Path, tool: str, options: ImportOptions = ImportOptions()
) -> Imported:
    """Adds a person's changes in another program to the file of corrections, from the round of the labels on.

    labels: the ODVG file that was exported. tool: a key of formats.exported.TOOLS.
    Raises InputError for an export that cannot be read, for images that cannot be imported (unknown or ambiguous names,
    another size, unknown categories, shapes that are not upright boxes), and for images with other corrections made
    since the labels.
    """
    ours = _read_labels(Path(labels), options.label_map)
    path = reviewed_path(ours.path) if options.out is None else options.out
    if path.exists() and path.samefile(ours.path):
        raise InputError(path, "is the label file itself", "expected another file for the corrections")
    counts = ImportCounts()
    images = list(read_exported(tool, export, counts.problems.append, options.export))
    counts.exported = len(images) + len(counts.problems)
    _refuse_empty(ours, images, export, counts, options)
    placed = _placed(ours, images, counts)
    taken = _taken(ours, placed, counts, options, TOOLS[tool].holds_ignored)
    _refuse_rounded(export, counts, options)
    target = _Target(path, ours, parse_annotation_name(ours.path).version or 1, str(export))
    written = _put(target, taken, counts, options)
    return Imported(path, written, target.number, len(ours.records) - len(placed), counts)


def _read_labels(path: Path, label_map: Path | None) -> _Labels:
    if not path.is_file():
        raise InputError(path, "does not exist", "expected the labels that were exported, such as cat_od_v1.json")
    records = {record.filename: record for record in read_odvg(path, lambda problem: None)}
    for record in records.values():
        refuse_caption(record, "a tool that draws boxes")
    if not records:
        raise InputError(path, "contains no line", "expected the labels that were exported")
    map_path = label_map_beside(path) if label_map is None else label_map
    if label_map is not None or map_path.is_file():
        names = read_label_map(map_path)
        itself = {label: label for label in names}
        records = {filename: relabelled(record, itself, names) for filename, record in records.items()}
    else:
        names = {each.label: each.category for record in records.values() for each in record.instances or ()}
    if not names:
        raise InputError(path, "has neither a label map nor boxes with names", "expected -m LABEL_MAP")
    return _Labels(path, records, names)


def _refuse_empty(
    ours: _Labels, images: Sequence[ExportedImage], export: str | Path, counts: ImportCounts, options: ImportOptions
) -> None:
    """Raises InputError for an export without any annotations, which would delete every box."""
    if not counts.exported:
        raise InputError(export, "contains no image", "expected the export of a task that has images")
    boxes = sum(len(record.instances or ()) for record in ours.records.values())
    empty = not any(image.boxes or image.finished is not None for image in images)
    if empty and boxes and not counts.problems and not options.everything:
        what = f"contains no box in any of {many(len(images), 'image')}, but {ours.path.name} contains {boxes}"
        raise InputError(export, what, "expected an export with its annotations, or --all if every box was deleted")


def _refuse_rounded(export: str | Path, counts: ImportCounts, options: ImportOptions) -> None:
    """Raises InputError if most boxes moved by about a pixel, since the program rounds and nobody changed them."""
    if options.tolerance == TOLERANCE and counts.near >= _MIN_ROUNDED and counts.near * 2 > counts.drawn:
        what = f"{counts.near} of {counts.drawn} boxes differ by {TOLERANCE:g} to {NEAR:g} pixels from the labels"
        remedy = f"expected --tolerance {NEAR:g}, since the program rounds or counts pixels differently"
        raise InputError(export, what, remedy)


# Matching images and boxes


def _placed(ours: _Labels, images: Sequence[ExportedImage], counts: ImportCounts) -> list[tuple[ExportedImage, Record]]:
    are_stems = any(image.is_stem for image in images)
    names = ImageNames(ours.records, ours.path.name, [image.name for image in images], are_stems)
    placed: dict[str, ExportedImage] = {}
    for image in images:
        with handed_to(counts.problems.append):
            match = names.find(image.name, image.location)
            record = ours.records[match.filename]
            if (other := placed.get(match.filename)) is not None:
                what = f"{image.name!r} is {match.filename}, and so is {other.name!r} of {other.location}"
                raise InputError(image.location, what, "expected each image only once")
            if image.size is not None and image.size != (record.height, record.width):
                size = f"{image.size[1]}x{image.size[0]} pixels"
                what = f"{image.name!r} has {size}, but {ours.path.name} has {record.width}x{record.height}"
                raise InputError(image.location, what, "expected boxes in pixels of the same image")
            placed[match.filename] = image
            counts.by_path += match.by_path
            counts.by_name += not match.by_path
    return [(image, ours.records[filename]) for filename, image in placed.items()]


def _taken(
    ours: _Labels,
    placed: Sequence[tuple[ExportedImage, Record]],
    counts: ImportCounts,
    options: ImportOptions,
    keeps_ignored: bool,
) -> dict[str, Record]:
    """File name -> record, for the images that a person changed or confirmed."""
    categories = Categories(ours.names)
    taken: dict[str, Record] = {}
    flagged = not keeps_ignored or any(each.ignore for image, _ in placed for each in image.boxes or ())
    for image, record in placed:
        if image.boxes is None:
            counts.unfinished += 1
            continue
        with handed_to(counts.problems.append):
            drawn = drawn_instances(image, record, categories)
            if drawn is not None:
                drawn += () if keeps_ignored else ignored_beside(record, drawn)
                counts.drawn += len(drawn)
                change = change_of(record, drawn, options.tolerance, flagged)
                if _counted(change, image, record, counts, options.everything):
                    taken[record.filename] = change.record
    counts.problems.extend(categories.problems())
    return taken


def _counted(change: Change, image: ExportedImage, record: Record, counts: ImportCounts, everything: bool) -> bool:
    """Adds an image to the counts; returns whether it is imported."""
    if change:
        counts.changed += 1
        counts.added += change.added
        counts.removed += change.removed
        counts.near += change.near
    elif everything or (image.finished and _needs_a_person(record)):
        counts.confirmed += 1
    else:
        counts.unchanged += 1
        return False
    return True


def _needs_a_person(record: Record) -> bool:
    """Whether finishing the image requires a person; boxes drawn by a person are exported as finished already."""
    return record.instances is None or all(each.score is not None for each in record.instances)


# Writing the file of corrections


@dataclass(frozen=True)
class _Target:
    """The file of corrections to write, for labels of the round `number`."""

    path: Path
    ours: _Labels
    number: int
    export: str

    def before(self) -> list[Correction]:
        return marked(list(read_corrections(self.path))) if self.path.is_file() else []


def _put(target: _Target, taken: Mapping[str, Record], counts: ImportCounts, options: ImportOptions) -> int:
    """Writes the new lines; returns their number."""
    texts = {filename: reviewed_text(record, target.number) for filename, record in taken.items()}
    corrections = {filename: parse_correction(text.encode("utf-8"), target.export) for filename, text in texts.items()}
    label_map = {str(label): name for label, name in target.ours.names.items()}
    check_lines(target.ours.path, label_map, list(corrections.values()))
    found = _fresh(target, corrections, target.before(), options.overwrite)
    counts.problems.extend(found.conflicts)
    counts.already = found.already
    _refuse_problems(target.export, counts, options.skip)
    if not found.filenames:
        return 0
    with locked_corrections(target.path):  # a review page may be open
        before = target.before()
        found = _fresh(target, corrections, before, options.overwrite)
        lines = {(key_of(each.record), max(1, each.since)): _text(each) for each in before}
        lines |= {(key_of(corrections[name].record), target.number): texts[name] for name in found.filenames}
        ordered = sorted(lines, key=lambda at: (at[1], at[0][0], at[0][1] or ""))
        write_corrections(target.path, (lines[at] for at in ordered))
    return len(found.filenames)


@dataclass(frozen=True)
class _Fresh:
    """filenames: of new lines. already: number of equal corrections. conflicts: errors for different corrections."""

    filenames: tuple[str, ...]
    already: int
    conflicts: tuple[InputError, ...]


def _fresh(
    target: _Target, corrections: Mapping[str, Correction], before: Sequence[Correction], overwrite: bool
) -> _Fresh:
    held = holding(before, target.number)
    withdrawn = {key_of(each.record) for each in before if each.withdrawn and each.since == target.number}
    drafts = unfinished_drafts(target.path, target.number)
    filenames, conflicts, already = list[str](), list[InputError](), 0
    for filename, correction in corrections.items():
        key = key_of(correction.record)
        other = held.get(key)
        if other is not None and not change_of(other.record, correction.record.instances or ()):
            already += 1
            continue
        newer = other is not None and _is_newer(other, target.ours.records[filename], target.number)
        drafted = key_bytes(*key) in drafts
        if (newer or drafted or key in withdrawn) and not overwrite:
            location = other.location if other is not None else str(target.path)
            what = "an unfinished draft" if drafted else "withdrawn labels" if key in withdrawn else "other corrections"
            remedy = "expected --overwrite to replace them"
            conflicts.append(InputError(location, f"{filename!r} has {what} that the export does not have", remedy))
        else:
            filenames.append(filename)
    return _Fresh(tuple(filenames), already, tuple(conflicts))


def _is_newer(correction: Correction, labels: Record, number: int) -> bool:
    """Whether an image was corrected or confirmed after its labels were made."""
    if change_of(correction.record, labels.instances or ()):
        return True
    # Labels made from a correction have its boxes, which have no scores.
    scored = bool(labels.instances) and _needs_a_person(labels)
    return scored and correction.since == number


def _text(correction: Correction) -> str:
    return correction.text if correction.since else reviewed_text(correction.record, 1)


def _refuse_problems(export: str, counts: ImportCounts, skip: bool) -> None:
    problems = counts.problems
    if not problems or (skip and counts.by_path + counts.by_name):
        return
    listed = "\n".join(first_lines(map(str, problems), MAX_LISTED))
    what = f"nothing was imported: {many(len(problems), 'problem')} in {many(counts.exported, 'image')}"
    raise InputError(export, what, f"correct them there, or use --skip to leave those images out\n{listed}")


def describe_import(imported: Imported, labels: str | Path) -> str:
    """The result of an import as text."""
    counts, name = imported.counts, Path(labels).name
    lines = [
        f"{many(counts.exported, 'image')} exported: {counts.by_path} found by path, {counts.by_name} by file name",
        f"{counts.changed} changed ({many(counts.added, 'box')} added, {counts.removed} removed; a moved one is both), "
        f"{counts.confirmed} confirmed as they were, {counts.unchanged} unchanged, {counts.unfinished} not labelled",
    ]
    if imported.absent:
        lines.append(f"{many(imported.absent, 'line')} of {name} not in the export")
    if counts.already:
        lines.append(f"{counts.already} corrected in the same way already")
    if counts.problems:
        lines.append(f"{many(len(counts.problems), 'problem')}; these images were left out:")
        lines += first_lines(map(str, counts.problems), MAX_LISTED)
    if not imported.written:
        return "\n".join([*lines, "nothing to import"])
    lines.append(f"{imported.path}: {many(imported.written, 'line')} added, from round {imported.number} on")
    return "\n".join(lines)
