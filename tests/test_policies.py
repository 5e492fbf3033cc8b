"""Policies: each technique against its definition, brute force or a case with a known answer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.labelling.mirrored import flipped_back, shown_as
from flows.labelling.settings import View
from flows.policies import Consensus, Mixture, Policy, Quantile, TargetPrecision
from flows.policies.agreement import image_agreement
from flows.policies.apply import Candidate, Reasons, apply_policy, merge_views
from flows.policies.box_fusion import Boxes, fuse_views
from flows.policies.calibration import calibrate, correct_boxes, precision_threshold
from flows.policies.nms import suppress_duplicates, suppressed_by_distractor
from flows.policies.thresholds import mixture_threshold, quantile_threshold
from formats.boxes import boxes_by_name, pairwise_iou
from formats.io.errors import InputError
from formats.record import Instance, Record, Region
from grounding_model.inputs.image import read_image
from grounding_model.inputs.prompt import Prompt
from tests.pipeline_cases import Failure

NAMES = ["cat", "dog", "plate"]


def boxes_of(*rows: tuple[int, tuple[float, float, float, float], float]) -> Boxes:
    return Boxes(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float64).reshape(-1, 4),
        np.array([row[2] for row in rows], dtype=np.float64),
    )


def random_candidates(seed: int, count: int = 40) -> list[Candidate]:
    random = np.random.default_rng(seed)
    corners = np.sort(random.uniform(0, 60, (count, 2, 2)), axis=1).reshape(-1, 4)
    scores = random.uniform(0, 1, count)
    return [
        Candidate(int(random.integers(3)), (x1, y1, x2, y2), float(score))
        for (x1, y1, x2, y2), score in zip(corners, scores)
    ]


def test_a_box_that_a_distractor_suppresses_is_dropped_and_the_distractor_is_never_a_label() -> None:
    candidates = [
        Candidate(2, (0, 0, 10, 10), 0.9),  # a plate
        Candidate(0, (0, 0, 10, 9), 0.8),  # that looks like a cat
        Candidate(0, (30, 0, 40, 10), 0.7),  # a cat
        Candidate(2, (30, 0, 40, 9), 0.6),  # that looks like a plate
    ]
    reasons = Reasons()
    labels = apply_policy(candidates, NAMES, Policy(distractors=("plate",)), reasons)
    assert [label.candidate.score for label in labels] == [0.7]
    assert +reasons == {"of a distractor": 2, "distractor": 1}


@pytest.mark.parametrize("seed", range(3))
def test_rejection_by_distractors_agrees_with_brute_force(seed: int) -> None:
    ranked = sorted(random_candidates(seed), key=lambda each: -each.score)
    boxes = np.array([each.box for each in ranked])
    distractor = np.array([each.region == 2 for each in ranked])
    expected = [
        not distractor[row]
        and any(distractor[other] and pairwise_iou(boxes[[row]], boxes[[other]])[0, 0] > 0.3 for other in range(row))
        for row in range(len(ranked))
    ]
    assert suppressed_by_distractor(boxes, distractor, 0.3).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_with_one_view_the_order_of_scores_and_duplicates_does_not_matter(seed: int) -> None:
    candidates = random_candidates(seed)
    policy = Policy(score_threshold=0.4, distractors=("plate",), distractor_iou=0.3, nms_iou=0.3, cross_class_iou=0.4)
    quick = apply_policy(candidates, NAMES, policy, Reasons())
    everything = Policy(score_threshold=0.0, distractors=("plate",), distractor_iou=0.3, nms_iou=0.3)
    slow = [label for label in apply_policy(candidates, NAMES, everything, Reasons()) if label.candidate.score > 0.4]
    boxes = np.array([label.candidate.box for label in slow]).reshape(-1, 4)
    stays = suppress_duplicates(boxes, np.zeros(len(slow)), 0.4)
    assert [label.candidate for label in quick] == [label.candidate for label, kept in zip(slow, stays) if kept]


@pytest.mark.parametrize("views", [1, 3])
def test_every_candidate_is_a_label_or_counted(views: int) -> None:
    views_of_image = [random_candidates(seed) for seed in range(views)]
    policy = Policy(
        ignore_from=0.1,
        distractors=("plate",),
        cross_class_iou=0.5,
        min_size=5,
        max_per_image=8,
        consensus=Consensus(least_share=0.5),
    )
    reasons = Reasons()
    labels = apply_policy(merge_views(views_of_image, NAMES, policy, reasons), NAMES, policy, reasons)
    assert len(labels) + sum(reasons.values()) == 40 * views
    assert all(NAMES[label.candidate.region] != "plate" for label in labels)


def test_of_two_categories_on_one_object_the_better_is_kept_if_configured() -> None:
    candidates = [Candidate(0, (0, 0, 10, 10), 0.8), Candidate(1, (0, 0, 10, 9), 0.9)]
    assert len(apply_policy(candidates, NAMES, Policy(), Reasons())) == 2
    labels = apply_policy(candidates, NAMES, Policy(cross_class_iou=0.7), reasons := Reasons())
    assert [label.candidate.region for label in labels] == [1]
    assert reasons["other category"] == 1


def test_an_image_without_a_confident_box_teaches_nothing_and_denies_nothing() -> None:
    candidates = [Candidate(0, (0, 0, 10, 10), 0.4), Candidate(0, (30, 0, 40, 10), 0.35)]
    policy = Policy(score_threshold=0.1, confident_from=0.5)
    assert [label.ignore for label in apply_policy(candidates, NAMES, policy, Reasons())] == [True, True]
    candidates.append(Candidate(1, (0, 30, 10, 40), 0.5))
    assert [label.ignore for label in apply_policy(candidates, NAMES, policy, Reasons())] == [False, False, False]


@pytest.mark.parametrize(
    "settings",
    [
        {"score_threshold": 0.95},
        {"class_thresholds": dict.fromkeys(NAMES, 0.95)},
        {"adaptive": Mixture()},
        {"confident_from": 0.99},
        {"ignore_from": 0.2},
    ],
)
def test_without_thresholds_no_box_is_dropped_or_ignored_for_its_score(settings: dict) -> None:
    kept = Policy(min_size=5.0, **settings).without_thresholds()
    assert kept == Policy(min_size=5.0, score_threshold=0.0)
    labels = apply_policy(random_candidates(0), NAMES, kept, reasons := Reasons())
    assert reasons["score"] == 0
    assert reasons["small"] > 0
    assert not any(label.ignore for label in labels)


def test_a_score_may_be_the_weight_of_its_loss() -> None:
    candidates = [Candidate(0, (0, 0, 10, 10), 0.4)]
    assert apply_policy(candidates, NAMES, Policy(), Reasons())[0].weight == 1.0
    assert apply_policy(candidates, NAMES, Policy(soft_weights=True), Reasons())[0].weight == 0.4


def test_views_that_agree_are_one_view() -> None:
    look = boxes_of((0, (0, 0, 10, 10), 0.9), (1, (0, 0, 10, 10), 0.5), (0, (40, 0, 50, 10), 0.3))
    fused = fuse_views([look, look, look], 0.55)
    assert fused.share.tolist() == [1.0, 1.0, 1.0]
    for mine, theirs in zip(fused.boxes, look):
        np.testing.assert_allclose(mine, theirs)


def test_fused_boxes_are_the_weighted_mean_and_absent_views_count_as_nothing() -> None:
    first = boxes_of((0, (0, 0, 10, 10), 0.9), (0, (40, 0, 50, 10), 0.6))
    second = boxes_of((0, (2, 0, 12, 10), 0.3))
    fused = fuse_views([first, second], 0.55)
    np.testing.assert_allclose(fused.boxes.box, [[0.5, 0, 10.5, 10], [40, 0, 50, 10]])
    np.testing.assert_allclose(fused.boxes.score, [0.6, 0.3])
    assert fused.share.tolist() == [1.0, 0.5]
    assert [len(part) for part in fuse_views([boxes_of(), boxes_of()], 0.5).boxes] == [0, 0, 0]


def test_a_view_gives_each_object_one_box_at_most() -> None:
    """Two boxes of one view are two objects to it, though each overlaps the same box of another view."""
    first = boxes_of((0, (0, 0, 20, 10), 0.9))
    second = boxes_of((0, (0, 0, 14, 10), 0.8), (0, (8, 0, 20, 10), 0.7))  # IoU 0.7 and 0.6 with it, 0.3 with another
    fused = fuse_views([first, second], 0.4)
    assert sorted(fused.share.tolist()) == [0.5, 1.0]
    assert sorted(fused.boxes.score.tolist()) == pytest.approx([0.35, 0.85])


def test_a_bound_that_is_just_reached_lets_a_box_stay() -> None:
    halves = [Candidate(0, (0, 0, 10, 10), 0.9), Candidate(0, (0, 0, 10, 5), 0.8)]  # IoU 0.5
    assert len(apply_policy(halves, NAMES, Policy(nms_iou=0.5), Reasons())) == 2
    assert len(apply_policy(halves, NAMES, Policy(nms_iou=0.49), Reasons())) == 1
    one_of_two = [[Candidate(0, (0, 0, 10, 10), 0.9)], []]
    assert len(merge_views(one_of_two, NAMES, Policy(consensus=Consensus(least_share=0.5)), Reasons())) == 1
    assert len(merge_views(one_of_two, NAMES, Policy(consensus=Consensus(least_share=0.51)), Reasons())) == 0


def test_the_order_of_views_does_not_matter() -> None:
    views_of_image = [
        boxes_of(*sorted(((c.region, c.box, c.score) for c in random_candidates(s)), key=lambda r: -r[2]))
        for s in range(3)
    ]
    forward, backward = fuse_views(views_of_image, 0.5), fuse_views(views_of_image[::-1], 0.5)
    np.testing.assert_allclose(forward.boxes.score, backward.boxes.score)
    np.testing.assert_allclose(forward.boxes.box, backward.boxes.box)


def test_a_quantile_gives_as_many_boxes_as_are_expected() -> None:
    scores = np.random.default_rng(0).uniform(0, 1, 500)
    assert (scores > quantile_threshold(scores, 120.0)).sum() == 120
    assert quantile_threshold(scores, 600.0) == 0.0
    assert (scores > quantile_threshold(scores, 0.2)).sum() == 0


def test_a_mixture_is_parted_where_its_two_halves_are_as_likely() -> None:
    random = np.random.default_rng(1)
    scores = np.clip(np.concatenate([random.normal(0.2, 0.05, 600), random.normal(0.7, 0.1, 300)]), 0, 1)
    # 600 / 0.05 exp(-d²/2) of the lower equals 300 / 0.1 exp(-e²/2) of the upper at 0.381.
    assert mixture_threshold(scores, Mixture()) == pytest.approx(0.381, abs=0.02)
    assert mixture_threshold(scores, Mixture(share=0.95)) > mixture_threshold(scores, Mixture())
    assert mixture_threshold(scores[:20], Mixture()) is None
    assert mixture_threshold(np.full(100, 0.4), Mixture()) is None


@pytest.mark.parametrize("seed", range(4))
def test_calibration_is_the_rising_fit_of_least_squares(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 6, 30) / 5
    right = random.uniform(0, 1, 30) < scores
    fitted = calibrate(scores, right)(scores)
    best, levels = np.inf, np.unique(scores)
    assert all(a <= b for a, b in pairwise(fitted[np.argsort(scores)]))
    # Every rising step function is constant on runs of levels: try all ways to cut them.
    for cuts in range(2 ** (len(levels) - 1)):
        run = np.cumsum([0] + [cuts >> place & 1 for place in range(len(levels) - 1)])[np.searchsorted(levels, scores)]
        means = np.bincount(run, weights=right) / np.bincount(run)
        if (np.diff(means) >= 0).all():
            best = min(best, ((means[run] - right) ** 2).sum())
    assert ((fitted - right) ** 2).sum() == pytest.approx(best)


def test_a_precision_can_be_requested_instead_of_a_score() -> None:
    random = np.random.default_rng(2)
    scores = random.uniform(0, 1, 4000)
    right = random.uniform(0, 1, 4000) < scores  # a score is its probability: above t they are right (1 + t) / 2
    threshold = precision_threshold(scores, calibrate(scores, right), 0.9)
    assert threshold == pytest.approx(0.8, abs=0.05)
    assert right[scores > threshold].mean() == pytest.approx(0.9, abs=0.02)
    assert precision_threshold(scores, calibrate(scores, np.zeros(4000, dtype=bool)), 0.5) == 1.0


def test_overlaps_are_those_of_counted_pixels_and_empty_boxes_overlap_nothing() -> None:
    corners = np.sort(np.random.default_rng(0).integers(0, 20, (12, 2, 2)), axis=1).reshape(-1, 4)
    corners[0] = (3, 3, 3, 9)  # a line
    corners[1] = (5, 5, 5, 5)  # a point
    inked = np.zeros((12, 20, 20), dtype=bool)
    for pixels, (x1, y1, x2, y2) in zip(inked, corners):
        pixels[y1:y2, x1:x2] = True
    both, either = inked[:, None] & inked, inked[:, None] | inked
    expected = both.sum((2, 3)) / np.maximum(either.sum((2, 3)), 1)
    boxes = [(float(x1), float(y1), float(x2), float(y2)) for x1, y1, x2, y2 in corners]
    assert pairwise_iou(boxes, corners.astype(np.float64)) == pytest.approx(expected)
    assert (pairwise_iou(boxes[:2], boxes) == 0.0).all()
    assert pairwise_iou([], boxes).shape == (0, 12)
    assert pairwise_iou(boxes, []).shape == (12, 0)


def test_a_true_box_is_found_once() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], dtype=np.float64)
    assert correct_boxes(boxes, boxes[:1], 0.5).tolist() == [True, False, False]
    assert correct_boxes(boxes, np.zeros((0, 4)), 0.5).tolist() == [False, False, False]


def test_agreement_is_one_for_equals_nothing_for_strangers_and_symmetric() -> None:
    cat, dog = (0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0)
    boxes = {"cat": [cat], "dog": [dog]}
    assert image_agreement(boxes, boxes) == 1.0
    assert image_agreement(boxes, {"cat": [dog], "dog": [cat]}) == 0.0
    assert image_agreement({}, {}) == 1.0
    assert image_agreement({}, boxes) == 0.0
    assert image_agreement(boxes, {"cat": [cat], "dog": []}) == pytest.approx(2 / 3)
    assert image_agreement({"cat": [cat]}, boxes) == pytest.approx(2 / 3)


def test_boxes_are_grouped_by_category_or_phrase_and_ignored_ones_only_if_requested() -> None:
    first, second, third = ((float(x), 0.0, x + 5.0, 5.0) for x in (0, 10, 20))
    instances = (Instance(first, 0, "cat"), Instance(second, 1, "dog", ignore=True), Instance(third, 0, "cat"))
    pets = Record("a.png", 9, 99, instances)
    assert boxes_by_name(pets) == {"cat": [first, third]}
    assert boxes_by_name(pets, with_ignored=True) == {"cat": [first, third], "dog": [second]}
    regions = (
        Region((first,), ("a red", "cat")),
        Region((second,), ("a red", "cat"), ignore=True),
        Region((), ("a dog",)),
    )
    record = Record("a.png", 9, 99, caption="a red and furry cat, a dog", regions=regions)
    assert boxes_by_name(record) == {"a red cat": [first], "a dog": []}
    assert boxes_by_name(record, with_ignored=True) == {"a red cat": [first, second], "a dog": []}
    assert boxes_by_name(Record("a.png", 9, 99)) == {}


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (Policy, {"confident_from": 0.2}),
        (Policy, {"cross_class_iou": 1.5}),
        (Policy, {"distractors": ("dog",), "class_thresholds": {"dog": 0.5}}),
        (Quantile, {"boxes_per_image": 0.0}),
        (Mixture, {"share": 1.0}),
        (Mixture, {"least": 1}),
        (TargetPrecision, {"precision": 0.0}),
        (Consensus, {"iou": 2.0}),
    ],
)
def test_settings_without_effect_are_refused(make: type, settings: dict) -> None:
    with pytest.raises(InputError, match="policy"):
        make(**settings)


class LeftFinder:
    """Finds one object: the left half of the picture it is shown, (H, W, 3) or a path to be refused."""

    def predict_each(self, images, prompt, **settings):
        for image in images:
            if isinstance(image, Path):
                yield Failure(str(image), InputError(image, "is no image"))
            else:
                height, width = image.shape[:2]
                assert image[0, 0, 0] == 255, "the bright side is on the right of the stored image"
                yield Record("x", height, width, instances=(Instance((0, 0, width / 4, height), 0, "cat", 0.9),))


def test_a_mirrored_view_returns_boxes_in_pixels_of_the_stored_image(tmp_path: Path) -> None:
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 20:] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    images = [tmp_path / "a.png", tmp_path / "missing.png"]
    view = View(mirrored=True)
    found, failed = shown_as(view, LeftFinder()).predict_each(images, Prompt.categories(["cat"]))
    assert [each.box for each in found.instances] == [(30, 0, 40, 20)]
    assert "is no image" in str(failed.error)
    assert flipped_back(flipped_back(found, view), view) == found


class TopFinder:
    """Finds one object in the bright upper quarter of a picture; it is nowhere else."""

    def predict_each(self, images, prompt, **settings):
        for image in images:
            image = image if isinstance(image, np.ndarray) else read_image(image)
            height, width = image.shape[:2]
            bright = [0, 0, width, height / 4] if image[0, 0, 0] == 255 else [0, height * 3 / 4, width, height]
            yield Record("x", height, width, instances=(Instance(tuple(bright), 0, "cat", image[0, -1, 1] / 255),))


@pytest.mark.parametrize(
    ("view", "name", "corner"),  # corner: of the stored image, whose green the finder sees at the upper right
    [
        (View(), "cat", (0, -1)),
        (View(upside_down=True), "cat", (-1, -1)),
        (View(upside_down=True, mirrored=True), "cat", (-1, 0)),
        (View(upside_down=True), "cat at the top", (0, -1)),  # would be false of what is shown
        (View(upside_down=True, mirrored=True), "left cat", (-1, -1)),
    ],
)
def test_an_image_upside_down_gives_boxes_of_the_stored_image(
    view: View, name: str, corner: tuple[int, int], tmp_path: Path
) -> None:
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[30:, :, 0] = 255
    picture[(*corner, 1)] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    [found] = shown_as(view, TopFinder()).predict_each([tmp_path / "a.png"], Prompt.categories([name]))
    assert [(each.box, each.score) for each in found.instances] == [((0, 30, 20, 40), 1.0)]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("upside_down", [False, True])
def test_a_transposed_image_gives_boxes_of_the_stored_image(mirrored: bool, upside_down: bool, tmp_path: Path) -> None:
    """With the two flips these are all eight ways to lay an image on a table."""
    picture = np.zeros((40, 20, 3), np.uint8)
    bright = slice(15, 20) if mirrored else slice(0, 5)  # what the finder sees at the top is a side of the stored image
    picture[:, bright, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    view = View(transposed=True, mirrored=mirrored, upside_down=upside_down)
    [found] = shown_as(view, TopFinder()).predict_each([tmp_path / "a.png"], Prompt.categories(["cat"]))
    assert (found.width, found.height) == (20, 40)
    assert [each.box for each in found.instances] == [(bright.start, 0, bright.stop, 40)]


def test_names_of_a_side_are_not_transposed(tmp_path: Path) -> None:
    picture = np.zeros((40, 20, 3), np.uint8)
    picture[:10, :, 0] = 255
    Image.fromarray(picture).save(tmp_path / "a.png")
    [found] = shown_as(View(transposed=True), TopFinder()).predict_each(
        [tmp_path / "a.png"], Prompt.categories(["left cat"])
    )
    assert [each.box for each in found.instances] == [(0, 0, 20, 10)]
