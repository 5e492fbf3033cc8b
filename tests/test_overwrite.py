"""What holds somebody's labels is not written over without being asked to, and a list of names is not a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli.arguments import names
from flows.cli.command import main
from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from flows.labelling.plan import plan
from flows.policies import Policy
from formats.io.errors import InputError
from tests.pipeline_cases import FakeDetector, make_images, make_weights

LABELLED = (
    '{"filename": "image-000.png", "height": 30, "width": 40, "detection": {"instances": '
    '[{"bbox": [1, 2, 3, 4], "label": 0, "category": "cat"}]}}\n'
)
NOTHING_THERE = '{"filename": "image-000.png", "height": 30, "width": 40, "detection": {"instances": []}}\n'
UNLABELLED = '{"filename": "image-000.png", "height": 30, "width": 40}\n'


def bootstrap(folder: Path, *more: str, categories: str = "cat") -> int:
    make_images(folder / "images", 1)
    return main(["bootstrap", str(folder / "images"), str(folder / "x_od.json"), "--categories", categories, *more])


@pytest.mark.parametrize("content", [LABELLED, NOTHING_THERE, UNLABELLED + LABELLED, '{"images": []}', "half a li"])
def test_bootstrap_keeps_a_file_with_labels(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x_od.json").write_text(content)
    assert bootstrap(tmp_path) == 2
    assert (tmp_path / "x_od.json").read_text() == content
    assert "--overwrite" in capsys.readouterr().err
    assert bootstrap(tmp_path, "--overwrite") == 0
    assert (tmp_path / "x_od.json").read_text() == UNLABELLED


def test_bootstrap_may_be_repeated_while_nothing_is_labelled(tmp_path: Path) -> None:
    assert bootstrap(tmp_path) == 0
    assert bootstrap(tmp_path, categories="cat,dog") == 0
    assert json.loads((tmp_path / "x_label_map.json").read_text()) == {"0": "cat", "1": "dog"}


def test_bootstrap_keeps_a_label_map_that_labels_refer_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap(tmp_path) == 0
    (tmp_path / "x_od_v1.json").write_text(LABELLED)
    assert bootstrap(tmp_path) == 0
    assert bootstrap(tmp_path, categories="dog") == 2
    assert "which x_od_v1.json uses" in capsys.readouterr().err
    assert json.loads((tmp_path / "x_label_map.json").read_text()) == {"0": "cat"}


@pytest.mark.parametrize("parts", [(), ("--parts", "train=0.5,val=0.5")])
def test_convert_keeps_what_is_there(tmp_path: Path, parts: tuple[str, ...]) -> None:
    (tmp_path / "in_od.json").write_text(LABELLED)
    out = tmp_path / ("out_val_od.json" if parts else "out_od.json")
    out.write_text(LABELLED.replace("3, 4", "9, 9"))
    command = ["convert", "odvg", "odvg", str(tmp_path / "in_od.json"), str(tmp_path / "out_od.json"), *parts]
    assert main(command) == 2
    assert "9, 9" in out.read_text()
    assert main([*command, "--overwrite"]) == 0
    assert "9, 9" not in out.read_text()


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    """Two plans of one source, by two models."""
    make_images(tmp_path / "images", 2)
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    for name in ("work", "other"):
        make_weights(tmp_path)
        (tmp_path / "weights.safetensors").write_bytes(name.encode())
        manifest = plan(made.annotations, tmp_path / "images", tmp_path / "weights.safetensors", tmp_path / name)
        infer(manifest, FakeDetector(), progress=False)
    return tmp_path


def test_filter_keeps_the_labels_of_another_plan(plans: Path) -> None:
    first = filter_candidates(plans / "work").labels
    kept = first.read_bytes()
    assert filter_candidates(plans / "work", Policy(0.9)).labels == first  # another policy of the same plan
    filter_candidates(plans / "work")
    told = r"x_od_v1\.json: contains the labels of another plan, according to x_od_v1\.meta\.json"
    with pytest.raises(InputError, match=told):
        filter_candidates(plans / "other")
    assert first.read_bytes() == kept
    filter_candidates(plans / "other", overwrite=True)
    with pytest.raises(InputError, match="of another plan"):
        filter_candidates(plans / "work")


def test_filter_keeps_labels_that_no_plan_claims(plans: Path) -> None:
    (plans / "mine_od.json").write_text(LABELLED)
    with pytest.raises(InputError, match="contains labels, but no"):
        filter_candidates(plans / "work", out=plans / "mine_od.json")
    assert (plans / "mine_od.json").read_text() == LABELLED


def test_a_loop_replaces_only_the_labels_of_its_round(plans: Path) -> None:
    own, foreign = {"round": 2, "folder": "loop/round-2"}, {"round": 2, "folder": "another-loop/round-2"}
    filter_candidates(plans / "work", provenance=own)
    filter_candidates(plans / "other", provenance=own)  # round 1 was relabelled, so its plan is another
    with pytest.raises(InputError, match="of another plan"):
        filter_candidates(plans / "work", provenance=foreign)


def test_names_come_from_commas_or_from_a_file(tmp_path: Path) -> None:
    for name in ("classes.txt", "CLASSES.TXT", "obj.names", "classes.list"):
        (tmp_path / name).write_text("cat\nSt. Bernard\n")
        assert names(str(tmp_path / name)) == ["cat", "St. Bernard"]
    (tmp_path / "x_label_map.json").write_text('{"0": "cat", "1": "dog"}')
    assert names(str(tmp_path / "x_label_map.json")) == ["cat", "dog"]
    (tmp_path / "data.YAML").write_text("names: [cat, dog]")
    assert names(str(tmp_path / "data.YAML")) == ["cat", "dog"]
    assert names("cat, TV/monitor,No.1") == ["cat", "TV/monitor", "No.1"]


def test_a_file_of_names_that_is_not_there_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"clases\.txt: does not exist; did you mean 'classes\.txt'\?"):
        names(str(tmp_path / "clases.txt"))
    for name in ("obj.names", "X.TXT", "nowhere/data.yaml", "map.json"):
        with pytest.raises(InputError, match="does not exist"):
            names(str(tmp_path / name))


@pytest.mark.parametrize("text", ["raccoon. dog", "raccoon . dog .", "raccoon.  dog"])
def test_a_prompt_is_no_category(text: str) -> None:
    with pytest.raises(InputError, match=r"has a full stop; expected commas \(raccoon,dog\)"):
        names(text)


def test_a_label_map_with_a_gap_gives_no_list(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"1": "cat", "2": "dog"}')
    with pytest.raises(InputError, match="without a gap"):
        names(str(tmp_path / "a.json"))


def test_convert_keeps_a_label_map_that_labels_refer_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x_od_v1.json").write_text(LABELLED)
    (tmp_path / "x_label_map.json").write_text('{"0": "cat"}')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "y_od.json").write_text(LABELLED.replace('"cat"', '"dog"'))
    command = ["convert", "odvg", "odvg", str(tmp_path / "in" / "y_od.json"), str(tmp_path / "x_od_v2.json")]
    assert main(command) == 2
    assert "is a different label map, which x_od_v1.json uses" in capsys.readouterr().err
    assert json.loads((tmp_path / "x_label_map.json").read_text()) == {"0": "cat"}
    assert not (tmp_path / "x_od_v2.json").exists()
    assert main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize("there", ["images/000000.png", "cats_od.json"])
def test_glyphs_draws_over_nothing(tmp_path: Path, there: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text(LABELLED)
    command = ["glyphs", str(tmp_path), "--domain", "cats", "--count", "1"]
    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_text() == LABELLED
    assert main([*command, "--overwrite"]) == 0


def test_a_path_into_a_folder_is_a_file_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lists").mkdir()
    with pytest.raises(InputError, match="lists/classes: does not exist"):
        names("lists/classes")
    (tmp_path / "lists" / "classes").write_text("cat\ndog\n")
    assert names("lists/classes") == ["cat", "dog"]
    assert names("Monitor/TV") == ["Monitor/TV"]


@pytest.fixture
def filtered(tmp_path: Path) -> Path:
    """Labels that `groundhog filter` wrote."""
    make_images(tmp_path / "images", 3)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    manifest = plan(made.annotations, tmp_path / "images", tmp_path / "weights.safetensors", tmp_path / "work")
    infer(manifest, FakeDetector(), progress=False)
    assert main(["filter", str(tmp_path / "work")]) == 0
    return tmp_path / "x_od_v1.json"


def test_filter_keeps_labels_that_were_edited(filtered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["filter", str(filtered.parent / "work"), "--score-threshold", "0.5"]
    edited = filtered.read_text().replace('"cat"', '"cats"')
    filtered.write_text(edited)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "x_od_v1.json: was edited since it was written" in error
    assert "--overwrite" in error
    assert "overwrite=True" not in error
    assert filtered.read_text() == edited
    assert main([*command, "--overwrite"]) == 0


def test_filter_resumes_where_it_was_killed_before_the_second_file(filtered: Path) -> None:
    command = ["filter", str(filtered.parent / "work"), "--score-threshold", "0.5"]
    first_meta = filtered.with_suffix(".meta.json").read_bytes()
    assert main(command) == 0
    filtered.with_suffix(".meta.json").write_bytes(first_meta)  # as if it were killed between the two
    assert main(command) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda line: "", "contains no line"),
        (lambda line: line + line, "is listed twice, first in"),
        (lambda line: line.replace('"height": 30', '"height": 60'), "x60 pixels, x_od.json says"),
    ],
)
def test_reviewed_lines_that_would_lose_or_misplace_boxes_are_refused(
    filtered: Path, changed, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = json.loads(filtered.read_text().splitlines()[0])
    reviewed = filtered.with_name("mine.json")
    reviewed.write_text(changed(json.dumps(line | {"reviewed": True}) + "\n"))
    assert main(["filter", str(filtered.parent / "work"), "--reviewed", str(reviewed)]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_source_is_no_plan(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 1)
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["cat"], tmp_path / "x_od.json")
    made.annotations.write_text("")
    with pytest.raises(InputError, match="contains no lines"):
        plan(made.annotations, tmp_path / "images", tmp_path / "weights.safetensors", tmp_path / "work")


@pytest.mark.parametrize("target", ["yolo", "voc", "fiftyone"])
def test_convert_replaces_a_folder_of_labels_alone(
    tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in_od.json").write_text(LABELLED)
    arguments = ["convert", "odvg", target, str(tmp_path / "in_od.json"), str(tmp_path / "out")]
    assert main(arguments) == 0
    files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite"]) == 0
    assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == files
    (tmp_path / "out/images").mkdir()
    (tmp_path / "out/images/a.jpg").write_text("x")
    capsys.readouterr()
    assert main([*arguments, "--overwrite"]) == 2
    assert "contains images/a.jpg, which is not replaced" in capsys.readouterr().err
    assert (tmp_path / "out/images/a.jpg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in_od.json", "out"]


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ('"cat"', ["cat"]),
        ("'cat,dog'", ["cat", "dog"]),  # a shell of Windows leaves these
        ("“cat”,‘red dog’", ["cat", "red dog"]),
        ('["cat", "red dog",]', ["cat", "red dog"]),
        ("[cat, dog]", ["cat", "dog"]),
        ("[UNK]", ["[UNK]"]),
        (
            "'til dawn, driver's license, tv 12\", rock 'n' roll",
            ["'til dawn", "driver's license", 'tv 12"', "rock 'n' roll"],
        ),
    ],
)
def test_quotation_marks_around_a_name_are_no_part_of_it(text: str, listed: list[str]) -> None:
    assert names(text) == listed


@pytest.mark.parametrize("text", ['"cat', '"black cat, small", dog', '""', "[]", '[""]', "“cat, dog"])
def test_a_quotation_mark_that_nothing_closes_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"quotation mark|empty"):
        names(text)


def test_a_checkpoint_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = tmp_path / "model.safetensors"
    assert main(["weights", "glyph-tiny", str(trained)]) == 0
    before = trained.read_bytes()
    for command in (["glyph-tiny", str(trained)], ["interpolate", "glyph-tiny", str(trained), str(trained)]):
        capsys.readouterr()
        assert main(["weights", *command, "--half"]) == 2
        assert "model.safetensors: already exists; expected another name, or --overwrite" in capsys.readouterr().err
        assert trained.read_bytes() == before
        assert main(["weights", *command, "--half", "--overwrite"]) == 0
        assert len(trained.read_bytes()) < len(before)
        trained.write_bytes(before)


def test_a_plot_replaces_a_plot_and_no_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_images(tmp_path / "images", 1)
    labels, plot = tmp_path / "x_od.json", tmp_path / "plot.png"
    labels.write_text(LABELLED)
    for _ in range(2):
        assert main(["stats", str(labels), "--out", str(plot)]) == 0
    photo = next((tmp_path / "images").iterdir())
    before = photo.read_bytes()
    assert main(["stats", str(labels), "--out", str(photo)]) == 2
    assert "exists and is not a plot" in capsys.readouterr().err
    assert photo.read_bytes() == before


@pytest.mark.parametrize("seed", ["-5", "nan", "1e3", "9" * 30, "٣"])
def test_a_seed_is_a_whole_number_from_0(tmp_path: Path, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["glyphs", str(tmp_path / "g"), "--count", "1", "--seed", seed])
    assert "expected a whole number from 0" in capsys.readouterr().err
