"""Image folders before and after labelling: duplicates, leakage between sets, and pictures that are worth a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.curation.duplicates import DuplicatePair, duplicate_groups, find_duplicates
from flows.curation.fingerprints import Fingerprint, fingerprint_images
from flows.curation.image_quality import ImageFinding, image_findings
from formats.images import list_images
from formats.io.errors import InputError
from formats.io.plurals import many


@dataclass(frozen=True)
class ImageReport:
    """What was found in one or more sets of images.

    images: those that could be read, set after set; set_of: the name of the set of each. pairs: duplicates, as indices
    of images. findings: pictures worth a look, unreadable ones among them.
    """

    images: tuple[Fingerprint, ...]
    set_of: tuple[str, ...]
    pairs: tuple[DuplicatePair, ...]
    findings: tuple[ImageFinding, ...]

    @property
    def leaks(self) -> tuple[DuplicatePair, ...]:
        """Duplicates of which each lies in another set: a test on one of them is no test of the other."""
        return tuple(pair for pair in self.pairs if self.set_of[pair.first] != self.set_of[pair.second])

    @property
    def duplicates(self) -> tuple[DuplicatePair, ...]:
        """Duplicates within one set."""
        return tuple(pair for pair in self.pairs if self.set_of[pair.first] == self.set_of[pair.second])


def check_images(sets: Mapping[str, tuple[str | Path, Sequence[str] | None]], progress: bool = True) -> ImageReport:
    """Looks at every image of some sets.

    sets: name -> folder, and the images in it (None: all). Raises InputError for a folder that cannot be listed.
    """
    images: list[Fingerprint] = []
    set_of: list[str] = []
    findings: list[ImageFinding] = []
    for name, (folder, filenames) in sets.items():
        listed = list_images(folder) if filenames is None else filenames
        for filename, outcome in zip(listed, fingerprint_images(folder, listed, progress), strict=True):
            if isinstance(outcome, InputError):
                findings.append(ImageFinding(filename, "unreadable", str(outcome.what)))
                continue
            images.append(outcome)
            set_of.append(name)
            findings += image_findings(outcome)
    return ImageReport(tuple(images), tuple(set_of), tuple(find_duplicates(images)), tuple(findings))


def describe_report(report: ImageReport, max_lines: int = 20) -> str:
    """For people. max_lines: of each kind; the rest is counted."""
    parts = []
    if report.leaks:
        lines = [_pair(report, pair) for pair in report.leaks]
        parts.append(_listing(f"{len(lines)} leaks: the same picture in two sets", lines, max_lines))
    groups = duplicate_groups(len(report.images), report.duplicates)
    if groups:
        spare = sum(len(group) - 1 for group in groups)
        kinds = Counter(pair.kind for pair in report.duplicates)
        lines = [", ".join(report.images[index].filename for index in group) for group in groups]
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        parts.append(
            _listing(
                f"{len(groups)} groups of duplicates, {many(spare, 'image')} to spare ({counted})", lines, max_lines
            )
        )
    by_kind: dict[str, list[str]] = {}
    for finding in report.findings:
        by_kind.setdefault(finding.kind, []).append(f"{finding.filename}: {finding.detail}")
    parts += [_listing(f"{len(lines)} {kind}", lines, max_lines) for kind, lines in by_kind.items()]
    return "\n".join(parts) or f"{many(len(report.images), 'image')}: no duplicates, nothing unusual"


def _pair(report: ImageReport, pair: DuplicatePair) -> str:
    first, second = (f"{report.set_of[index]}: {report.images[index].filename}" for index in (pair.first, pair.second))
    return f"{first} = {second} ({pair.kind}, {pair.similarity:.0%})"


def _listing(title: str, lines: Sequence[str], max_lines: int) -> str:
    shown = [f"  {line}" for line in lines[:max_lines]]
    rest = [f"  and {len(lines) - max_lines} more"] if len(lines) > max_lines else []
    return "\n".join([title, *shown, *rest])
