"""Makes the plan of a labelling: lines divided into shards, model, prompt and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flows.labelling.bootstrap import Bootstrapped
from flows.labelling.manifest import MANIFEST_NAME, PLACES, Manifest, Shard, read_lines, read_manifest, write_manifest
from flows.labelling.settings import (
    EXECUTION,
    LABELLING,
    Execution,
    LabellingSettings,
    settings_part,
    split,
    values_of,
)
from formats.candidates import candidates_key
from formats.dataset_names import label_map_beside, label_map_path, parse_annotation_name, work_dir_name
from formats.io.errors import InputError, at_file
from formats.io.storage import absolute, as_path, is_address
from formats.io.values import brief_json
from formats.label_map import read_label_map, warn_of_names, write_label_map
from grounding_model.checkpoints.locations import checkpoint_hash
from grounding_model.inputs.prompt import Prompt

MAX_SHARDS = 20_000  # more files in one folder would be slow to list


def plan(
    source: str | Path | Bootstrapped,
    image_root: str | Path | None = None,
    weights: str | Path | None = None,
    work_dir: str | Path | None = None,
    *,
    label_map: str | Path | None = None,
    settings: LabellingSettings = LABELLING,
    execution: Execution = EXECUTION,
    **changes: Any,
) -> Manifest:
    """Makes a plan and writes it to work_dir/manifest.json, unless the same plan is there.

    source: ODVG file, or the result of bootstrap_od or bootstrap_vg. image_root: folder to which its file names are
    relative; None for that of a bootstrap result. weights: None for those of the settings. work_dir: by default
    work_dirs/X for X_od.json.
    label_map: its categories are the prompt; None for X_label_map.json beside X_od.json. With captions there is none,
    since each line's caption is its prompt.
    changes: settings by name (flows.labelling.settings): scale=(192, 192), shard_size=24, … Shards are larger than
    shard_size if there would be more than 20,000 of them.
    dtype "auto" is replaced by that of an existing plan in work_dir, so that it resumes on any machine, or else by the
    one that suits the first device of the workers on this machine.
    source, image_root, work_dir and label_map may be URLs (formats.io.storage); weights must be on every machine.
    Raises InputError if work_dir has another plan (overwrite=True replaces it and its candidates), and if there is
    neither a label map nor captions; TypeError for a name that is not a setting.
    """
    of_labelling, of_execution = split(changes, LabellingSettings, Execution)
    if weights is not None:
        of_labelling["weights"] = weights
    source, image_root, label_map = _opened(source, image_root, label_map)
    work_dir = Path("work_dirs", work_dir_name(source)) if work_dir is None else as_path(work_dir)
    execution = replace(settings_part(execution, Execution), **of_execution)
    settings = replace(settings_part(settings, LabellingSettings), **of_labelling)
    manifest = _planned(
        source,
        image_root,
        work_dir,
        None if label_map is None else as_path(label_map),
        _with_dtype(settings, work_dir, execution),
        execution,
    )
    _refuse_other_plan(manifest, execution.overwrite)
    write_manifest(manifest)
    return manifest


def _opened(
    source: str | Path | Bootstrapped, image_root: str | Path | None, label_map: str | Path | None
) -> tuple[Path, Path, str | Path | None]:
    if isinstance(source, Bootstrapped):
        image_root = source.images if image_root is None else image_root
        label_map = source.label_map if label_map is None else label_map
        source = source.annotations
    if image_root is None:
        raise InputError("image_root", "is missing", f"expected the folder that the filenames of {source} start from")
    return as_path(source), as_path(image_root), label_map


def _planned(
    source: Path,
    image_root: Path,
    work_dir: Path,
    label_map: Path | None,
    settings: LabellingSettings,
    execution: Execution,
) -> Manifest:
    if not source.is_file():
        raise InputError(source, "no such file", "expected an ODVG file as bootstrap writes it")
    if not is_address(image_root) and not image_root.is_dir():  # object stores have no folders
        raise InputError(image_root, "no such folder", "expected the folder to which file names are relative")
    label_map = _label_map(source) if label_map is None else label_map
    labels = {} if label_map is None else read_label_map(label_map)
    warn_of_names(labels, label_map)
    names = None if label_map is None else {str(label): name for label, name in labels.items()}
    if names is not None:
        with at_file(label_map):  # reports a name that cannot be in a prompt now, not for every image
            Prompt.categories(list(names.values()))
    digest, shards = _cut(source, execution.shard_size)
    if not shards:
        raise InputError(source, "contains no lines", "expected an ODVG file as bootstrap writes it")
    text_encoder = settings.text_encoder
    recorded = replace(
        settings,
        weights=_place(settings.weights),
        text_encoder=None if text_encoder is None else _place(text_encoder),
    )
    return Manifest(
        **values_of(recorded, LabellingSettings),
        source=as_path(absolute(source)),
        source_sha256=digest,
        image_root=as_path(absolute(image_root)),
        weights_sha256=checkpoint_hash(settings.weights),
        text_encoder_sha256=None if text_encoder is None else checkpoint_hash(text_encoder),
        label_map=names,
        shards=shards,
        software=software_version(),
        work_dir=work_dir,
    )


def prompt_label_map(label_map: Path, distractors: Sequence[str], folder: Path) -> Path:
    """The label map of the prompt: that of the categories, or a new one with the distractors appended.

    Raises InputError for a distractor that is a category.
    """
    if not distractors:
        return label_map
    names = read_label_map(label_map)
    _refuse_categories(names.values(), distractors)
    path = label_map_path(folder, "asked")
    write_label_map(path, {**names, **dict(enumerate(distractors, start=max(names) + 1))})
    return path


def _refuse_categories(names: Iterable[str], distractors: Sequence[str]) -> None:
    if both := sorted(set(names) & set(distractors)):
        raise InputError(
            "policy.distractors", f"{', '.join(both)} is a category", "expected names that are not categories"
        )


def check_prompt(label_map: Path, distractors: Sequence[str]) -> None:
    """Raises InputError for a category or distractor that cannot be in a prompt, and for a distractor that is both."""
    names = read_label_map(label_map).values()
    _refuse_categories(names, distractors)
    with at_file(label_map):
        Prompt.categories([*names, *distractors])


def software_version() -> str:
    """Name and version of this software, to be recorded with labels."""
    try:
        return f"groundhog {version('groundhog')}"
    except PackageNotFoundError:  # a checkout that was never installed
        return "groundhog (not installed)"


def _label_map(source: Path) -> Path | None:
    """The label map beside an X_od.json; None for captions. Raises InputError if there is neither."""
    beside = label_map_beside(source)
    if parse_annotation_name(source).task == "od" and beside.is_file():
        return beside
    if any('"caption"' in line.text for line in read_lines(source)):
        return None
    raise InputError(source, "no label map and no captions", f"expected label_map, or {beside.name} beside it")


def _with_dtype(settings: LabellingSettings, work_dir: Path, execution: Execution) -> LabellingSettings:
    """The settings with a concrete dtype instead of auto, since it affects the candidates."""
    if settings.dtype != "auto":
        return settings
    path = work_dir / MANIFEST_NAME
    if path.exists() and not execution.overwrite:
        return replace(settings, dtype=read_manifest(path).dtype)
    from grounding_model.detector import choose_device
    from grounding_model.model.precision import choose_dtype

    device = choose_device(next(iter(execution.workers.devices), "auto"))
    return replace(settings, dtype=choose_dtype(settings.dtype, device))


def _cut(source: Path, shard_size: int) -> tuple[str, tuple[Shard, ...]]:
    """SHA-256 of the file, and its shards of shard_size lines, or of a multiple if there would be over MAX_SHARDS."""
    digest = hashlib.sha256()
    offsets = []  # of every shard_size-th line: bounded memory
    lines = offset = 0
    with source.open("rb") as file:
        for raw in file:
            if lines % shard_size == 0:
                offsets.append(offset)
            lines, offset = lines + 1, offset + len(raw)
            digest.update(raw)
    step = max(1, -(-len(offsets) // MAX_SHARDS))
    size = step * shard_size
    shards = tuple(
        Shard(index, index * size, min(size, lines - index * size), start)
        for index, start in enumerate(offsets[::step])
    )
    return digest.hexdigest(), shards


def _refuse_other_plan(manifest: Manifest, overwrite: bool) -> None:
    if not manifest.path.exists():
        return
    if overwrite:
        for shard in sorted((manifest.work_dir / "candidates").glob("shard-*.parquet")):
            if candidates_key(shard) != manifest.key:
                shard.unlink()
        return
    old = read_manifest(manifest.path)
    if old.key == manifest.key:
        return
    before, after = old.entries(), manifest.entries()
    differing = [name for name in after | before if name not in PLACES and before.get(name) != after.get(name)]
    differences = "; ".join(
        f"{name}: {brief_json(before.get(name))} there, {brief_json(after.get(name))} requested" for name in differing
    )
    raise InputError(
        manifest.path, f"contains another plan ({differences})", "expected another work_dir, or overwrite=True"
    )


def _place(source: str | Path) -> str:
    """An absolute path if the source is a file or folder; a name (embedded model, hub) unchanged."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)
