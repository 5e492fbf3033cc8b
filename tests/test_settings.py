"""A setting of a labelling is declared once, and a plan that was made before it was declared keeps its key."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.cli.command import build_parser
from flows.evaluation.config import EvaluateConfig
from flows.labelling.manifest import read_manifest, write_manifest
from flows.labelling.plan import plan
from flows.labelling.settings import (
    DetectionSettings,
    Execution,
    LabellingSettings,
    View,
    settings_part,
    settings_payload,
)
from flows.policies import Policy
from flows.self_training.config import Labelling
from flows.self_training.review import approve, is_approved
from formats.io.errors import InputError
from formats.io.settings import setting
from tests.pipeline_cases import make_images

ROOT = Path(__file__).parent.parent
SETTINGS = {each.name for part in (LabellingSettings, Execution) for each in fields(part)}
# As commit c26635f wrote it, before settings were declared in one place.
KEPT_MANIFEST = """{
  "key": "326cfaa70640c07fb845d47c8dc61297a496f84390652e5ef082171e6a98e65a",
  "source": "/tmp/kept/data/cats/cats_od.json",
  "source_sha256": "c07ee7e24b6fc46dbb2e24141cc864d276478315f7548be4a34c5a25b837fea6",
  "image_root": "/tmp/kept/data/cats/images",
  "weights": "glyph-tiny",
  "weights_sha256": "acfe0cc3ee5ded1352a8a752010f7ebc32358c78fee698cb0bcd4103e6100d40",
  "text_encoder": null,
  "text_encoder_sha256": null,
  "label_map": {
    "0": "cat",
    "1": "umbrella"
  },
  "score_floor": 0.05,
  "scale": null,
  "max_per_image": 300,
  "chunk_size": null,
  "shards": [
    {
      "index": 0,
      "first_line": 0,
      "lines": 2,
      "offset": 0
    },
    {
      "index": 1,
      "first_line": 2,
      "lines": 2,
      "offset": 112
    },
    {
      "index": 2,
      "first_line": 4,
      "lines": 2,
      "offset": 224
    }
  ],
  "software": "groundhog 0.1.0"
}"""


def test_a_plan_of_the_first_version_keeps_its_key_and_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(KEPT_MANIFEST)
    manifest = read_manifest(path)  # refuses entries that do not belong to their key
    write_manifest(manifest)
    assert path.read_text().rstrip("\n") == KEPT_MANIFEST


def test_settings_have_no_default_anywhere_else() -> None:
    """Neither None, nor an empty text that is filled in later, is a default of its own."""
    declared = ROOT / "flows" / "labelling" / "settings.py"
    others = [
        f"{path.relative_to(ROOT)}: {name} = {value!r}"
        for path in sorted((ROOT / "flows").rglob("*.py"))
        if path != declared
        for name, value in _literal_defaults(ast.parse(path.read_text(encoding="utf-8")))
        if name in SETTINGS and value not in (None, "")
    ]
    assert sorted(set(others)) == [
        "flows/detection/options.py: batch_size = 1",  # with its own reason
        "flows/labelling/bootstrap.py: overwrite = False",  # of label files; the setting is of plans
        "flows/labelling/filter.py: overwrite = False",
        "flows/orchestration/deployments.py: overwrite = False",
        "flows/reviews/review_import.py: overwrite = False",  # of corrections
    ]


def test_help_reads_its_defaults_from_where_they_are_declared() -> None:
    """A number in a help text would stay behind when the setting changes."""
    written_by_hand = [
        f"{path.name}: {node.value}"
        for path in sorted((ROOT / "flows" / "cli").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and re.search(r"\(default:? [0-9]", str(node.value))
    ]
    assert written_by_hand == []


def _literal_defaults(tree: ast.AST):
    """Fields of classes and parameters of functions that have a literal default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Constant):
                    yield ast.unparse(each.target), each.value.value
        if isinstance(node, ast.FunctionDef):
            arguments = node.args
            plain = [*arguments.posonlyargs, *arguments.args]
            pairs = [
                *zip(reversed(plain), reversed(arguments.defaults)),
                *zip(arguments.kwonlyargs, arguments.kw_defaults),
            ]
            for argument, default in pairs:
                if isinstance(default, ast.Constant):
                    yield argument.arg, default.value


def test_a_policy_setting_that_came_later_takes_no_approval_away(tmp_path: Path) -> None:
    """A loop that waits when Groundhog is updated goes on with what a person approved."""

    @dataclass(frozen=True)
    class Later(Policy):
        max_aspect: float | None = setting(None, "…", added_later=True)

    manifest = SimpleNamespace(key="a key", work_dir=tmp_path)
    approve(manifest, settings_payload(Policy()))
    assert is_approved(manifest, settings_payload(Later()))
    assert not is_approved(manifest, settings_payload(Later(max_aspect=3.0)))


def test_a_setting_that_came_later_is_recorded_where_it_is_used() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(View):
        rotated: bool = setting(False, "…", added_later=True)

    first = settings_payload(View(mirrored=True))
    assert settings_payload(Later(mirrored=True)) == first
    assert settings_payload([Later(mirrored=True, rotated=True)]) == [first | {"rotated": True}]


def test_configurations_have_every_setting() -> None:
    model = {"weights", "text_encoder"}  # of the round, in a self-training
    assert SETTINGS - model <= {each.name for each in fields(Labelling)}
    assert {each.name for each in fields(EvaluateConfig)} >= SETTINGS


def test_the_command_has_an_option_for_every_setting() -> None:
    options = vars(build_parser().parse_args(["infer", "x_od.json", "images", "work"]))
    by_hand = {"workers"}  # --devices
    assert {name: options[name] for name in SETTINGS - by_hand} == {
        each.name: each.default
        for part in (LabellingSettings, Execution)
        for each in fields(part)
        if each.name not in by_hand
    }


def test_a_view_takes_the_place_of_how_images_are_shown_alone() -> None:
    own = Labelling(score_floor=0.2, scale=(64, 64), max_per_image=7)
    seen = own.with_model("w.pth", Path("bert"), View(mirrored=True))
    assert seen == LabellingSettings(
        score_floor=0.2, max_per_image=7, mirrored=True, weights="w.pth", text_encoder="bert"
    )
    assert own.with_model("w.pth").scale == (64, 64)
    assert settings_part(own, DetectionSettings) == settings_part(own.with_model("w.pth"), DetectionSettings)


@pytest.mark.parametrize("value", [{"score_floor": 1.0}, {"scale": (9, 8)}, {"max_per_image": 0}])
def test_settings_that_cannot_work_are_refused(value: dict) -> None:
    with pytest.raises(InputError, match=next(iter(value))):
        LabellingSettings(**value)


def test_plan_takes_settings_by_name_or_together(tmp_path: Path) -> None:
    make_images(tmp_path / "images", 2)
    lines = [{"filename": f"{name}.png", "height": 8, "width": 8, "caption": "a cat"} for name in "ab"]
    (tmp_path / "x_vg.json").write_text("\n".join(map(json.dumps, lines)))
    arguments = (tmp_path / "x_vg.json", tmp_path / "images")
    together = plan(
        *arguments,
        work_dir=tmp_path / "a",
        settings=LabellingSettings(score_floor=0.25),
        execution=Execution(shard_size=1),
    )
    named = plan(*arguments, work_dir=tmp_path / "b", score_floor=0.25, shard_size=1)
    assert named.key == together.key
    with pytest.raises(TypeError, match="did you mean 'score_floor'"):
        plan(*arguments, work_dir=tmp_path / "c", score_flor=0.25)
