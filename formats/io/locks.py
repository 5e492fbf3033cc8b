"""One process at a time writes into a folder: a lock that is released when its process ends, however it ends."""

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

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{32}\.tmp")
_held: set[int] = set()  # descriptors of locks, which a forked child must not keep alive


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process until it is closed; False where another process has it.

    True without a lock on a file system that has none.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems have none
        return True
    return True


def temporary_beside(target: Path) -> Path:
    """A unique hidden name for what is going to be renamed to `target`; its writer locks it."""
    return target.parent / f".{target.name[:100]}.{uuid.uuid4().hex}.tmp"


def remove_leftovers(folder: str | Path, name: str = "") -> None:
    """Removes what killed writers left: temporary files that no process has locked.

    name: only files in the folder itself whose names begin with it; "" for all files below the folder.
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
    """Locks `folder` for this process while the block runs; makes it, and removes the leftovers of killed processes.

    name: locks only the files whose names begin with it, "x_od" for x_od.json and x_od_v1.json.
    The lock is the kernel's, on the file .lock or .NAME.lock, which stays and means nothing by itself. An address is
    not locked: object stores have no locks, and what is written there is whole and carries its key.
    Raises InputError that names the process which has the lock, and where the folder cannot be written.
    """
    if is_address(folder):
        yield
        return
    lock_file = Path(folder) / (f".{name}.lock" if name else ".lock")
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # not a wrong argument: the run fails, and can be resumed when there is room
            raise
        raise InputError(folder, f"cannot be written ({error.strerror})", "expected a folder to write into") from error
    try:
        if not try_lock(descriptor):
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise InputError(folder, f"in use by process {owner}", "stop it or choose another folder")
        _held.add(descriptor)
        with suppress(OSError):  # of a full disk, which writing the first file will report
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        remove_leftovers(folder, name)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _release_in_child() -> None:
    """A worker that loads data may outlive its killed parent by seconds; the lock is not its own."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
