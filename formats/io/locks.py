"""Locks on folders, so that one process at a time writes there. A lock ends with its process, even a killed one."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from formats.io.errors import InputError
from formats.io.storage import is_address

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

MAX_NAME = 100  # characters of a file's name that its temporary names begin with
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}\.tmp")
_held: set[int] = set()  # descriptors of our locks; a forked child closes them


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process until it is closed; False if another process holds the lock.

    Also True, without a lock, on a file system that does not support locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have no locks
        return True
    return True


def temporary_beside(target: Path) -> Path:
    """A unique hidden name in the folder of `target`, for a file that will be renamed to it. Its writer locks it."""
    return target.parent / f".{target.name[:MAX_NAME]}.{uuid.uuid4().hex}.tmp"


def remove_leftovers(folder: str | Path, name: str = "") -> None:
    """Removes temporary files of killed processes: those that no process has locked.

    name: only files directly in the folder whose names begin with it; "" for all files below the folder.
    """
    if is_address(folder):
        return
    pattern = f".{glob.escape(name)}*.tmp"
    for leftover in Path(folder).glob(pattern) if name else Path(folder).rglob(pattern):
        if not _TEMPORARY.fullmatch(leftover.name):
            continue
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY)
            try:
                if try_lock(descriptor):
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def lock(folder: str | Path, name: str = "") -> Iterator[None]:
    """Locks `folder` for this process while the block runs. Creates it, and removes leftovers of killed processes.

    name: locks only the files whose names begin with it, "x_od" for x_od.json and x_od_v1.json.
    The lock is held by the kernel on the file .lock or .NAME.lock; that the file exists means nothing. A URL is not
    locked: object stores have no locks, and files written there are complete and carry their key.
    Raises InputError if another process holds the lock (it is named), or if the folder cannot be written.
    """
    if is_address(folder):
        yield
        return
    lock_file = Path(folder) / (f".{name}.lock" if name else ".lock")
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # not bad input: the run fails and can be resumed once there is room
            raise
        raise InputError(folder, f"cannot be written ({error.strerror})", "expected a folder to write into") from error
    try:
        if not try_lock(descriptor):
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise InputError(folder, f"in use by process {owner}", "stop it or choose another folder")
        _held.add(descriptor)
        with suppress(OSError):  # disk full: writing the first file will report it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        remove_leftovers(folder, name)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _release_in_child() -> None:
    """A data loading worker can outlive its killed parent by seconds, and must not keep the parent's lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
