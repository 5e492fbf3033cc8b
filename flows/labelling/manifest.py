"""The plan of a labelling, stored as `work_dir/manifest.json`.

Its key is a digest of everything that determines the candidates. Each shard of candidates records the key of its plan,
so an interrupted labelling resumes where it stopped and never mixes two plans.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flows.labelling.settings import LabellingSettings, settings_payload
from formats.io.errors import InputError
from formats.io.files import sha256_of, write_json
from formats.io.storage import absolute, as_path
from formats.io.values import describe_value, parse_json
from formats.odvg_lines import object_of_line, record_from_line
from formats.record import Record

MANIFEST_NAME = "manifest.json"

# Entries with locations, which are not part of the key: moving a folder does not change the plan.
PLACES = ("source", "weights", "text_encoder")
# The order of entries in manifest.json since its first version; other settings follow.
_ORDER = (
    "source", "source_sha256", "image_root", "weights", "weights_sha256", "text_encoder", "text_encoder_sha256",
    "label_map", "score_floor", "scale", "max_per_image", "chunk_size", "shards", "software",
)  # fmt: skip


class SourceLine(NamedTuple):
    """One line of an ODVG file. number: from 0, counting blank lines. text: without the line break."""

    number: int
    text: str


@dataclass(frozen=True)
class Shard:
    """Lines first_line … first_line + lines - 1 of the source, starting at the byte `offset`."""

    index: int
    first_line: int
    lines: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Manifest(LabellingSettings):
    """A plan: settings, and the data to which they apply.

    source, image_root: absolute paths, or opened URLs. File names are relative to image_root. label_map: with string
    keys, as in the file; None if every line has its own caption. software: the version that made the plan.
    """

    source: Path
    source_sha256: str
    image_root: Path
    weights_sha256: str
    text_encoder_sha256: str | None
    label_map: dict[str, str] | None
    shards: tuple[Shard, ...]
    software: str
    work_dir: Path

    def entries(self) -> dict[str, Any]:
        """The content of manifest.json, without the key."""
        entries = settings_payload(self) | {"source": absolute(self.source), "image_root": absolute(self.image_root)}
        del entries["work_dir"]
        if not self.mirrored:  # keeps the keys of plans made before this setting existed
            del entries["mirrored"]
        return {name: entries.pop(name) for name in _ORDER} | entries

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON of everything that determines the candidates; 64 hexadecimal digits."""
        deciding = {name: value for name, value in self.entries().items() if name not in PLACES}
        canonical = json.dumps(deciding, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def path(self) -> Path:
        """The path of manifest.json."""
        return self.work_dir / MANIFEST_NAME

    def shard_path(self, index: int) -> Path:
        """The path of the candidates of a shard; the file exists once they are complete."""
        return self.work_dir / "candidates" / f"shard-{index:05d}.parquet"


def write_manifest(manifest: Manifest) -> None:
    """Writes the plan to its work_dir atomically."""
    write_json(manifest.path, {"key": manifest.key, **manifest.entries()}, ensure_ascii=False)


def read_manifest(path: str | Path) -> Manifest:
    """Reads a manifest.json, or that in a folder. Raises InputError if it is missing or invalid."""
    path = as_path(path)
    path = path / MANIFEST_NAME if path.is_dir() else path
    try:
        entries = parse_json(
            path.read_text(encoding="utf-8"), path, "plan again with overwrite=True, or in another folder"
        )
        _check_texts(entries)
        key = entries.pop("key")
        shards = tuple(Shard(**shard) for shard in entries.pop("shards"))
        scale = None if entries["scale"] is None else tuple(entries.pop("scale"))
        paths = {name: as_path(entries.pop(name)) for name in ("source", "image_root")}
        manifest = Manifest(**entries | paths | {"scale": scale}, shards=shards, work_dir=path.parent)
        known = manifest.key
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(path, "no such file", "plan first: `groundhog infer SOURCE …` writes it") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            path, f"not a manifest ({error})", "plan again with overwrite=True, or in another folder"
        ) from None
    if key != known:
        raise InputError(path, "its entries do not match its key", "it was edited by hand: plan again")
    return manifest


def _check_texts(entries: Mapping[str, Any]) -> None:
    """Raises TypeError if an entry that must be text is something else, which would be used as a path."""
    for name in ("source", "source_sha256", "image_root", "weights", "weights_sha256", "software"):
        if not isinstance(entries[name], str):
            raise TypeError(f"{name} is {describe_value(entries[name])}")
    for name in ("text_encoder", "text_encoder_sha256"):
        if not isinstance(entries[name], str | None):
            raise TypeError(f"{name} is {describe_value(entries[name])}")


# A plan as the stages of `from flows import …` accept it: itself, or its manifest.json or work_dir.
PlanOrPath = Manifest | str | Path


def as_manifest(plan: PlanOrPath) -> Manifest:
    """The plan itself, read from a file if needed. Raises InputError as read_manifest does."""
    return plan if isinstance(plan, Manifest) else read_manifest(plan)


def check_source(manifest: Manifest) -> None:
    """Raises InputError if the source has changed since it was planned, since its shards would have other lines."""
    if not manifest.source.is_file():
        raise InputError(manifest.source, "no such file", "expected the file that was planned there")
    if sha256_of(manifest.source) != manifest.source_sha256:
        raise InputError(manifest.source, "has changed since the plan was made", "plan again: `groundhog infer`")


def read_lines(source: Path, shard: Shard | None = None) -> Iterator[SourceLine]:
    """Yields the lines of a file, or of one shard of it. Blank lines are skipped but counted."""
    with source.open("rb") as file:
        file.seek(shard.offset if shard else 0)
        first = shard.first_line if shard else 0
        for number, raw in enumerate(file, start=first):
            if shard and number >= first + shard.lines:
                return
            if text := raw.decode("utf-8-sig", errors="replace").strip():
                yield SourceLine(number, text)


def parse_line(line: SourceLine, source: Path) -> Record:
    """The record of a line. Raises InputError if it is invalid or quarantined."""
    location = f"{source.name}:{line.number + 1}"
    return record_from_line(object_of_line(line.text, location), location)
