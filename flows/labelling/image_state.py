"""Records the state of image files when they were labelled, so that replaced images are labelled again.

The key of a plan covers only file names. WORK_DIR/images/shard-00000.json has, for each image of a shard, its size,
modification time and digest before it was labelled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from flows.labelling.manifest import Manifest, parse_line, read_lines
from formats.images import safe_join
from formats.io.errors import InputError
from formats.io.files import sha256_of, write_json

THREADS = 8  # concurrent requests to an object store


class ImageState(NamedTuple):
    """size: bytes. written: modification time in nanoseconds; in an object store the ETag, or the date.

    digest: SHA-256 of the content; None in an object store, where the ETag suffices, and for shards of older versions.
    """

    size: int
    written: str
    digest: str | None = None


States = Mapping[str, ImageState | None]  # by filename; None: there was no such file


def states_path(manifest: Manifest, index: int) -> Path:
    """The file with the states of a shard's images."""
    return manifest.work_dir / "images" / f"shard-{index:05d}.json"


def current_states(image_root: Path, filenames: Iterable[str], digests: bool = True) -> dict[str, ImageState | None]:
    """The current states of images. Names that leave the folder are skipped."""
    paths = _paths(image_root, filenames)
    with ThreadPoolExecutor(THREADS) as readers:
        states = readers.map(lambda path: _state(path, digests), paths.values())
        return dict(zip(paths, states))


def write_states(manifest: Manifest, index: int, states: States) -> None:
    """Records the states of a shard's images; must be called before its candidates are written."""
    write_json(states_path(manifest, index), states, indent=None, ensure_ascii=False)


def changed_images(manifest: Manifest, indices: Sequence[int]) -> dict[int, list[str]]:
    """Shard -> its images that have changed since they were labelled; without shards that have none.

    Shards labelled by an older version have no states; the current ones are recorded for the next time.
    """
    find = _finder(manifest.image_root)
    changed = {}
    for index in indices:
        recorded = _read_states(states_path(manifest, index))
        if recorded is None:
            if manifest.source.is_file():
                paths = _paths(manifest.image_root, _filenames(manifest, index))
                write_states(manifest, index, {name: find(path) for name, path in paths.items()})
        elif names := _changed(recorded, manifest.image_root, find):
            changed[index] = names
    return changed


def _changed(recorded: States, image_root: Path, find: Callable[[Path], ImageState | None]) -> list[str]:
    paths = _paths(image_root, recorded)
    return [name for name, path in paths.items() if _is_other(recorded[name], find(path), path)]


def _is_other(before: ImageState | None, now: ImageState | None, path: Path) -> bool:
    """Whether the content of a file has changed. The file is only read if it was rewritten with the same size."""
    if before is None or now is None:
        return before is not now
    if before.size != now.size or before.written == now.written:
        return before.size != now.size
    if not isinstance(path, Path):
        return True
    return before.digest is not None and sha256_of(path) != before.digest


def _paths(image_root: Path, filenames: Iterable[str]) -> dict[str, Path]:
    paths = {}
    for name in filenames:
        try:
            paths[name] = safe_join(image_root, name)
        except InputError:
            continue
    return paths


def _filenames(manifest: Manifest, index: int) -> Iterable[str]:
    for line in read_lines(manifest.source, manifest.shards[index]):
        try:
            yield parse_line(line, manifest.source).filename
        except InputError:
            continue


def _read_states(path: Path) -> States | None:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: None if state is None else ImageState(*state) for name, state in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None  # missing or truncated: treated like a shard of an older version


def _state(path: Any, digest: bool) -> ImageState | None:
    try:
        if not isinstance(path, Path):
            return _state_of_entry(path.fs.info(path.path))
        if not path.is_file():
            return None
        status = path.stat()
        return ImageState(status.st_size, str(status.st_mtime_ns), sha256_of(path) if digest else None)
    except OSError:
        return None


def _state_of_entry(entry: Mapping[str, Any]) -> ImageState | None:
    """The state of an object from the metadata of an object store."""
    if entry.get("type") == "directory":
        return None
    names = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
    written = next((entry[name] for name in names if entry.get(name)), "")
    if isinstance(written, datetime):  # some stores return a date for one object and a number in a listing
        written = written.timestamp()
    return ImageState(int(entry.get("size") or 0), str(written).strip('"'))


def _finder(image_root: Path) -> Callable[[Any], ImageState | None]:
    """A function that returns an image's state without digest. Object stores are listed by folder, to save requests."""
    if isinstance(image_root, Path):
        return lambda path: _state(path, digest=False)
    listings: dict[str, dict[str, ImageState | None]] = {}

    def find(path: Any) -> ImageState | None:
        folder = path.parent.path
        if folder not in listings:
            listings[folder] = _listing(path.fs, folder)
        return listings[folder].get(path.name)

    return find


def _listing(store: Any, folder: str) -> dict[str, ImageState | None]:
    store.invalidate_cache(folder)
    try:
        entries = store.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    return {entry["name"].rstrip("/").rpartition("/")[2]: _state_of_entry(entry) for entry in entries}
