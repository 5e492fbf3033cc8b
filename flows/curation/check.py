"""`groundhog check --images`: finds duplicates, leakage between sets, and images that should be inspected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.curation.duplicates import DuplicatePair, duplicate_groups, find_duplicates
from flows.curation.fingerprints import Fingerprint, fingerprint_images
from flows.curation.image_quality import ImageFinding, image_findings
from formats import READERS
from formats.convert import call, guess_format
from formats.images import list_images
from formats.io.errors import InputError
from formats.io.plurals import first_lines, many


@dataclass(frozen=True)
class ImageReport:
    """The results for one or more sets of images.

    images: those that could be read, set after set. set_of: the set of each. pairs: duplicates, as indices of images.
    findings: images that should be inspected, including unreadable ones.
    """

    images: tuple[Fingerprint, ...]
    set_of: tuple[str, ...]
    pairs: tuple[DuplicatePair, ...]
    findings: tuple[ImageFinding, ...]

    @property
    def leaks(self) -> tuple[DuplicatePair, ...]:
        """Duplicates across sets, such as a test image that is also in the training set."""
        return tuple(pair for pair in self.pairs if self.set_of[pair.first] != self.set_of[pair.second])

    @property
    def duplicates(self) -> tuple[DuplicatePair, ...]:
        """Duplicates within one set."""
        return tuple(pair for pair in self.pairs if self.set_of[pair.first] == self.set_of[pair.second])


ImageSets = Mapping[str, tuple[str | Path, Sequence[str] | None]]  # name -> folder, and the images in it (None: all)


def image_sets(images: str | Path, annotations: str | Path | None, against: Sequence[str]) -> ImageSets:
    """The sets that `groundhog check --images` compares, by the names that the user passed.

    against: folders, and annotation files whose images are in `images`. With such a file, the first set consists of
    the images of `annotations`. Raises InputError for a set that is listed twice, or a folder inside another.
    """
    files = [each for each in against if Path(each).is_file()]
    if not files:
        sets: dict[str, tuple[str | Path, Sequence[str] | None]] = {str(images): (images, None)}
    elif annotations is None:
        raise InputError("--against", f"{files[0]} is a file", "expected the annotation file of the other images too")
    else:
        sets = {str(annotations): (images, _filenames(annotations))}
    for each in against:
        if Path(each).is_dir():
            _refuse_nested(each, [folder for folder, _ in sets.values()])
            sets[each] = each, None
        elif each not in files:
            raise InputError("--against", f"{each} does not exist", "expected an image folder or an annotation file")
        elif any(Path(each).samefile(name) for name in sets):
            raise InputError("--against", f"{each} is given twice", "expected each set once")
        else:
            sets[each] = images, _filenames(each)
    return sets


def _refuse_nested(folder: str, others: Sequence[str | Path]) -> None:
    real = Path(folder).resolve()
    for other in map(Path, others):
        if real == other.resolve():
            raise InputError("--against", f"{folder} and {other} are the same folder", "expected different folders")
        if real.is_relative_to(other.resolve()) or other.resolve().is_relative_to(real):
            what = f"one of {folder} and {other} is inside the other, so they share images"
            raise InputError("--against", what, "expected separate folders")


def _filenames(annotations: str | Path) -> list[str]:
    """The file names of the images of an annotation file, without repetitions."""
    source_format = guess_format(annotations)
    records = call(f"check {annotations}", READERS[source_format], {}, annotations)
    return list(dict.fromkeys(record.filename for record in records))


def check_images(sets: ImageSets, progress: bool = True) -> ImageReport:
    """Looks at every image of some sets. Raises InputError for a set without images."""
    images: list[Fingerprint] = []
    set_of: list[str] = []
    findings: list[ImageFinding] = []
    for name, (folder, filenames) in sets.items():
        listed = list_images(folder) if filenames is None else filenames
        if not listed:
            raise InputError(name, "has no images", "expected a folder of images, or labels of some")
        for filename, outcome in zip(listed, fingerprint_images(folder, listed, progress), strict=True):
            if isinstance(outcome, InputError):
                findings.append(ImageFinding(filename, "unreadable", str(outcome.what), name))
                continue
            images.append(outcome)
            set_of.append(name)
            findings += [finding._replace(set_name=name) for finding in image_findings(outcome)]
    return ImageReport(tuple(images), tuple(set_of), tuple(find_duplicates(images)), tuple(findings))


def describe_report(report: ImageReport, max_lines: int = 20) -> str:
    """The report as text. max_lines: of each kind; the rest is only counted."""
    parts = []
    names = [image.filename for image in report.images]
    several = len({*report.set_of, *(finding.set_name for finding in report.findings)}) > 1

    def prefix(set_name: str) -> str:
        return f"{set_name}: " if several else ""

    if report.leaks:
        lines = [_pair(report, pair) for pair in report.leaks]
        parts.append(_listing(f"{many(len(lines), 'leak')}: the same image in two sets", lines, max_lines))
    groups = duplicate_groups(len(report.images), report.duplicates)
    if groups:
        spare = sum(len(group) - 1 for group in groups)
        kinds = Counter(pair.kind for pair in report.duplicates)
        lines = [prefix(report.set_of[group[0]]) + ", ".join(names[index] for index in group) for group in groups]
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        title = f"{many(len(groups), 'group')} of duplicates, {many(spare, 'redundant image')} (pairs: {counted})"
        parts.append(_listing(title, lines, max_lines))
    by_kind: dict[str, list[str]] = {}
    for finding in report.findings:
        line = f"{prefix(finding.set_name)}{finding.filename}: {finding.detail}"
        by_kind.setdefault(finding.kind, []).append(line)
    parts += [_listing(f"{len(lines)} {kind}", lines, max_lines) for kind, lines in by_kind.items()]
    return "\n".join(parts) or f"{many(len(report.images), 'image')}: no duplicates, nothing unusual"


def _pair(report: ImageReport, pair: DuplicatePair) -> str:
    first, second = (f"{report.set_of[index]}: {report.images[index].filename}" for index in (pair.first, pair.second))
    return f"{first} = {second} ({pair.kind}, {pair.similarity:.0%})"


def _listing(title: str, lines: Sequence[str], max_lines: int) -> str:
    return "\n".join([title, *first_lines(lines, max_lines)])
