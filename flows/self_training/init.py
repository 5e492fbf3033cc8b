"""`groundhog init`: writes a configuration of the loop for your own images, which `groundhog up` then serves."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from flows.labelling.bootstrap import check_categories
from flows.labelling.captions import read_captions
from flows.self_training.config import ImageFolder, SelfTrainConfig, read_self_train
from flows.self_training.labelled import import_labels, usable_lines
from formats.dataset_names import annotation_path, label_map_beside, labels_path
from formats.images import list_images
from formats.io.errors import InputError
from formats.io.files import write_whole
from formats.io.plurals import first_of, many
from formats.odvg import read_odvg
from grounding_model.checkpoints.locations import check_location, config_of_file, install_command
from grounding_model.inputs.defaults import PHOTO_WEIGHTS, WEIGHTS
from grounding_model.model.config import ModelConfig

CONFIG_DIR = Path("configs")
UNLABELLED_ROUNDS = 2
LABELLED_ROUNDS = 0  # on photos, more gained nothing: docs/label_quality.md, "What rounds add"
AFTER_YOURS = "trainings after the one on your labels; after each, the other images are labelled again"
MIN_TO_HOLD_BACK = 25  # labelled images; a fifth of fewer is too few to evaluate on, and would be missed in training
NAMES_SHOWN = 10  # with the number of their boxes
PREFIX = "self_train_"  # of configurations that `groundhog up` serves


def init(
    name: str,
    images: str | Path,
    *,
    categories: Sequence[str] | None = None,
    captions: str | Path | None = None,
    labels: str | Path | None = None,
    labels_format: str | None = None,
    weights: str | None = None,
    text_encoder: str | Path | None = None,
    config_dir: str | Path = CONFIG_DIR,
) -> Path:
    """Writes CONFIG_DIR/self_train_NAME.toml, the deployment self-train/NAME, and returns its path.

    Pass one of categories, captions or labels. labels: labels of some of the images, in any supported format
    (labels_format: its name if it cannot be detected; categories: the names, if the format has none).
    weights: the first model; None: photo-tiny with labels, else glyph-tiny. The training settings depend on the model:
    published weights are trained as in the reference.
    Labels go to data/NAME, everything else to work_dirs/self_train_NAME, both in the current folder.
    Raises InputError if the name is taken, the folder has no images, or the captions or labels cannot be read.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError("name", repr(name), "expected letters, digits, - and _")
    path = Path(config_dir) / f"{PREFIX}{name}.toml"
    _check_arguments(path, images, categories, captions, labels)
    weights = weights or (PHOTO_WEIGHTS if labels is not None else WEIGHTS)
    check_location(weights)
    if text_encoder is not None:
        check_location(text_encoder)
    recipe, labelled = recipe_of(weights), ""
    if labels is not None:
        known = annotation_path(f"data/{name}", f"{name}_labelled", "od")
        categories = import_labels(Path(labels), known, Path(images), labels_format, categories)
        labelled = LABELLED.format(annotations=_quoted(known), **_held_back(known))
    if categories is not None:
        data = _images_table(name, images, check_categories(categories))
    else:
        assert captions is not None
        if next(read_captions(captions, images), None) is None:
            raise InputError(captions, "contains no captions", "expected a caption for each image to label")
        data = _captions_table(name, images, captions)
    start = _entries(kind="weights", source=weights, text_encoder=text_encoder)
    text = HEAD.format(
        name=name,
        quoted_path=quote(path.as_posix()),
        quoted=_quoted(name),
        rounds=UNLABELLED_ROUNDS if labels is None else LABELLED_ROUNDS,
        rounds_comment="trainings; labels are made once more than that" if labels is None else AFTER_YOURS,
        data=data,
        labelled=labelled,
        policy=recipe.policy,
        work_dir=_work_dir(name),
    )
    with write_whole(path) as file:
        file.write(f"{text}{recipe.train}\n[train.start]\n{start}\n")
    read_self_train(path)
    return path


def _check_arguments(
    path: Path,
    images: str | Path,
    categories: Sequence[str] | None,
    captions: str | Path | None,
    labels: str | Path | None,
) -> None:
    if path.exists():
        raise InputError(path, "already exists", "choose another name, or edit that file")
    if not Path(images).is_dir() or not list_images(images):
        raise InputError(images, "contains no images", "expected a folder of .jpg, .png or other images")
    if categories is None and captions is None and labels is None:
        raise InputError("categories", "missing", "expected categories, captions or labels")
    if captions is not None and (categories is not None or labels is not None):
        other = "categories" if labels is None else "labels"
        raise InputError("captions", f"set together with {other}", "expected categories, captions or labels")
    if labels is not None and not Path(labels).exists():
        raise InputError(labels, "no such file or folder", "expected the labels of some of the images")


def recipe_of(weights: str) -> Recipe:
    """The training recipe for a model's architecture, independent of where its weights come from."""
    config = config_of_file(weights)
    if config is None or config["width"] >= ModelConfig.width:
        return AS_THE_REFERENCE
    return ON_PHOTOS if config["backbone"].get("frozen_statistics") else SMALL_STEPS


def _held_back(known: Path) -> dict[str, object]:
    lines = len(usable_lines(known))
    return {"count": many(lines, "image"), "held_back": 0.2 if lines >= MIN_TO_HOLD_BACK else 0.0}


def next_steps_after_init(path: Path) -> str:
    """Commands that can be copied."""
    config = read_self_train(path)
    name = path.stem.removeprefix(PREFIX)
    annotations = config.data.annotations if config.data.kind != "glyphs" else Path()
    first = labels_path(annotations, 1)
    look: list[object] = ["groundhog", "browse", first.parent, first.name, _images_of(path, first.parent)]
    look += ["-m", label_map_beside(annotations).name] if config.data.kind == "images" else []
    look += ["-o", f"outputs/{name}", "--not-show"]
    install = install_command(config.start.source)
    does = "labels, trains, labels again" if config.labelled is None else "trains on your labels, labels the rest"
    return f"""\
{_remarks(config)}wrote {path}; check it, then run
{f"{chr(10)}  {install}" if install else ""}
  groundhog self-train {quote(str(path))}        # {does}
  groundhog rounds status {quote(str(config.train.work_dir))}
  {shlex.join(map(str, look))}

or, with Prefect (restart `groundhog up` if it is already running):

  groundhog up
  prefect deployment run self-train/{name} --watch"""


def _remarks(config: SelfTrainConfig) -> str:
    """Lines about the labels that were read, or about weights that need some."""
    if config.labelled is None:
        if config.start.source != PHOTO_WEIGHTS:
            return ""
        return f"{PHOTO_WEIGHTS} finds next to nothing before it is trained: pass --labels, or other --weights\n"
    assert isinstance(config.data, ImageFolder)
    records = list(read_odvg(config.labelled.annotations))
    boxes = Counter(box.category for record in records for box in record.instances or () if not box.ignore)
    names = first_of((f"{count} {name}" for name, count in boxes.most_common()), NAMES_SHOWN)
    left = len(list_images(config.data.images)) - len(records)
    return f"{many(len(records), 'labelled image')} ({names}), {many(left, 'image')} left to label\n"


def _images_of(path: Path, data_root: Path) -> Path:
    """As it is in the configuration, unless `groundhog browse` would find another folder below the data folder."""
    data = read_self_train(path).data
    images = data.images if data.kind != "glyphs" else Path()
    return images.absolute() if (data_root / images).is_dir() else images


def _work_dir(name: str) -> str:
    return _quoted(f"work_dirs/{PREFIX}{name}")


def _images_table(name: str, images: str | Path, categories: Sequence[str]) -> str:
    return _entries(
        kind="images",
        images=images,
        annotations=annotation_path(f"data/{name}", name, "od"),
        categories=list(categories),
    )


def _captions_table(name: str, images: str | Path, captions: str | Path) -> str:
    return _entries(
        kind="captions", images=images, captions=captions, annotations=annotation_path(f"data/{name}", name, "vg")
    )


def _entries(**values: object) -> str:
    return "\n".join(f"{key} = {_quoted(value)}" for key, value in values.items() if value is not None)


def _quoted(value: object) -> str:
    """The value in TOML, whose basic strings and lists are written as in JSON."""
    value = value if isinstance(value, list) else str(value)
    return json.dumps(value, ensure_ascii=False)


class Recipe(NamedTuple):
    """The parts of a configuration that depend on the model, as TOML."""

    policy: str
    train: str


HEAD = """\
# Self-training on {name}.
#
#   groundhog self-train {quoted_path}
#   prefect deployment run self-train/{name} --watch      (while `groundhog up` runs)

name = {quoted}
rounds = {rounds}  # {rounds_comment}
# review = true  # wait after each round's labels until `groundhog rounds approve`

[data]
{data}

{labelled}{policy}
# Labelled images that no round trains on, to measure the gain; without them the gate checks only label drift.
# [evaluation]
# kind = "coco"  # or odvg, yolo, voc …
# annotations = "data/…/test.json"
# image_root = "data/…/images"

[train]
work_dir = {work_dir}
"""

LABELLED = """\
# Existing labels: the first model is fine-tuned on them before it labels the rest, and every round trains on them.
[labelled]
annotations = {annotations}  # {count}
held_back = {held_back}  # share that no training uses; it evaluates the rounds if there is no [evaluation]
share = 0.5  # share of them in an epoch of a round; the rest are pseudo-labelled images

"""

ANY_POLICY = """\
[policy]
score_threshold = 0.5  # score above which a candidate becomes a label; check v1 and adjust, the model is not run again
ignore_from = 0.25  # boxes between this and the threshold count neither as objects nor as background
# These gave the best labels in docs/label_quality.md: names of things that are mistaken for yours, and more views of
# each image. Both lower the scores, so lower the two thresholds too.
# distractors = ["…"]

# [labelling]
# views = [{mirrored = true}]
"""

SMALL_STEPS = Recipe(
    ANY_POLICY,
    """\
steps = 150
batch_size = 8
moving_average = 0.99

[train.augment]
photometric = {brightness = 0.1, contrast = 0.2, saturation = 0.2}

[train.optimizer]
learning_rate = 3e-4
multipliers = {}
clip_norm = 1.0
schedule = "cosine"

# The embedded model has only seen drawings, never a photo. For usable labels of photos, start from published weights:
#   --set train.start.source=openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_grit_v3det
""",
)

ON_PHOTOS = Recipe(
    """\
[policy]
# More views of each image give fewer wrong boxes, but not tighter ones.
score_threshold = 0.3  # score above which a candidate becomes a label; check v1 and adjust, the model is not run again
ignore_from = 0.2  # boxes between this and the threshold count neither as objects nor as background

[labelling]
batch_size = 8
views = [{mirrored = true}, {scale = [320, 520]}, {scale = [320, 520], mirrored = true}]
""",
    """\
steps = 480
batch_size = 8
dropout = 0.1
moving_average = 0.99
precision = "bfloat16"
frozen = ["backbone"]  # it was trained on a million photos, far more than yours

[train.losses]
classification = 3.0  # with 1, as in the reference, a part of an animal scores nearly as high as the whole
iou_aware = true
encoder_repeats = 5
auxiliary_repeats = 4

[train.augment]
short_sides = [192, 224, 256, 288]
max_long_side = 416
photometric = {brightness = 0.2, contrast = 0.3, saturation = 0.3, hue = 0.03, blur = 1.0}

[train.augment.crop]
probability = 0.5
short_sides = [300, 360, 420]
max_long_side = 800
min_size = 200
max_size = 400

[train.optimizer]
learning_rate = 1e-3
weight_decay = 0.05
multipliers = {}
clip_norm = 1.0
schedule = "cosine"
warmup_steps = 10
""",
)

AS_THE_REFERENCE = Recipe(
    ANY_POLICY,
    """\
epochs = 4
batch_size = 4
accumulate = 8  # 32 images per step, as in the reference; for other numbers the learning rate is scaled in proportion
frozen = ["backbone", "text_encoder.bert"]

[train.optimizer]
learning_rate = 1e-4
base_batch_size = 32
weight_decay = 1e-4
multipliers = {}
schedule = "step"
step_at = [0.75]

# To reduce forgetting, add pretraining data under [[train.datasets]]; `ratio` is the number of their images per
# pseudo-labelled one.
""",
)
