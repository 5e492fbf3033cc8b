"""Quarantined images: each line has the fields that readers expect, and they are listed at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.labelling.bootstrap import bootstrap_od, bootstrap_vg
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.policies.policy import Policy
from formats.candidates import ImageProblem
from formats.odvg import read_odvg
from formats.odvg_lines import is_quarantined
from formats.quarantine import MAX_LISTED, quarantine_summary, requarantined_line
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images


def in_mmdet_reader(line: dict, categories: bool) -> list[dict]:
    """What mmdet's ODVG data set takes from a line: these keys, each without a default but `detection`."""
    line["filename"], line["height"], line["width"]
    if categories:
        return [{"bbox": found["bbox"]} for found in line.get("detection", {}).get("instances", [])]
    line["grounding"]["caption"]
    return [{"bbox": region["bbox"]} for region in line["grounding"]["regions"]]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("broken", ("", None, None)),
        ("[1]", ("", None, None)),
        ('{"height": 3, "width": 4}', ("", 3, 4)),
        ('{"filename": "a.jpg", "height": "3", "width": true}', ("a.jpg", None, None)),
        ('{"filename": "a.jpg", "height": 3, "width": 4, "detection": {"instances": [{}]}}', ("a.jpg", 3, 4)),
        ('{"filename": 7, "height": 3, "width": 4, "detection": 5}', ("", 3, 4)),
    ],
)
def test_a_broken_line_keeps_the_fields_that_it_still_tells(text: str, known: tuple) -> None:
    line = requarantined_line("why", text)
    assert (line["filename"], line["height"], line["width"], line["quarantined"]) == (*known, "why")
    assert in_mmdet_reader(line, categories=True) == []


@pytest.mark.parametrize("captions", [False, True])
def test_every_bad_image_and_line_is_a_line_of_the_labels(tmp_path: Path, captions: bool) -> None:
    names = [*make_images(tmp_path / "images", 4), "missing.png", "text.jpg", "void.jpg"]
    (tmp_path / "images" / "text.jpg").write_text("not an image")
    (tmp_path / "images" / "void.jpg").write_bytes(b"")
    whole = (tmp_path / "images" / names[1]).read_bytes()
    (tmp_path / "images" / names[1]).write_bytes(whole[: len(whole) // 2])
    make_weights(tmp_path)
    annotations = tmp_path / ("x_vg.json" if captions else "x_od.json")
    if captions:
        bootstrap_vg(tmp_path / "images", dict.fromkeys(names, "a cat"), annotations, {"a cat": ["a cat"]})
        missing_field = '{"filename": "image-000.png", "height": 30, "grounding": {"caption": "a cat", "regions": []}}'
    else:
        bootstrap_od(tmp_path / "images", ["cat"], annotations)
        missing_field = '{"filename": "image-000.png", "height": 30}'
    with open(annotations, "a") as file:
        file.write(missing_field + "\n")
    manifest = plan_images(tmp_path, annotations, None, tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    result = filter_candidates(manifest, Policy(score_threshold=0.0))

    lines = [json.loads(line) for line in result.labels.read_text().splitlines()]
    assert len(lines) == len(annotations.read_text().splitlines())
    bad = {line["filename"] for line in lines if "quarantined" in line}
    assert bad == {names[0], names[1], "text.jpg", "void.jpg"} | ({"missing.png"} if captions else set())
    assert result.counts["quarantined"] == len(result.quarantined) == len(bad)
    assert len(list(read_odvg(result.labels))) == len(lines) - len(bad)
    for line in lines:
        assert bool(in_mmdet_reader(line, not captions)) is ("quarantined" not in line)


def test_the_end_of_a_run_names_some_and_counts_all() -> None:
    assert quarantine_summary([]) == ""
    lines = quarantine_summary(
        [ImageProblem(index, f"{index}.jpg", "why") for index in range(MAX_LISTED + 3)], "x.meta.json"
    )
    assert lines.splitlines()[0] == f"{MAX_LISTED + 3} quarantined:"
    assert lines.splitlines()[1] == "  line 1: 0.jpg: why"
    assert lines.splitlines()[-1] == "  and 3 more: x.meta.json"
    assert len(lines.splitlines()) == MAX_LISTED + 2
    assert "no filename" in quarantine_summary([ImageProblem(0, "", "why")])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"filename": "a.png", "quarantined": "is empty"}', True),
        ('{"filename": "a.png", "height": 3, "width": 4}', False),
        ('{"filename": "a.png", "detection": {"instances": [{"category": "quarantined"}]}}', False),  # a name alone
        ('["quarantined"]', False),
        ('{"quarantined": ', False),
    ],
)
def test_the_key_alone_makes_a_line_quarantined(line: str, expected: bool) -> None:
    assert is_quarantined(line) is is_quarantined(line.encode()) is expected
