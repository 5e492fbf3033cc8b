"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from formats.problems import InputError


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a file that appears under `path` only when the block ends well.

    The content goes to a hidden temporary name in the same folder, is forced to disk and then renamed over `path`
    in one step; a reader sees the old file or the new one, never half of it. When the block raises, the temporary
    file is removed and `path` is as it was. Folders on the way are made; a symbolic link keeps pointing where it did.

    mode: "w" for UTF-8 text with "\\n" line ends, "wb" for bytes.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode {mode!r}; want 'w' or 'wb'")
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner only, and the rename would keep it so.
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    encoding, newline = (None, None) if mode == "wb" else ("utf-8", "\n")
    try:
        with open(temporary, mode.replace("w", "x"), encoding=encoding, newline=newline) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Forces the rename itself to disk, where the system can open a folder at all."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def write_whole_folder(path: str | Path) -> Iterator[Path]:
    """Gives a folder to write into that appears under `path` only when the block ends well.

    Raises InputError when something other than an empty folder is there: what others wrote is not mixed with ours.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        raise InputError(path, "is there already", "want a new folder, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    temporary.mkdir()
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(target.parent)


def read_text(path: str | Path, remedy: str) -> str:
    """A text file's text. Raises InputError, which `remedy` ends, when it is not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({error})", remedy) from None


def load_json(path: str | Path, remedy: str) -> Any:
    """A JSON file's value. Raises InputError, which `remedy` ends, when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy) from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", remedy) from None
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"is not JSON ({error})", remedy) from error
