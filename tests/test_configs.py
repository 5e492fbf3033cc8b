"""Every file of configs/: it is read by its type, opens with its own command, holds the reference's numbers, and what
it trains on is what the commands in its first lines write."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flows.cli.command import build_parser, main
from flows.distillation.config import DistillConfig
from flows.evaluation.config import EvaluateConfig
from flows.quality.ablation import QualityConfig
from flows.self_training.config import SelfTrainConfig
from formats.coco_dialects import read_lvis_categories
from formats.dataset_names import label_map_beside
from formats.io.errors import InputError
from formats.io.toml_config import read_config
from grounding_model.data.augment import RandomCrop
from grounding_model.data.sources import CocoData, OdvgData, open_dataset
from grounding_model.inputs.category_lists import read_category_list
from grounding_model.training.config import FromScratch, FromWeights, TrainConfig
from tests.training_trees import write_published_data

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
TYPES = {
    "distill": DistillConfig,
    "evaluate": EvaluateConfig,
    "quality": QualityConfig,
    "self_train": SelfTrainConfig,
}  # every other name is a training's
COMMANDS = {
    "distill": ["groundhog distill configs/{}.toml", "prefect deployment run distill/"],
    "evaluate": ["groundhog evaluate configs/{}.toml"],
    "quality": ["groundhog quality configs/{}.toml"],
    "self_train": ["groundhog self-train configs/{}.toml", "prefect deployment run self-train/"],
    "glyph_tiny": ["make glyph-tiny"],
    "photo_tiny": ["make photo-tiny"],
}
FREE_TABLES = {"sets", "prompts", "multipliers", "options", "variants"}  # their keys are the user's


def type_of(path: Path) -> Any:
    return next((kind for prefix, kind in TYPES.items() if path.stem.startswith(prefix)), TrainConfig)


def comment_of(path: Path) -> str:
    """The first lines of the file, without their marks; commands that go on over several lines made one."""
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = lines[: next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return re.sub(r" *\\\n *", " ", "\n".join(line.removeprefix("#").strip() for line in opening))


def commands_of(path: Path, command: str) -> list[list[str]]:
    lines = comment_of(path).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"groundhog {command} ")]


every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@every_config
def test_a_configuration_is_read(path: Path) -> None:
    read_config(path, type_of(path))


@every_config
def test_it_opens_with_its_own_command(path: Path) -> None:
    kind = next((kind for kind in COMMANDS if path.stem.startswith(kind)), None)
    wanted = [
        each.format(path.stem) for each in COMMANDS.get(kind or "", [f"groundhog train configs/{path.stem}.toml"])
    ]
    assert any(command in comment_of(path) for command in wanted)
    for name in ("train", "evaluate", "convert"):
        for arguments in commands_of(path, name):
            build_parser().parse_args([part for part in arguments if part != "…"])


def tables_of(table: dict, location: str = "") -> Iterator[tuple[str, dict]]:
    yield location, table
    for key, value in table.items():
        if key in FREE_TABLES:
            continue
        for index, inner in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(inner, dict):
                yield from tables_of(
                    inner, f"{location}{key}.{index}." if isinstance(value, list) else f"{location}{key}."
                )


@every_config
def test_a_misspelt_key_is_refused_with_the_right_one(path: Path) -> None:
    for location, table in tables_of(tomllib.loads(path.read_text(encoding="utf-8"))):
        if not table:
            continue
        key = max(table, key=len)
        with pytest.raises(InputError, match=rf"{re.escape(location)}{key}x: is not a setting; did you mean '{key}'"):
            read_config(path, type_of(path), [f"{location}{key}x=1"])


def paths_in(value: object) -> Iterator[Path]:
    for inner in vars(value).values():
        if isinstance(inner, Path):
            yield inner


@every_config
def test_an_error_for_missing_data_says_where_to_get_them(path: Path) -> None:
    config = read_config(path, type_of(path))
    if not isinstance(config, EvaluateConfig | TrainConfig):
        return  # what a pipeline labels says it by itself: ImageFolder.how_to_get
    if re.search(r"configs/\w+\.toml", config.get):
        return  # another configuration of the same data says it
    parts = [config.truth] if isinstance(config, EvaluateConfig) else [*config.datasets, *config.validate]
    folders = {str(Path(*found.parts[:2])) for part in parts for found in paths_in(part)}
    assert [folder for folder in sorted(folders) if folder not in config.get] == []
    assert not folders or re.search(r"https?://|github\.com/|--set", config.get)


def test_missing_data_end_the_command_with_what_the_configuration_says(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(ROOT / "configs" / "finetune_lvis.toml")]) == 2
    assert "lvis_v1_train.json (https://www.lvisdataset.org/dataset)" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.startswith("evaluate")], ids=lambda p: p.stem)
def test_an_evaluation_writes_into_a_folder_of_its_name(path: Path) -> None:
    assert read_config(path, EvaluateConfig).work_dir.name == path.stem


class Run(NamedTuple):
    """What decides a run of the reference. images: a step. at: epochs or steps after which the rate falls."""

    images: int
    rate: float
    at: tuple[int, ...]
    epochs: int | None = None
    steps: int | None = None
    factor: float = 0.1
    warmup: bool = False
    flip: float = 0.5
    absent: tuple[int, float] = (85, 0.5)  # RandomSamplingNegPos: num_sample_negative, full_sampling_prob
    parts: tuple[float, float] = (0.1, 0.1)  # multipliers of the rate: backbone, language model


# configs/mm_grounding_dino/** of mmdet: train_dataloader, optim_wrapper, param_scheduler, train_cfg; the number of GPUs
# from the names of the files, usage.md and comments. Where a file lists `backbone` alone, the language model has its
# tenth too: its parameters are called language_backbone. Data of COCO's format: all names in every caption, as there is
# no RandomSamplingNegPos. Data that the reference repeats ten times in an epoch count here as ten epochs.
EVERY_NAME = (85, 1.0)
REFERENCE = {
    **{
        f"pretrain_swin-t_{data}": Run(128, 4e-4, (19, 26), epochs=30, warmup=True)
        for data in ("o365", "o365_goldg", "o365_goldg_grit9m", "o365_goldg_v3det", "o365_goldg_grit9m_v3det")
    },
    "pretrain_swin-b_o365_goldg_v3det": Run(128, 4e-4, (13, 16), epochs=18, warmup=True),
    "pretrain_swin-b_all": Run(128, 1e-4, (228510,), steps=304680, warmup=True),
    "pretrain_swin-l_o365v2_oiv6_goldg": Run(128, 2e-4, (156100,), steps=200000, factor=0.5, warmup=True),
    "pretrain_swin-l_all": Run(256, 8e-4, (406240, 507800), steps=609360, warmup=True),
    "finetune_coco": Run(64, 2e-4, (8, 11), epochs=12, absent=EVERY_NAME),
    "finetune_coco_sft": Run(64, 5e-5, (8, 11), epochs=12, absent=(20, 0.5), parts=(0.1, 0)),
    "finetune_coco_48_17": Run(64, 5e-5, (8, 11), epochs=12, absent=EVERY_NAME),
    "finetune_lvis": Run(64, 2e-4, (11,), epochs=12),
    "finetune_lvis_866_337": Run(64, 5e-5, (8, 11), epochs=12),
    **{
        f"finetune_{data}": Run(32, 2e-4, (3,), epochs=5, flip=0)
        for data in ("refcoco", "refcoco_plus", "refcocog", "grefcoco")
    },
    **{
        f"finetune_{data}": Run(32, 1e-4, (40,), epochs=50, absent=EVERY_NAME)
        for data in ("cityscapes", "brain_tumor", "people_in_painting")
    },
    **{f"finetune_{data}": Run(32, 1e-4, (11,), epochs=12, absent=EVERY_NAME) for data in ("rtts", "ruod")},
    "finetune_cat": Run(32, 1e-4, (15,), epochs=20, parts=(0, 0)),
}


def run_of(path: Path) -> Run:
    """The same of one of our configurations, with the number of GPUs that its command names."""
    config = read_config(path, TrainConfig)
    (arguments,) = commands_of(path, "train")
    gpus = build_parser().parse_args(arguments).gpus or 1
    optimizer, absent = config.optimizer, config.absent_names
    length = config.epochs or config.steps or 0
    frozen = [part in config.frozen for part in ("backbone", "text_encoder.bert")]
    multipliers = [optimizer.multipliers.get(part, 1.0) for part in ("backbone", "text_encoder.bert")]
    return Run(
        images=gpus * config.batch_size * config.accumulate,
        rate=optimizer.learning_rate,
        at=tuple(round(share * length) for share in optimizer.step_at),
        epochs=None if config.epochs is None else int(config.epochs),
        steps=config.steps,
        factor=optimizer.step_factor,
        warmup=(optimizer.warmup_steps, optimizer.warmup_from) == (1000, 0.1),
        flip=config.augment.flip,
        absent=(absent.most, absent.most_probability),
        parts=tuple(0 if still else rate for still, rate in zip(frozen, multipliers)),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("name", REFERENCE)
def test_a_training_has_the_numbers_of_the_reference(name: str) -> None:
    path = ROOT / "configs" / f"{name}.toml"
    config, reference = read_config(path, TrainConfig), REFERENCE[name]
    ours = run_of(path)
    assert ours._replace(at=()) == reference._replace(at=())
    # The fractions are written with five digits.
    assert ours.at == pytest.approx(reference.at, abs=1e-5 * (reference.steps or 0))
    assert config.optimizer.base_batch_size == reference.images
    assert (config.optimizer.weight_decay, config.optimizer.clip_norm) == (1e-4, 0.1)
    assert config.optimizer.schedule == "step"
    assert config.augment.crop == RandomCrop()
    assert config.augment.fitted_to((800, 1333)).short_sides == tuple(range(480, 801, 32))


def test_no_training_of_the_reference_is_left_out_of_the_table() -> None:
    trained_on_own_data = {"finetune_raccoon", "finetune_raccoon_photos", "finetune_glyphs", "finetune_coco_format"}
    names = {path.stem for path in CONFIGS if path.stem.startswith(("pretrain", "finetune"))}
    assert names - trained_on_own_data == set(REFERENCE)


def test_what_a_training_starts_from() -> None:
    for name in REFERENCE:
        start = read_config(ROOT / "configs" / f"{name}.toml", TrainConfig).start
        if name.startswith("finetune"):
            assert start == FromWeights("openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_grit_v3det")
        elif name == "pretrain_swin-b_all":
            assert start == FromWeights("openmmlab-community/mm_grounding_dino_base_o365v1_goldg_v3det")
        else:
            assert isinstance(start, FromScratch)
            assert name.startswith(f"pretrain_{start.variant}_")
            assert (start.backbone is not None, start.text_encoder) == (True, "bert-base-uncased")


# Passes an epoch over each data set, as RepeatDataset, CustomSampleSizeSampler and ClassBalancedDataset have them.
REPEATED = {"refcoco_train": 2, "refcoco+_train": 2, "refcocog_train": 3, "grefcoco_train": 2, "norefval": 2}
PASSES = {
    "pretrain_swin-t_o365_goldg_grit9m": {"grit": 500_000 / 9_000_000},
    "pretrain_swin-t_o365_goldg_grit9m_v3det": {"grit": 500_000 / 9_000_000},
    "pretrain_swin-b_all": {"grit": 0.07, **REPEATED},
    "pretrain_swin-l_all": {"oidv6": 0.5, "v3det": 2, "flickr": 2, "grit": 0.09, **REPEATED},
}


@pytest.mark.parametrize("name", REFERENCE)
def test_passes_over_a_data_set_per_epoch(name: str) -> None:
    for data in read_config(ROOT / "configs" / f"{name}.toml", TrainConfig).datasets:
        assert isinstance(data, OdvgData | CocoData)
        found = [passes for part, passes in PASSES.get(name, {}).items() if part in data.annotations.name]
        assert data.weight == pytest.approx(found[0] if found else 1, rel=2e-3)
        assert data.oversample == (1e-3 if "lvis" in data.annotations.name else None)


def test_base_and_novel_categories_of_coco_make_all() -> None:
    training = read_config(ROOT / "configs" / "finetune_coco_48_17.toml", TrainConfig)
    test = read_config(ROOT / "configs" / "evaluate_coco_48_17.toml", EvaluateConfig)
    (train,), (validate,) = training.datasets, training.validate
    assert isinstance(train, CocoData) and isinstance(validate, CocoData)  # noqa: PT018
    base, everything = train.categories or (), validate.categories or ()
    assert (len(base), len(everything), len(set(everything) - set(base))) == (48, 65, 17)
    assert set(base) < set(everything) < set(read_category_list("coco"))
    assert test.categories == everything
    coco = list(read_category_list("coco"))
    assert list(everything) == sorted(everything, key=coco.index)


def test_names_of_data_sets_are_those_of_the_lists() -> None:
    (cityscapes,) = read_config(ROOT / "configs" / "finetune_cityscapes.toml", TrainConfig).datasets
    assert isinstance(cityscapes, CocoData)
    assert cityscapes.categories == tuple(read_category_list("cityscapes"))
    suites = [read_config(ROOT / "configs" / f"evaluate_odinw{count}.toml", EvaluateConfig).truth for count in (13, 35)]
    thirteen, all_of_them = (suite.sets for suite in suites)  # type: ignore[union-attr]
    assert (len(thirteen), len(all_of_them)) == (13, 35)
    assert set(thirteen.values()) < set(all_of_them.values())
    for name in all_of_them:
        assert read_category_list(name)


# What a new user has after following the first lines of a configuration.


def conversions() -> list[list[str]]:
    """Every command once, in an order in which each finds what it reads."""
    commands = {tuple(arguments): None for path in CONFIGS for arguments in commands_of(path, "convert")}
    return [list(arguments) for arguments in sorted(commands, key=lambda each: "--without" in each)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small sample of every data set as it is published, after all commands."""
    folder = tmp_path_factory.mktemp("converted")
    write_published_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in conversions():
            if "data/raccoon/annotations" not in arguments:
                assert main(arguments) == 0, shlex.join(arguments)
    return folder


@pytest.mark.parametrize("name", REFERENCE)
def test_the_data_of_a_training_are_what_its_commands_write(name: str, converted: Path, monkeypatch) -> None:
    monkeypatch.chdir(converted)
    path = ROOT / "configs" / f"{name}.toml"
    config = read_config(path, TrainConfig)
    written = {Path(arguments[4]) for arguments in commands_of(path, "convert")}
    for data in (*config.datasets, *config.validate):
        assert isinstance(data, OdvgData | CocoData)
        if isinstance(data, OdvgData):
            assert data.annotations in written
            assert data.label_map == (label_map_beside(data.annotations) if "_od" in data.annotations.stem else None)
        dataset = open_dataset(data)
        _, record = dataset.load(0)
        assert record.instances or record.regions


def test_the_page_has_the_same_commands() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    commands = {tuple(shlex.split(line)[1:]) for line in page.splitlines() if line.startswith("groundhog convert ")}
    assert commands == {tuple(command) for command in conversions() if "data/raccoon/annotations" not in command}
    rows = re.findall(r"^\| `((?:pretrain|finetune)_[^`]+)`", page, re.MULTILINE)
    assert set(rows) == set(REFERENCE)


def test_the_split_of_lvis_leaves_the_rare_ones_out(converted: Path) -> None:
    labels = converted / "data/coco/annotations"
    base = (labels / "lvis_v1_train_norare_label_map.json").read_text()
    everything = read_lvis_categories(labels / "lvis_v1_train.json")
    rare = read_lvis_categories(labels / "lvis_v1_train.json", "r")
    assert rare
    assert set(everything) - set(rare) == {name for name in everything if f'"{name}"' in base}
