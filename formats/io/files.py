"""Writing files atomically, so that no reader sees a partial one; reading text and JSON with clear errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from formats.io.errors import InputError
from formats.io.locks import MAX_NAME, remove_leftovers, temporary_beside, try_lock
from formats.io.storage import as_path, is_address
from formats.io.values import parse_json

# Errors that a retry cannot cure: disk full, over its quota, read-only, or the file is too large for it.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


_PACKED = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "packed with gzip", b"7z\xbc\xaf": "a 7z archive"}


def check_is_folder(path: str | Path, remedy: str) -> None:
    """Raises InputError with `remedy` unless it is an existing folder."""
    if not Path(path).is_dir():
        raise InputError(path, "is not a folder" if Path(path).exists() else "does not exist", remedy)


def refuse_packed(path: str | Path) -> None:
    """Raises InputError if the file is an archive, as exports of labelling tools often are."""
    path = as_path(path)
    start = b""
    with suppress(OSError), path.open("rb") as stream:
        start = stream.read(4)
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            raise InputError(path, f"is {what}", "expected the file in it: unpack it first")


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a file that appears under `path` only when the block ends without an error.

    The content is written to a hidden temporary file in the same folder, synced to disk, and renamed over `path`
    atomically: a reader sees the old file or the new one, never a partial one. If the block raises, the temporary
    file is removed and `path` is unchanged. Missing parent folders are created; a symbolic link is written through.
    For a URL (formats.io.storage) the complete file is uploaded once, after the block.

    mode: "w" for UTF-8 text with "\n" line ends, "wb" for bytes.
    Raises OSError that names `path` if the disk is full or `path` cannot be written.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode {mode!r}; expected 'w' or 'wb'")
    path = as_path(path)
    with _named(path), _uploaded(path, mode) if is_address(path) else _renamed(path, mode) as stream:
        yield stream


@contextmanager
def _renamed(path: Path, mode: str) -> Iterator[IO]:
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: it creates files that only their owner can read, and the rename would keep that mode.
    temporary = temporary_beside(target)
    try:
        with open(temporary, mode.replace("w", "x"), **_ENCODING[mode]) as stream:
            try_lock(stream.fileno())
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


@contextmanager
def _uploaded(path: Path, mode: str) -> Iterator[IO]:
    """Object stores show an upload only once it is complete, so no temporary name is needed."""
    with tempfile.NamedTemporaryFile(mode, **_ENCODING[mode]) as stream:
        yield stream
        stream.flush()
        path.parent.mkdir(parents=True, exist_ok=True)  # memory:// has folders; for other stores this does nothing
        path.fs.put_file(stream.name, path.path)  # type: ignore[attr-defined]  # of UPath


_ENCODING: dict[str, dict[str, Any]] = {"w": {"encoding": "utf-8", "newline": "\n"}, "wb": {}}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Adds the path to a full disk's error, since a failed write to an open file does not name it."""
    try:
        yield
    except Exception as error:
        if (full := _no_room(error)) is not None:
            raise OSError(full.errno, full.strerror, str(path)) from error
        raise


def _no_room(error: BaseException | None) -> OSError | None:
    """The "disk full" error behind an error, if any: torch.save, for example, raises its own for a failed write."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None


def _sync_folder(folder: Path) -> None:
    """Syncs the rename to disk, on systems where a folder can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any, **layout: Any) -> None:
    """Writes a value as JSON with an indent of two and a final line end, atomically.

    layout: other arguments of json.dumps.
    """
    with write_whole(path) as stream:
        # dumps, not dump: without an indent it uses the C encoder, in a fifth of the time.
        stream.write(json.dumps(value, **{"indent": 2} | layout))
        stream.write("\n")


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with as_path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def write_whole_folder(path: str | Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Yields a folder to write into, which appears under `path` only when the block ends without an error.

    replaces: suffixes of files; an existing folder that contains only such files is replaced.
    Raises InputError if `path` is anything else than such a folder or an empty one, so that nobody's files are mixed
    with ours, and images beside old labels are not deleted.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        _check_replaced(path, target, replaces)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, f"{target.name[:MAX_NAME]}.")  # a killed process may have copied many images
    temporary = temporary_beside(target)
    temporary.mkdir()
    descriptor = os.open(temporary, os.O_RDONLY) if os.name == "posix" else None
    try:
        if descriptor is not None:
            try_lock(descriptor)
        yield temporary
        if target.exists():
            _check_replaced(path, target, replaces)
            old = temporary_beside(target)
            os.replace(target, old)
            shutil.rmtree(old)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    _sync_folder(target.parent)


def _check_replaced(path: str | Path, target: Path, replaces: Collection[str]) -> None:
    if not replaces or not target.is_dir():
        raise InputError(path, "already exists", "expected a new folder; remove it first")
    for file in sorted(target.rglob("*")):
        if not (file.is_dir() and not file.is_symlink()) and (file.suffix not in replaces or file.is_symlink()):
            what = f"contains {file.relative_to(target)}, which is not replaced"
            raise InputError(
                path, what, f"expected a folder with only {', '.join(sorted(replaces))} files, or a new one"
            )


def read_text(path: str | Path, remedy: str) -> str:
    """The text of a UTF-8 file, without its byte-order mark. Raises InputError with `remedy` if it is not UTF-8."""
    try:
        return as_path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({error})", remedy) from None


def load_json(path: str | Path, remedy: str) -> Any:
    """The value of a JSON file. Raises InputError with `remedy` if the file is missing or is not JSON."""
    try:
        return parse_json(as_path(path).read_text(encoding="utf-8-sig"), path, remedy)
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy) from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", remedy) from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not JSON ({error})", remedy) from error
