"""Files that are there whole or not at all."""

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
from formats.io.locks import temporary_beside, try_lock
from formats.io.storage import as_path, is_address
from formats.io.values import parse_json

# What no other attempt can mend while the disk is as it is: full, over its quota, read-only, file too large for it.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


_PACKED = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "packed with gzip", b"7z\xbc\xaf": "a 7z archive"}


def refuse_packed(path: str | Path) -> None:
    """Raises InputError for an archive: exports of labelling tools come as one. Other files, and none, are passed."""
    path = as_path(path)
    start = b""
    with suppress(OSError), path.open("rb") as stream:
        start = stream.read(4)
    for magic, what in _PACKED.items():
        if start.startswith(magic):
            raise InputError(path, f"is {what}", "expected the file in it: unpack it first")


@contextmanager
def write_whole(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a file that appears under `path` only when the block ends well.

    The content goes to a hidden temporary name in the same folder, is forced to disk and then renamed over `path`
    in one step; a reader sees the old file or the new one, never half of it. When the block raises, the temporary
    file is removed and `path` is as it was. Folders on the way are made; a symbolic link keeps pointing where it did.
    An address (formats.io.storage) gets the whole file by one upload when the block has ended well.

    mode: "w" for UTF-8 text with "\n" line ends, "wb" for bytes.
    Raises OSError that names `path` where there is no room or nothing may be written.
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
    # Not tempfile: its files are readable by their owner only, and the rename would keep it so.
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
    """Object stores show an upload only when it is complete: no second name and no move are needed."""
    with tempfile.NamedTemporaryFile(mode, **_ENCODING[mode]) as stream:
        yield stream
        stream.flush()
        path.parent.mkdir(parents=True, exist_ok=True)  # memory:// has folders; stores that have none do nothing
        path.fs.put_file(stream.name, path.path)  # type: ignore[attr-defined]  # of UPath


_ENCODING: dict[str, dict[str, Any]] = {"w": {"encoding": "utf-8", "newline": "\n"}, "wb": {}}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A write to an open file fails without saying which file it was."""
    try:
        yield
    except Exception as error:
        if (full := _no_room(error)) is not None:
            raise OSError(full.errno, full.strerror, str(path)) from error
        raise


def _no_room(error: BaseException | None) -> OSError | None:
    """The full disk behind an error: torch.save, for one, reports a failed write in its own words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return error
        error = error.__cause__ or error.__context__
    return None


def _sync_folder(folder: Path) -> None:
    """Forces the rename itself to disk, where the system can open a folder at all."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any, **layout: Any) -> None:
    """A value as JSON for people too, two spaces a level, and a line end; whole or not at all.

    layout: what else json.dump takes.
    """
    with write_whole(path) as stream:
        # dumps, not dump: without indent that is the encoder in C, in a fifth of the time.
        stream.write(json.dumps(value, **{"indent": 2} | layout))
        stream.write("\n")


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with as_path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def write_whole_folder(path: str | Path, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Gives a folder to write into that appears under `path` only when the block ends well.

    replaces: suffixes of files; a folder that contains such files alone is replaced.
    Raises InputError when something else than that or an empty folder is there: what others wrote is not mixed with
    ours, and images that lie beside labels are not removed with them.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        _check_replaced(path, target, replaces)
    target.parent.mkdir(parents=True, exist_ok=True)
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
                path, what, f"expected a folder with {', '.join(sorted(replaces))} files alone, or a new one"
            )


def read_text(path: str | Path, remedy: str) -> str:
    """A text file's text. Raises InputError, which `remedy` ends, when it is not UTF-8."""
    try:
        return as_path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not UTF-8 ({error})", remedy) from None


def load_json(path: str | Path, remedy: str) -> Any:
    """A JSON file's value. Raises InputError, which `remedy` ends, when it is missing or not JSON."""
    try:
        return parse_json(as_path(path).read_text(encoding="utf-8-sig"), path, remedy)
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy) from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", remedy) from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"is not JSON ({error})", remedy) from error
