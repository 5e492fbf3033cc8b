"""The ablation: labels against a truth that is kept aside, pieces that are done once, and the table of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cli.command import main
from flows.policies.policy import Policy
from flows.quality import ablation as quality
from flows.quality.ablation import LabelQuality, Piece, QualityConfig, Variant, label_quality, measure_quality
from flows.quality.agreement import rank_by_agreement, write_ranking
from flows.quality.page import interval, write_quality_page
from flows.quality.report import quality_table, write_quality_report
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from formats.odvg import write_odvg
from formats.record import Instance, Record
from grounding_model.data.sources import GlyphData
from grounding_model.students.build import start_student
from grounding_model.students.config import FromStudent, is_student
from grounding_model.students.files import save_student
from grounding_model.training.config import FromWeights, TrainConfig
from grounding_model.training.settings import LossSettings

CONFIG = Path(__file__).parent.parent / "configs" / "quality_glyphs.toml"
LABELS = LabelQuality(0.9, 0.8, 0.6, 120, tuple(np.linspace(1, 0.5, 101)))


def record(name: str, *boxes: tuple[tuple[float, float, float, float], float | None, bool]) -> Record:
    return Record(name, 100, 100, instances=tuple(Instance(b, 0, "cat", s, ignore=i) for b, s, i in boxes))


@pytest.fixture
def config(tmp_path: Path) -> QualityConfig:
    return QualityConfig(
        name="test",
        data=GlyphData("cats", count=2),
        categories=("cat",),
        target=GlyphData("cats", count=2, seed=9),
        train=TrainConfig(tmp_path, datasets=(GlyphData(count=4),), steps=1, batch_size=2, workers=0),
        variants={"plain": Variant(), "more": Variant(rounds=2)},
        baseline="plain",
        seeds=(3, 4),
    )


def test_labels_are_judged_box_by_box(tmp_path: Path) -> None:
    here, there, elsewhere = (0, 0, 20, 20), (50, 0, 70, 20), (0, 60, 20, 90)
    write_odvg(tmp_path / "truth.json", [record("a", (here, None, False), (there, None, False)), record("b")])
    made = [record("a", (here, 0.9, False), (there, 0.3, True)), record("b", (elsewhere, 0.6, False))]
    write_odvg(tmp_path / "made.json", made)
    write_odvg(tmp_path / "all.json", made)
    found = label_quality(tmp_path / "made.json", tmp_path / "all.json", tmp_path / "truth.json", ["cat"])
    assert (found.precision, found.recall, found.boxes) == (0.5, 0.5, 2)  # what is ignored claims nothing
    assert found.ap == pytest.approx(51 / 101, abs=1e-3)
    assert len(found.curve) == 101


def test_pieces_are_done_once_and_again_when_asked_otherwise(
    config: QualityConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    class Work:
        def __init__(self, config: QualityConfig, seed: int) -> None:
            self.seed = seed

        def piece(self, name: str) -> Piece:
            done.append((name, self.seed))
            return Piece(name, self.seed, (LABELS,), (0.5, 0.6), ())

    monkeypatch.setattr(quality, "_SeedPieces", Work)
    measure_quality(config, ["plain"], [4])
    assert done == [("plain", 4)]
    pieces = measure_quality(config)
    assert done == [("plain", 4), ("plain", 3), ("more", 3), ("more", 4)]
    assert [(each.variant, each.seed) for each in pieces] == [("plain", 3), ("plain", 4), ("more", 3), ("more", 4)]
    assert pieces[0].labels == (LABELS,)
    measure_quality(replace(config, ratio=2.0), ["plain"], [3])
    assert done[4:] == [("plain", 3)]
    with pytest.raises(InputError, match="no les"):
        measure_quality(config, ["les"])
    with pytest.raises(InputError, match="no variant 'les'"):
        replace(config, baseline="les")


def test_the_table_tells_every_round_and_the_plots_are_drawn(config: QualityConfig) -> None:
    pieces = [
        Piece("plain", 3, (LABELS,), (0.5, 0.6), (0.8, 0.79)),
        Piece("plain", 4, (LABELS,), (0.5, 0.7), (0.8, 0.77)),
        Piece("more", 3, (LABELS, LABELS), (0.5, 0.65, 0.75), (0.8, 0.8, 0.81)),
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in quality_table(config, pieces).splitlines()]
    assert [row[0] for row in rows[2:]] == ["plain", "more, v1", "more, v2"]
    assert rows[2][1:5] == ["2", "0.900 ± 0.000", "0.800 ± 0.000", "0.600 ± 0.000"]
    assert rows[2][5:] == ["0.650 ± 0.071", "+0.150 ± 0.071", "–", "0.780 ± 0.014", "+0.020 ± 0.014"]
    assert rows[4][5:] == ["0.750", "+0.250", "+0.150", "0.810", "-0.010"]  # against the same seed of the baseline
    write_quality_report(config, pieces)
    for name in ("quality.md", "precision_recall.png", "retrained.png", "quality.html"):
        assert (config.train.work_dir / name).stat().st_size > 200


def test_the_page_gives_intervals_first_and_says_settings_in_words(config: QualityConfig) -> None:
    pieces = [Piece("plain", seed, (LABELS,), (0.5, 0.6 + seed / 100), ()) for seed in (3, 4, 5)]
    page = write_quality_page(config, pieces, "groundhog 1").read_text()
    assert page.index("95 % interval 0.615 to 0.665") < page.index("<h2>")
    assert "What does a model gain from the labels?" in page
    assert not re.search(r"\b(None|True|False|Policy)\b|\w\(|[{]'", re.sub("<style>.*?</style>", "", page, flags=re.S))
    assert interval([0.5, 0.7]) == "0.600 (0.500 and 0.700)"
    assert interval([0.9, 1.0, 0.8]) == "0.900 (0.652 to 1.000)"  # a share
    assert interval([0.0, 0.1, -0.1], signed=True) == "0.000 (-0.248 to 0.248)"


def test_the_committed_ablation_reads_and_asks_for_every_other_noun() -> None:
    from grounding_model.glyphs import NOUNS

    config = read_config(CONFIG, QualityConfig)
    assert set(config.variants["all"].policy.distractors) == set(NOUNS) - {"cat"}
    assert {config.variants[name].labels for name in ("control", "oracle")} == {"none", "truth"}


@pytest.mark.slow
def test_a_small_ablation_from_images_to_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = (
        "seeds=[1]",
        "data.count=3",
        "target.count=4",
        "source.count=3",
        "train.steps=1",
        "train.batch_size=2",
        "train.workers=0",
    )
    settings = [*small, f"train.work_dir={tmp_path}", "variants.all.rounds=2"]
    command = ["quality", str(CONFIG), "--seeds", "1", "--variants", "control,all"]
    command += [part for setting in settings for part in ("--set", setting)]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "all, v2" in printed.out
    assert printed.err.count("AP") == 2
    labels = tmp_path / "seed-1" / "all" / "round-1" / "labels_od.json"
    lines = [json.loads(line) for line in labels.read_text().splitlines()]
    assert {each["category"] for line in lines for each in line["detection"]["instances"]} <= {"cat"}
    assert main(command) == 0
    assert "AP" not in capsys.readouterr().err
    assert main([*command, "--labels-only"]) == 0
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:4]] == ["| threshold", "| band"]


@pytest.mark.slow
def test_a_student_climbs_the_ladder_with_its_own_classes(tmp_path: Path, config: QualityConfig) -> None:
    start = FromStudent("glyph-student", ("cat",), image_size=64)
    save_student(tmp_path / "student", start_student(start, ("cat",)), {})
    training = replace(
        config.train,
        datasets=(GlyphData("cats", count=4),),
        start=FromWeights(str(tmp_path / "student")),
        losses=LossSettings(iou_aware=True),
        check_memory=False,
        device="cpu",
    )
    variants = {"plain": Variant("policy", policy=Policy(score_threshold=0.0))}
    (piece,) = measure_quality(replace(config, train=training, variants=variants, seeds=(3,)))
    assert piece.labels[0].boxes
    (trained,) = (tmp_path / "seed-3" / "plain").rglob("student/config.json")
    assert is_student(trained.parent)


def test_what_two_rounds_disagree_about_is_reviewed_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = (0, 0, 20, 20), (50, 0, 70, 20)
    first = [record("same.png", (here, 0.9, False)), record("new.png"), record("half.png", (here, 0.8, False))]
    second = [
        record("half.png", (here, 0.8, False), (there, 0.5, False)),
        record("same.png", (here, 0.7, False), (there, 0.2, True)),
        record("new.png", (there, 0.5, False)),
    ]
    for name, records in (("v1.json", first), ("v2.json", second)):
        write_odvg(tmp_path / name, records)
    ranking = rank_by_agreement(tmp_path / "v1.json", tmp_path / "v2.json")
    assert [(each.filename, round(each.agreement, 3)) for each in ranking] == [
        ("new.png", 0.0),
        ("half.png", 0.667),
        ("same.png", 1.0),
    ]
    write_ranking(tmp_path / "ranking.csv", ranking)
    assert (tmp_path / "ranking.csv").read_text().splitlines()[:2] == [
        "agreement,filename,caption",
        "0.000000,new.png,",
    ]
    assert main(["agreement", str(tmp_path / "v1.json"), str(tmp_path / "v2.json"), "-n", "1"]) == 0
    assert capsys.readouterr().out == "0.000  new.png\n"
    write_odvg(tmp_path / "v3.json", [record("other.png")])
    with pytest.raises(InputError, match="no line of"):
        rank_by_agreement(tmp_path / "v1.json", tmp_path / "v3.json")
