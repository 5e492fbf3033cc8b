"""The report: whole from what a run leaves on disk, finished or not, and nothing in it comes from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.labelling.plan import plan
from flows.policies.policy import Policy
from flows.self_training.drift import label_drift
from flows.self_training.gate import Verdict
from flows.self_training.report import ImageComparison, comparison_sheet, read_rounds, write_run_report
from flows.self_training.state import LoopState, RoundResult, read_loop_state, write_loop_state
from formats.dataset_names import labels_path
from formats.io.errors import InputError
from formats.record import Instance, Record
from tests.pipeline_cases import FakeDetector, make_images, make_weights

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Headings, pictures and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.pictures, self.headings = text, [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs)["src"])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two rounds of a run, the second not evaluated; one image is broken."""
    make_images(tmp_path / "images", 5)
    (tmp_path / "images" / "image-002.png").write_bytes(b"nothing")
    make_weights(tmp_path)
    source, run = tmp_path / "x_od.json", tmp_path / "run"
    bootstrap_od(tmp_path / "images", ("cat", "<b>dog</b>"), source, tmp_path / "x_label_map.json")
    for number in (1, 2):
        manifest = plan(source, tmp_path / "images", tmp_path / "weights.safetensors", run / f"round-{number}")
        infer(manifest, FakeDetector(), progress=False)
        filter_candidates(manifest, Policy(score_threshold=0.5 + 0.2 * (number - 1)), labels_path(source, number))
    (run / "round-1" / "evaluation.json").write_text(json.dumps({"metrics": {"ap": 0.4321, "ap50": 0.6}, "asked": {}}))
    (run / "round-2" / "evaluation.json").write_text(json.dumps({"metrics": {"ap": 0.41, "ap50": 0.5}, "asked": {}}))
    (run / "round-1" / "evaluation-source.json").write_text(json.dumps({"metrics": {"ap": 0.7, "ap50": 0.9}}))
    rounds = []
    for number in (1, 2):
        labels = labels_path(source, number)
        drift = label_drift(labels_path(source, 1), labels) if number == 2 else None
        counts = json.loads(labels.with_suffix(".meta.json").read_text())["counts"]
        verdict = Verdict(number == 1, ("AP fell <deep>",) if number == 2 else (), drift=drift)
        rounds.append(RoundResult(number, labels, f"model-{number}", None, counts, {}, verdict))
    write_loop_state(run, LoopState("cats & dogs", "stopped", "AP fell <deep>", {}, tuple(rounds)))
    return run


def test_the_report_tells_the_whole_run(run_dir: Path) -> None:
    page = Page(write_run_report(run_dir, curve_names={"evaluation-source": "what it knew"}).read_text())
    assert page.open == []
    assert page.headings[0] == "Groundhog: cats & dogs"
    for heading in (
        "Outcome",
        "Held-out scores",
        "Label drift",
        "Changed labels, v1 to v2",
        "Scores of the candidates",
        "Labels v1",
        "Labels v2",
        "Quarantined",
    ):
        assert heading in page.headings
    for text in ("0.432", "what it knew", "image-002.png", "dropped: score", "policy: score threshold"):
        assert text in page.text


def test_a_single_score_is_not_plotted(run_dir: Path) -> None:
    (run_dir / "round-2" / "evaluation.json").unlink()
    page = Page(write_run_report(run_dir).read_text())
    assert "Held-out scores" not in page.headings
    assert "0.432" in page.text


def test_nothing_in_it_comes_from_elsewhere_and_names_are_no_markup(run_dir: Path) -> None:
    page = Page(write_run_report(run_dir).read_text())
    assert page.pictures
    assert all(source.startswith("data:image/") for source in page.pictures)
    text = page.text.replace('<a href="http://127.0.0.1:8765/">', "")  # the review page while it runs
    assert not re.search(r"https?://|<script [^>]|<link|@import|url\(", text)
    assert "<b>dog</b>" not in page.text
    assert "&lt;b&gt;dog&lt;/b&gt;" in page.text
    assert "AP fell &lt;deep&gt;" in page.text


def test_the_counts_are_those_of_the_labels(run_dir: Path) -> None:
    entry = read_rounds(run_dir)[0]
    counts = entry.meta["counts"]
    text = write_run_report(run_dir).read_text()
    row = re.search(r"candidates above the floor</th>(.*?)</tr>", text)
    assert row
    assert f"<td>{counts['candidates']:,}</td>" in row.group(1)
    assert counts["candidates"] == counts["kept"] + sum(counts["dropped"].values())


def test_an_unfinished_run_has_a_report_too(run_dir: Path) -> None:
    for path in (*run_dir.rglob("shard-*.parquet"), *run_dir.rglob("evaluation*.json"), run_dir / "rounds.json"):
        path.unlink()
    for path in run_dir.parent.glob("x_od_v*"):
        path.unlink()
    page = Page(write_run_report(run_dir).read_text())
    assert "not yet" in page.text
    assert "Held-out scores" not in page.headings


def test_labels_of_another_plan_are_not_shown_as_this_run_s(run_dir: Path) -> None:
    meta = run_dir.parent / "x_od_v2.meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"plan": "another"}))
    assert [entry.labels is not None for entry in read_rounds(run_dir)] == [True, False]


def test_rounds_of_an_earlier_run_are_not_shown(run_dir: Path) -> None:
    loop = read_loop_state(run_dir)
    write_loop_state(run_dir, LoopState(loop.name, "stopped", "", {}, loop.rounds[:1]))
    page = Page(write_run_report(run_dir).read_text())
    assert "Labels v1" in page.headings
    assert "Labels v2" not in page.headings
    write_loop_state(run_dir, LoopState(loop.name, "running", "", {}, loop.rounds[:1]))  # the second is under way
    assert "Labels v2" in Page(write_run_report(run_dir).read_text()).headings


def test_one_labelling_without_rounds_has_a_report(run_dir: Path) -> None:
    assert "Labels v1" in Page(write_run_report(run_dir / "round-1").read_text()).headings


def test_images_that_have_moved_leave_the_rest_of_the_report(run_dir: Path) -> None:
    for path in (run_dir.parent / "images").iterdir():
        path.unlink()
    assert "Labels v1" not in Page(write_run_report(run_dir).read_text()).headings


def test_comparisons_stand_below_one_another(run_dir: Path) -> None:
    box = Instance((10, 10, 60, 60), 0, "cat")
    scene = ImageComparison(
        np.full((100, 100, 3), 90, np.uint8),
        Record("a", 100, 100, (box,)),
        {"before": Record("a", 100, 100, ()), "after": Record("a", 100, 100, (box,))},
    )
    sheet = comparison_sheet([scene] * 5, columns=4)
    assert sheet.shape[1] == 4 * 320 + 3 * 8
    assert sheet.shape[0] > 6 * 320  # two blocks of truth, before, after; the second has three holes
    page = Page(write_run_report(run_dir, comparisons={"What changed": [scene]}).read_text())
    assert "What changed" in page.headings


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json"):
        write_run_report(tmp_path)
