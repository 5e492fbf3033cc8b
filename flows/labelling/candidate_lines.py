"""The lines of a source with their candidates, as the filter and its explanations go through them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from flows.labelling.manifest import Manifest, parse_line, read_lines
from flows.policies.apply import Candidate, Label, Reasons, apply_policy, merge_views
from flows.policies.policy import Policy
from formats.candidates import ImageCandidates, ImageProblem, read_candidates
from formats.record import Record


class CandidateLine(NamedTuple):
    """A line of the source. views: its candidates in each view. problem: set if it could not be labelled."""

    text: str
    record: Record | None
    views: list[list[Candidate]]
    problem: ImageProblem | None

    @property
    def filename(self) -> str:
        """The file name; "" if the line has none."""
        return self.problem.filename if self.problem is not None else self.record.filename if self.record else ""


def lines_with_candidates(views: Sequence[Manifest]) -> Iterator[CandidateLine]:
    """Yields every line with its candidates; one shard of each view is in memory at a time."""
    manifest = views[0]
    for shard in manifest.shards:
        shards = [read_candidates(view.shard_path(shard.index)) for view in views]
        by_line = [{image.line: image for image in found.by_line()} for found in shards]
        problems = {problem.line: problem for found in reversed(shards) for problem in found.problems}
        for line in read_lines(manifest.source, shard):
            if line.number in problems:
                yield CandidateLine(line.text, None, [], problems[line.number])
            else:
                record = parse_line(line, manifest.source)
                yield CandidateLine(line.text, record, [_candidates(found.get(line.number)) for found in by_line], None)


def names_of_regions(manifest: Manifest, record: Record) -> list[str]:
    """The category or phrase for each region index of this record's candidates."""
    if manifest.label_map is not None:
        return list(manifest.label_map.values())
    return [" ".join(region.phrase) for region in record.regions or ()]


def _candidates(image: ImageCandidates | None) -> list[Candidate]:
    if image is None:
        return []
    return [Candidate(*row) for row in zip(image.region.tolist(), map(tuple, image.box.tolist()), image.score.tolist())]


def decide(views: Sequence[Sequence[Candidate]], names: Sequence[str], policy: Policy, reasons: Reasons) -> list[Label]:
    """The labels of one image, from its candidates in each view. names: from names_of_regions."""
    return apply_policy(merge_views(views, names, policy, reasons), names, policy, reasons)
