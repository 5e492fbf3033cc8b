"""Why a box was dropped: `groundhog filter --explain` says of each candidate what the filter does with it."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from flows.cli.command import main
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.explain import OVERLAPPED, WORDS, explain_image
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.labelling.manifest import Manifest
from flows.policies.apply import Candidate, DropLog, Reason, apply_policy
from flows.policies.policy import Policy, Quantile
from formats.io.errors import InputError
from formats.odvg import read_odvg
from tests.pipeline_cases import FakeDetector, make_images, make_weights, plan_images

POLICIES = [
    Policy(score_threshold=0.4),
    Policy(score_threshold=0.6, ignore_from=0.2, nms_iou=0.1, min_size=8),
    Policy(score_threshold=0.1, cross_class_iou=0.1, distractors=("dog",), distractor_iou=0.2, max_per_image=2),
    Policy(adaptive=Quantile(1.5), confident_from=0.95),
]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    make_images(tmp_path / "images", 5)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat", "dog"], tmp_path / "x_od.json")
    manifest = plan_images(tmp_path, made.annotations, made.label_map, tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    return manifest


@pytest.mark.parametrize("policy", POLICIES)
def test_the_explanations_of_all_images_add_up_to_what_the_filter_counts(manifest: Manifest, policy: Policy) -> None:
    result = filter_candidates(manifest, policy)
    outcomes: Counter[str] = Counter()
    for record in read_odvg(result.labels):
        (explanation,) = explain_image([manifest], record.filename, policy)
        outcomes.update(each.outcome for each in explanation.decisions)
    dropped = {f"dropped: {reason}": count for reason, count in result.counts["dropped"].items()}
    expected = {"label": result.counts["kept"], "ignored in training": result.counts["ignored"], **dropped}
    assert outcomes == Counter({name: count for name, count in expected.items() if count})


def test_a_box_is_explained_by_the_policy_that_made_the_labels(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    work_dir = str(manifest.work_dir)
    assert main(["filter", work_dir, "--score-threshold", "0.55", "--nms-iou", "0.1", "--boxes-per-image", "3"]) == 0
    before = {path: path.read_bytes() for path in manifest.source.parent.glob("x_od*")}
    capsys.readouterr()
    assert main(["filter", work_dir, "--explain", "image-001.png"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("image-001.png: 12 boxes\n")
    assert "the limit is 0.1\n" in printed
    assert printed.endswith(f"policy: that of {manifest.source.with_name('x_od_v1.json')}\n")
    assert main(["filter", work_dir, "--explain", "image-001.png", "--score-threshold", "0.25"]) == 0
    printed = capsys.readouterr().out
    assert ": not above 0.25" in printed
    assert printed.endswith("policy: the options of this command\n")
    assert {path: path.read_bytes() for path in manifest.source.parent.glob("x_od*")} == before


def test_a_dropped_box_comes_with_its_reason_in_words(manifest: Manifest) -> None:
    cat, copy, thin = (
        Candidate(0, (0, 0, 10, 10), 0.9),
        Candidate(0, (0, 0, 10, 9), 0.8),
        Candidate(0, (20, 20, 20.5, 40), 0.7),
    )
    log = DropLog()
    apply_policy([copy, cat, thin], ["cat"], Policy(), log)
    assert log.dropped == [(thin, "small"), (copy, "duplicate")]
    assert +log == {"duplicate": 1, "small": 1}
    policy = Policy(nms_iou=0.01, score_threshold=0.5, ignore_from=0.2, max_per_image=1, min_size=5)
    text = "\n".join(str(explain_image([manifest], f"image-00{number}.png", policy)[0]) for number in range(5))
    for reason in (
        "dropped: duplicate: IoU 0.",
        "dropped: score: not above 0.2",
        "dropped: over the limit: the image has 1 better box\n",
        "dropped: small: its shorter side has ",
    ):
        assert reason in text


def test_every_reason_is_explained_and_listed_in_the_docs_of_the_pipeline() -> None:
    """One that is added to the policies has to be named there too."""
    reasons = set(get_args(Reason))
    assert WORDS.keys() | OVERLAPPED.keys() | {"merged"} == reasons
    page = (Path(__file__).parent.parent / "docs" / "pipeline.md").read_text(encoding="utf-8")
    table = page.partition("| reason |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) == reasons | {"reviewed"}


def test_an_image_that_the_source_does_not_have_is_refused(manifest: Manifest) -> None:
    with pytest.raises(InputError, match=r"has no image 'image-999\.png'"):
        explain_image([manifest], "image-999.png", Policy())


def test_labels_of_several_views_are_explained_with_the_same_views(manifest: Manifest, tmp_path: Path) -> None:
    other = plan_images(tmp_path, manifest.source, tmp_path / "x_label_map.json", tmp_path / "smaller", scale=(80, 90))
    infer(other, FakeDetector(), progress=False)
    filter_candidates(manifest, Policy(), views=[other])
    assert main(["filter", str(manifest.work_dir), "--explain", "image-000.png"]) == 2
    command = ["filter", str(manifest.work_dir), "--view", str(other.work_dir), "--explain", "image-000.png"]
    assert main(command) == 0
