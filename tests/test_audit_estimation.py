"""Estimators of the audit: intervals hold the truth, every beginning of the order is a sample, scores only help."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flows.audit.estimation import Strata, estimate_share, moments_of
from flows.audit.sampling import design, expected_errors
from flows.audit.thresholds import certified_threshold, threshold_grid

AUDITS = 400


def population(images: int = 300, wrong: float = 0.15, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) right boxes, boxes, and summed scores of images; some images are far worse than others."""
    rng = np.random.default_rng(seed)
    boxes = 1 + rng.poisson(rng.gamma(1.0, 5.0, images))
    hits = rng.binomial(boxes, 1 - np.minimum(0.9, wrong * 4 * rng.beta(1, 3, images)))
    return hits, boxes, 0.8 * hits + 0.4 * (boxes - hits) + rng.normal(0, 0.1, images)


def drawn(stratum: np.ndarray, order: np.ndarray, reviews: int, seed: int = 1) -> tuple[np.ndarray, Strata]:
    rng = np.random.default_rng(seed)
    taken = stratum[order[:reviews]]
    images = np.empty((AUDITS, reviews), int)
    for value in np.unique(taken):
        members, places = np.flatnonzero(stratum == value), np.flatnonzero(taken == value)
        images[:, places] = members[rng.random((AUDITS, len(members))).argsort(1)[:, : len(places)]]
    return images, Strata(taken, np.bincount(stratum))


@pytest.mark.parametrize("reviews", [10, 60])
@pytest.mark.parametrize("wrong", [0.01, 0.15])
def test_intervals_hold_the_truth_in_93_of_100_audits(reviews: int, wrong: float) -> None:
    hits, boxes, scores = population(wrong=wrong)
    plan = design(0.5 + 0.2 * boxes, list(map(str, range(300))), reviews, 0)
    images, strata = drawn(plan.stratum, plan.order, reviews)
    explained = scores - scores.sum() / boxes.sum() * boxes
    share = estimate_share(hits[images], boxes[images], strata, explained[images])
    truth = hits.sum() / boxes.sum()
    assert np.mean((share.low <= truth) & (truth <= share.high)) >= 0.93
    assert np.mean(share.value) == pytest.approx(truth, abs=0.01)


def test_no_error_seen_leaves_room_for_some() -> None:
    ones = np.ones(10)
    few, many = (estimate_share(np.ones(n), np.ones(n), Strata(np.zeros(n, int), np.array([9999]))) for n in (10, 100))
    assert few.value == few.high == 1.0
    assert 0.69 < few.low < 0.71  # Clopper and Pearson: 0.69; Jeffreys: 0.78
    assert 0.95 < many.low < 1.0
    together = estimate_share(ones * 10, ones * 10, Strata(np.zeros(10, int), np.array([9999])))
    assert few.low < together.low < many.low  # ten boxes of an image tell more than one, and less than ten images


def test_an_interval_from_ten_images_of_one_box_holds_for_every_share() -> None:
    right = np.arange(11)
    hits = (np.arange(10) < right[:, None]).astype(int)
    share = estimate_share(hits, np.ones_like(hits), Strata(np.zeros(10, int), np.array([99999])))
    for truth in np.linspace(0.001, 0.999, 499):
        held = stats.binom.pmf(right, 10, truth)[(share.low <= truth) & (truth <= share.high)].sum()
        assert held >= 0.95, truth


@pytest.mark.parametrize("reviews", [20, 30])
@pytest.mark.parametrize("boxes", [3, 8])
def test_intervals_hold_where_whole_images_are_wrong(reviews: int, boxes: int) -> None:
    rng = np.random.default_rng(boxes)
    labels = rng.poisson(boxes, 300)
    hits = labels * (rng.random(300) >= 0.1)
    images, strata = drawn(np.zeros(300, int), np.arange(300), reviews)
    share = estimate_share(hits[images], labels[images], strata)
    truth = hits.sum() / labels.sum()
    assert np.mean((share.low <= truth) & (truth <= share.high)) >= 0.93


def test_errors_that_come_alone_narrow_the_interval_of_few_reviews() -> None:
    boxes, strata = np.full(20, 5), Strata(np.zeros(20, int), np.array([9999]))
    alone, together = boxes.copy(), boxes.copy()
    alone[:5] -= 1
    together[0] = 0
    apart, whole = (estimate_share(hits, boxes, strata) for hits in (alone, together))
    assert apart.value == whole.value
    assert apart.high - apart.low < 0.75 * (whole.high - whole.low)


def test_a_crowd_makes_up_the_variance_of_many_images() -> None:
    strata = Strata(np.zeros(12, int), np.array([9999]))
    even, uneven = np.full(12, 4), np.array([26] + [2] * 11)
    assert moments_of(even // 2, even, strata).evenness == pytest.approx(1.0)
    assert moments_of(uneven // 2, uneven, strata).evenness * 12 < 2.0


def test_intervals_hold_where_few_images_hold_most_boxes_and_many_are_wrong() -> None:
    rng, held, reviews = np.random.default_rng(1), [], 20
    for _ in range(10):  # label files
        boxes = np.minimum(40, rng.pareto(1.0, 128).astype(int) + 1)
        hits = rng.binomial(boxes, 1 - np.minimum(0.9, 1.6 * rng.beta(1, 3, 128)))
        images = rng.random((AUDITS // 2, 128)).argsort(1)[:, :reviews]
        share = estimate_share(hits[images], boxes[images], Strata(np.zeros(reviews, int), np.array([128])))
        held.append((share.low <= hits.sum() / boxes.sum()) & (hits.sum() / boxes.sum() <= share.high))
    assert np.mean(held) >= 0.93  # 0.914 with a degree of freedom an image


def test_what_is_known_whole_has_no_interval() -> None:
    share = estimate_share(np.array([1, 0, 3]), np.array([1, 2, 3]), Strata(np.array([0, 0, 1]), np.array([2, 1])))
    assert share.value == share.low == share.high == pytest.approx(4 / 6)


def test_weights_undo_that_some_images_are_drawn_more_often() -> None:
    hits, boxes = np.array([1, 1, 0, 0]), np.ones(4)
    share = estimate_share(hits, boxes, Strata(np.array([0, 0, 1, 1]), np.array([2, 998])))
    assert share.value == pytest.approx(2 / 1000)


def test_scores_that_explain_errors_narrow_the_interval_and_others_do_not_widen_it() -> None:
    hits, boxes, scores = population()
    images, strata = drawn(np.zeros(300, int), np.arange(300), 60)
    noise = np.random.default_rng(9).normal(size=300)
    plain = estimate_share(hits[images], boxes[images], strata)
    widths = {}
    for name, values in {"good": scores, "useless": noise}.items():
        known = values - values.sum() / boxes.sum() * boxes
        share = estimate_share(hits[images], boxes[images], strata, known[images])
        widths[name] = np.mean(share.high - share.low) / np.mean(plain.high - plain.low)
    assert widths["good"] < 0.8
    assert 0.99 < widths["useless"] < 1.05


def test_a_share_without_boxes_is_unknown() -> None:
    share = estimate_share(np.zeros(10), np.zeros(10), Strata(np.zeros(10, int), np.array([50])))
    assert np.isnan(share.value)
    assert (share.low, share.high) == (0.0, 1.0)


def test_every_beginning_of_the_order_is_a_stratified_sample() -> None:
    sizes = np.random.default_rng(0).gamma(1.0, 2.0, 200) + 0.1
    plan = design(sizes, list(map(str, range(200))), 60, seed=3)
    assert sorted(plan.order) == list(range(200))
    strata = plan.stratum.max() + 1
    assert (np.bincount(plan.stratum[plan.order[: 2 * strata]]) == 2).all()
    images, counted = plan.sample(np.isin(np.arange(200), plan.order[:37]))
    assert images.tolist() == plan.order[:37].tolist()
    assert counted.sizes.tolist() == np.bincount(plan.stratum).tolist()
    assert counted.weight.sum() == pytest.approx(200)


def test_images_after_a_skipped_one_do_not_count_in_its_stratum() -> None:
    plan = design(np.ones(100), list(map(str, range(100))), 10, seed=0)
    reviewed = np.zeros(100, bool)
    reviewed[plan.order[:20]] = True
    reviewed[plan.order[12]] = False
    images, _ = plan.sample(reviewed)
    assert images.tolist() == plan.order[:12].tolist()


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    keys = list(map(str, range(50)))
    first, again, other = (design(np.ones(50), keys, 10, seed).order for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


def test_images_with_doubtful_and_rare_boxes_are_expected_to_hold_more_errors() -> None:
    images = [{"cat": [0.5]}, {"cat": [0.95]}, {"dog": [0.95]}, *[{"cat": [0.9] * 3}] * 9]
    doubtful, sure, rare, *_ = expected_errors(images)
    assert sure < rare
    assert sure < doubtful


def test_images_without_labels_are_drawn_more_often_but_never_crowd_out_the_others() -> None:
    few = expected_errors([{"cat": [0.9]}] * 9 + [{}])
    assert few[-1] == pytest.approx(2 * few[0])
    half = expected_errors([{"cat": [0.9]}] * 5 + [{"cat": []}] * 5)
    assert half[-1] == pytest.approx(half[0])
    most = expected_errors([{"cat": [0.9]}] + [{}] * 9)
    assert most[-1] < most[0]
    before = expected_errors([{"cat": [0.9]}] * 9 + [{}], empty_term=0)  # of audits that older versions began
    assert before[-1] < before[0]
    assert len(set(expected_errors([{}, {}]))) == 1


def test_images_without_labels_are_a_stratum_where_a_sample_would_hold_two_in_any_case() -> None:
    keys, empty = list(map(str, range(40))), np.arange(40) < 8
    plan = design(np.ones(40), keys, 10, 0, empty)
    assert (plan.stratum == np.where(empty, 0, 1)).all()
    assert (design(np.ones(40), keys, 30, 0, empty).stratum[~empty] > 0).all()
    assert design(np.ones(40), keys, 30, 0, empty).stratum.max() == 2  # those with labels are split as before
    assert design(np.ones(40), keys, 10, 0, np.arange(40) < 7).stratum.max() == 0
    assert design(np.ones(40), keys, 10, 0).stratum.max() == 0  # as audits of older versions were drawn
    assert design(np.ones(40), keys, 10, 0, np.ones(40, bool)).stratum.max() == 0


@pytest.mark.parametrize("overlooked", [0.3, 0.5])
def test_ten_reviews_hold_the_recall_of_a_model_that_overlooks_whole_images(overlooked: float) -> None:
    held = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        objects = 1 + rng.poisson(4, 200)
        hits = np.where(rng.random(200) < overlooked, 0, objects)
        plan = design(np.ones(200), list(map(str, range(200))), 10, seed, hits == 0)
        images, strata = drawn(plan.stratum, plan.order, 10)
        share = estimate_share(hits[images], objects[images], strata)
        held.append((share.low <= hits.sum() / objects.sum()) & (hits.sum() / objects.sum() <= share.high))
    assert np.mean(held) >= 0.95


def test_a_threshold_is_certified_only_where_every_higher_one_is() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.3, 1.0, (200, 5))
    right = rng.random((200, 5)) < np.where(scores > 0.6, 0.99, 0.4)
    grid = threshold_grid(scores.ravel())
    above = scores[:, :, None] > grid
    labels, hits = above.sum(1), (above & right[:, :, None]).sum(1)
    strata = Strata(np.zeros(200, int), np.array([5000]))
    place = certified_threshold(hits, labels, strata, 0.9)
    assert place is not None
    assert 0.5 < grid[place] < 0.65
    assert certified_threshold(0 * hits, labels, strata, 0.9) is None
    assert (np.diff(grid) < 0).all()
    assert (scores > grid[-1]).all()


def test_a_threshold_with_too_few_reviewed_labels_to_tell_does_not_hide_the_others() -> None:
    strata = Strata(np.zeros(40, int), np.array([400]))
    labels = np.column_stack([np.arange(40) < 3, np.arange(40) < 12, np.ones(40, int)]).astype(int)
    assert certified_threshold(labels, labels, strata, 0.9) == 2
    wrong = labels.copy()
    wrong[:12] = 0
    assert certified_threshold(wrong, labels, strata, 0.9) is None
    assert certified_threshold(labels[:2], labels[:2], Strata(np.zeros(2, int), np.array([400])), 0.9) is None
