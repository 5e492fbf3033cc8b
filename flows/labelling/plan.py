"""The plan of a labelling: which lines, cut into which shards, looked at by which model with which prompt.

The plan is a file, `work_dir/manifest.json`. Its key is a digest of everything that decides the candidates; a shard of
candidates carries the key of the plan that it was made for, so that an interrupted labelling goes on where it stopped
and never mixes two plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from formats.dataset_names import label_map_beside, label_map_path, parse_annotation_name, work_dir_name
from formats.io.errors import InputError
from formats.io.files import sha256_of, write_json
from formats.io.storage import absolute, as_path, is_address
from formats.label_map import read_label_map, write_label_map

MANIFEST_NAME = "manifest.json"
SCORE_FLOOR = 0.05  # 0..1; candidates above it are kept, so that a threshold is chosen without the model
MAX_PER_IMAGE = 300  # boxes, as the reference keeps
BATCH_SIZE = 4  # images the detector sees at once; results depend on it in their last bits alone
SHARD_SIZE = 64  # lines; a run that is killed loses the shards that it was at work on
MAX_SHARDS = 20_000  # files that a folder and its listing bear well; a scheduler sees them in groups

# Entries that say where things lie, not what they are: moving a folder does not make another plan.
_PLACES = ("source", "weights", "text_encoder")


class SourceLine(NamedTuple):
    """One line of an ODVG file. number: 0-based, blank lines counted. text: without the line break."""

    number: int
    text: str


@dataclass(frozen=True)
class Shard:
    """Lines first_line … first_line + lines - 1 of the source, which start at byte offset."""

    index: int
    first_line: int
    lines: int
    offset: int


@dataclass(frozen=True)
class Manifest:
    """A plan. label_map: keys as text, as in the file; None where every line brings its own caption.

    image_root: folder that filenames are relative to. score_floor: candidates at or below it are not kept.
    scale: short and long side in pixels that images are resized to; None: the model's own. chunk_size: categories a
    prompt, None lets the detector decide. software: which Groundhog made the plan. mirrored: images are looked at in a
    mirror, boxes lie in the image itself.
    """

    source: str
    source_sha256: str
    image_root: str
    weights: str
    weights_sha256: str
    text_encoder: str | None
    text_encoder_sha256: str | None
    label_map: dict[str, str] | None
    score_floor: float
    scale: tuple[int, int] | None
    max_per_image: int
    chunk_size: int | None
    shards: tuple[Shard, ...]
    software: str
    work_dir: Path
    mirrored: bool = False

    def entries(self) -> dict[str, Any]:
        """What manifest.json says, without the key."""
        entries = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "work_dir"}
        scale = None if self.scale is None else list(self.scale)
        if not self.mirrored:  # plans that were made before there were mirrors keep their keys
            del entries["mirrored"]
        return entries | {"scale": scale, "shards": [asdict(shard) for shard in self.shards]}

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of all that decides the candidates; 64 hexadecimal digits."""
        deciding = {name: value for name, value in self.entries().items() if name not in _PLACES}
        canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def path(self) -> Path:
        """Where the plan itself lies."""
        return self.work_dir / MANIFEST_NAME

    def shard_path(self, index: int) -> Path:
        """Where the candidates of one shard lie once they are complete."""
        return self.work_dir / "candidates" / f"shard-{index:05d}.parquet"


def plan(
    source: str | Path,
    image_root: str | Path,
    weights: str | Path = "glyph-tiny",
    work_dir: str | Path | None = None,
    *,
    label_map: str | Path | None = None,
    text_encoder: str | Path | None = None,
    score_floor: float = SCORE_FLOOR,
    scale: tuple[int, int] | None = None,
    max_per_image: int = MAX_PER_IMAGE,
    chunk_size: int | None = None,
    shard_size: int = SHARD_SIZE,
    mirrored: bool = False,
    overwrite: bool = False,
) -> Manifest:
    """Writes work_dir/manifest.json, or finds the same plan there.

    source: ODVG file. image_root: folder that its filenames are relative to. work_dir: work_dirs/X of X_od.json.
    label_map: its categories are the prompt; None takes the X_label_map.json that lies beside an X_od.json. A source
    with captions has none: every line's caption is its prompt.
    shard_size: lines a shard, more where there would be more than 20,000 shards. mirrored: look at mirror images.
    source, image_root, work_dir and label_map may be addresses (formats.io.storage); weights lie on every machine.
    Raises InputError when another plan lies in work_dir (overwrite=True replaces it and its candidates), and when the
    lines have neither a label map nor captions.
    """
    from grounding_model.checkpoints.weights import checkpoint_hash
    from grounding_model.inputs.prompt import Prompt

    source, image_root = as_path(source), as_path(image_root)
    work_dir = Path("work_dirs", work_dir_name(source)) if work_dir is None else as_path(work_dir)
    _check_settings(score_floor, scale, max_per_image, shard_size)
    if not source.is_file():
        raise InputError(source, "no such file", "expected an ODVG file as bootstrap writes it")
    if not is_address(image_root) and not image_root.is_dir():  # a store has no folders, images alone
        raise InputError(image_root, "no such folder", "expected the folder that the filenames are relative to")
    label_map = _label_map(source) if label_map is None else as_path(label_map)
    names = None if label_map is None else {str(label): name for label, name in read_label_map(label_map).items()}
    if names is not None:
        Prompt.categories(list(names.values()))  # a name that no prompt can hold is said now, not once an image
    digest, shards = _cut(source, shard_size)
    manifest = Manifest(
        source=absolute(source),
        source_sha256=digest,
        image_root=absolute(image_root),
        weights=_place(weights),
        weights_sha256=checkpoint_hash(weights),
        text_encoder=None if text_encoder is None else _place(text_encoder),
        text_encoder_sha256=None if text_encoder is None else checkpoint_hash(text_encoder),
        label_map=names,
        score_floor=float(score_floor),
        scale=None if scale is None else (int(scale[0]), int(scale[1])),
        max_per_image=max_per_image,
        chunk_size=chunk_size,
        shards=shards,
        software=software_version(),
        work_dir=work_dir,
        mirrored=mirrored,
    )
    _refuse_other_plan(manifest, overwrite)
    write_manifest(manifest)
    return manifest


def write_manifest(manifest: Manifest) -> None:
    """Writes the plan to its place, whole or not at all."""
    write_json(manifest.path, {"key": manifest.key, **manifest.entries()}, ensure_ascii=False)


def read_manifest(path: str | Path) -> Manifest:
    """The plan in a manifest.json, or in the folder that holds one. Raises InputError when it is none."""
    path = as_path(path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        key = entries.pop("key")
        shards = tuple(Shard(**shard) for shard in entries.pop("shards"))
        scale = None if entries["scale"] is None else tuple(entries.pop("scale"))
        manifest = Manifest(**entries | {"scale": scale}, shards=shards, work_dir=path.parent)
    except FileNotFoundError:
        raise InputError(path, "no such file", "plan first: `groundhog infer SOURCE …` writes it") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(path, f"not a manifest ({error})", "plan again with overwrite, or in another folder") from None
    if key != manifest.key:
        raise InputError(path, "its entries do not belong to its key", "it was edited by hand: plan again")
    return manifest


def as_manifest(plan: Manifest | str | Path) -> Manifest:
    """A plan that is given as itself, or by where it lies. Raises InputError as read_manifest."""
    return plan if isinstance(plan, Manifest) else read_manifest(plan)


def check_source(manifest: Manifest) -> None:
    """Raises InputError when the source is not the file that was planned: its shards would be other lines."""
    if not as_path(manifest.source).is_file():
        raise InputError(manifest.source, "no such file", "expected the file that was planned there")
    if sha256_of(manifest.source) != manifest.source_sha256:
        raise InputError(manifest.source, "has changed since the plan was made", "plan again: `groundhog infer`")


def read_lines(source: str | Path, shard: Shard | None = None) -> Iterator[SourceLine]:
    """The lines of a file, or of one shard of it. Blank lines are passed over, the numbers count them."""
    with as_path(source).open("rb") as file:
        file.seek(shard.offset if shard else 0)
        first = shard.first_line if shard else 0
        for number, raw in enumerate(file, start=first):
            if shard and number >= first + shard.lines:
                return
            if text := raw.decode("utf-8-sig", errors="replace").strip():
                yield SourceLine(number, text)


def asked_label_map(label_map: Path, distractors: Sequence[str], folder: Path) -> Path:
    """A label map that asks for distractors too, behind the categories of the given one; that one without any.

    Raises InputError for a distractor that is a category.
    """
    if not distractors:
        return label_map
    names = read_label_map(label_map)
    if both := sorted(set(names.values()) & set(distractors)):
        raise InputError("policy.distractors", f"{', '.join(both)} is a category", "expected what is not looked for")
    asked = label_map_path(folder, "asked")
    write_label_map(asked, {**names, **dict(enumerate(distractors, start=max(names) + 1))})
    return asked


def software_version() -> str:
    """Name and version of this software, as it is written beside labels."""
    try:
        return f"groundhog {version('groundhog')}"
    except PackageNotFoundError:  # a checkout that was never installed
        return "groundhog (not installed)"


def _label_map(source: Path) -> Path | None:
    """The map beside an X_od.json; None for captions. Raises InputError where there is neither."""
    beside = label_map_beside(source)
    if parse_annotation_name(source).task == "od" and beside.is_file():
        return beside
    if any('"caption"' in line.text for line in read_lines(source)):
        return None
    raise InputError(source, "no label map and no captions", f"expected a label map, given or in {beside.name}")


def _cut(source: Path, shard_size: int) -> tuple[str, tuple[Shard, ...]]:
    """SHA-256 of the file, and its shards of shard_size lines, or of the multiple of it that MAX_SHARDS asks for."""
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
        from formats.candidates import candidates_key  # only here: help reads our defaults, and this loads pyarrow

        for shard in sorted((manifest.work_dir / "candidates").glob("shard-*.parquet")):
            if candidates_key(shard) != manifest.key:
                shard.unlink()
        return
    old = read_manifest(manifest.path)
    if old.key == manifest.key:
        return
    before, after = old.entries(), manifest.entries()
    differing = [name for name in after | before if name not in _PLACES and before.get(name) != after.get(name)]
    said = "; ".join(
        f"{name}: {_brief(before.get(name))} there, {_brief(after.get(name))} asked for" for name in differing
    )
    raise InputError(manifest.path, f"another plan lies here ({said})", "take another work_dir, or overwrite=True")


def _check_settings(score_floor: float, scale: tuple[int, int] | None, max_per_image: int, shard_size: int) -> None:
    if not 0.0 <= score_floor < 1.0:
        raise InputError("score_floor", f"{score_floor} is outside 0..1", f"expected {SCORE_FLOOR:g} or so")
    if scale is not None and (len(scale) != 2 or not 0 < scale[0] <= scale[1]):
        raise InputError(
            "scale", f"{scale} is not a short and a long side", "expected two pixel numbers such as 800, 1333"
        )
    for name, value in (("max_per_image", max_per_image), ("shard_size", shard_size)):
        if value < 1:
            raise InputError(name, f"{value} is less than one", "expected a positive number")


def _place(source: str | Path) -> str:
    """An absolute path where the source is a file or folder; a name (of the embedded model, of a hub) as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
