"""Reads untrusted PyTorch files without running any code in them.

A pickle is a program that names functions to call. Here no name is ever imported: the few names that describe tensors
become descriptions, and every other name becomes an inert `Stub`; calling a stub returns a stub. In addition, a file
that names functions only an attack would call is refused, since its weights may have been tampered with too. Both of
torch's formats are read: the zip archive (since 1.6) and the older stream of pickles, the format of published mmdet
files. A small file cannot expand to a huge value: formats.io.plain_pickle limits nesting, keys and size.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from formats.io.errors import InputError
from formats.io.plain_pickle import ATOMS, BoundedUnpickler, check_extent, check_key

STORAGE_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's stream format
LEGACY_HEAD = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
ZIP_HEAD = b"PK\x03\x04"
MAX_AXES = 64  # torch's limit
MAX_VIEWS = 16  # limit on the size of all tensors relative to the file; heads shared by layers occur 6 or 7 times
STATE_KEYS = ("state_dict", "model")  # keys under which trainers store the tensors, if they are not at the top level


# No trainer's objects need these. The list serves to report attacks; safety does not depend on it.
MODULES_OF_ATTACKS = frozenset(
    ("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy", "pty", "ctypes", "webbrowser")
)
BUILTINS_OF_ATTACKS = frozenset(("eval", "exec", "compile", "open", "__import__", "input", "breakpoint"))


class PickledCheckpoint(NamedTuple):
    """The content of a PyTorch file that can be read without running code."""

    tensors: dict[str, Tensor]  # by their names in the file, on the CPU, in their stored dtype
    meta: dict[str, object]  # the strings and numbers of mmengine's `meta`


def read_pickled_checkpoint(path: str | Path) -> PickledCheckpoint:
    """Reads tensors and plain metadata of a `.pth`, `.pt` or `.bin` file.

    Only tensors of the model are read from disk, not those of an optimizer. Raises InputError, saying what the file is
    instead, if it is not a PyTorch file, is truncated, or calls functions that no checkpoint needs.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _read(file, path)
    except FileNotFoundError:
        raise InputError(path, "no such file", "expected the path of a checkpoint") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})") from None


def _read(file: IO[bytes], path: Path) -> PickledCheckpoint:
    head = file.read(len(LEGACY_HEAD))
    file.seek(0)
    try:
        if head.startswith(ZIP_HEAD):
            content, open_storage = _read_archive(file, path)
        elif head == LEGACY_HEAD:
            content, open_storage = _read_stream(file, path)
        else:
            raise InputError(path, describe_head(path), "expected a PyTorch checkpoint")
        check_extent(content, path.stat().st_size)
        return PickledCheckpoint(_tensors_of(content, open_storage, path), _plain_meta(content))
    except InputError:
        raise
    except _AttackError as attack:
        what = f"would run {attack}, which no checkpoint needs; nothing was run"
        raise InputError(path, what, "get the weights from another source") from None
    except (EOFError, zipfile.BadZipFile, struct.error) as error:
        raise InputError(path, f"is truncated or damaged ({error})", "download it again") from None
    except Exception as error:  # a hostile pickle can make the reader fail in any way
        raise InputError(path, f"is not a readable checkpoint ({type(error).__name__}: {error})") from None


def describe_head(path: Path) -> str:
    """What a file that is not a checkpoint looks like, for an error message."""
    with open(path, "rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        return "is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a checkpoint (the download returned HTML)"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the checkpoint (run `git lfs pull`)"
    if not head.strip(b"\0"):
        return "starts with zeros (an unfinished download)"
    if head.startswith(b"\x80"):
        return "is a pickle that was not written by torch.save"
    return f"is not a PyTorch file (it starts with {head[:16]!r})"


# --- replacements for the names in a pickle


class Stub:
    """Replaces any class, function or instance that the file names. It does nothing and stores nothing."""

    name = "object"

    def __new__(cls, *arguments: object, **keywords: object) -> Stub:
        return object.__new__(cls)

    def __init__(self, *arguments: object, **keywords: object) -> None:
        pass

    def __call__(self, *arguments: object, **keywords: object) -> Stub:
        return Stub()

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)

    def append(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass


class Unalterable:
    """Base of our descriptions of tensors: refuses a pickle's instruction to overwrite their attributes."""

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it overwrites the description of a tensor")


@dataclass(frozen=True)
class StorageType(Unalterable):
    """Replaces a torch storage class."""

    dtype: torch.dtype


@dataclass(frozen=True)
class StoredArray(Unalterable):
    """Describes a storage: `numel` numbers of one dtype, stored under `key`."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor(Unalterable):
    """Describes a tensor as a view on a storage; offset and stride are in elements."""

    storage: StoredArray
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.stride)
        if not isinstance(self.storage, StoredArray) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("the description of a tensor is malformed")
        if len(self.shape) > MAX_AXES:
            raise ValueError(f"a tensor has {len(self.shape)} axes")
        if len(self.shape) != len(self.stride) or math.prod(self.shape) > self.storage.numel:
            raise ValueError(f"a tensor of shape {self.shape} does not fit its storage of {self.storage.numel}")
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if math.prod(self.shape) and last >= self.storage.numel:
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage of {self.storage.numel}")


class RebuildTensor(Unalterable):
    """Replaces torch._utils._rebuild_tensor_v2; the arguments after the stride (gradient, hooks) are not needed."""

    def __call__(
        self, storage: StoredArray, offset: int, shape: Iterable[int], stride: Iterable[int], *_: object
    ) -> StoredTensor:
        return StoredTensor(storage, offset, tuple(shape), tuple(stride))


class RebuildParameter(Unalterable):
    """Replaces torch._utils._rebuild_parameter: returns the tensor of the parameter."""

    def __call__(self, data: StoredTensor, *_: object) -> StoredTensor:
        return data


def _ordered_dict(pairs: Iterable[Any] = ()) -> OrderedDict:
    """Replaces collections.OrderedDict, which pickles of Python 2 call with its items."""
    pairs = [(key, value) for key, value in pairs]
    for key, _ in pairs:
        check_key(key, _Unpickler.key_types)
    return OrderedDict(pairs)


# All names that are not replaced by a Stub.
KNOWN: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): RebuildParameter(),
    **{("torch", name): StorageType(dtype) for name, dtype in STORAGE_TYPES.items()},
}


class _AttackError(Exception):
    """Its message is the name of the function that a pickle would call."""


def _is_attack(module: str, name: str) -> bool:
    if module in ("builtins", "__builtin__"):
        return name.split(".")[0] in BUILTINS_OF_ATTACKS
    return module.split(".")[0] in MODULES_OF_ATTACKS


class _Unpickler(BoundedUnpickler):
    key_types: ClassVar[tuple[type, ...]] = (*ATOMS, Stub, type)

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(file, size, encoding="utf-8", errors="replace")
        self.storages: dict[str, StoredArray] = {}

    def find_class(self, module: str, name: str) -> object:
        if _is_attack(module, name):
            raise _AttackError(f"{module}.{name}")
        known = KNOWN.get((module, name))
        return type("Stub", (Stub,), {"name": f"{module}.{name}"}) if known is None else known

    def persistent_load(self, identity: Any) -> StoredArray:
        kind, storage_type, key, _, numel, *view = identity
        if kind != "storage" or not isinstance(storage_type, StorageType) or type(numel) is not int or numel < 0:
            raise ValueError("a storage of unknown kind")
        if any(part is not None for part in view):
            raise ValueError("views of storages (torch before 0.4) are not supported")
        if not isinstance(key, str | int):
            raise ValueError("a storage without a name")
        storage = StoredArray(str(key), storage_type.dtype, numel)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {key} is described in two ways")
        return storage


# --- the two formats; each reader returns the unpickled content and a function that reads a storage

OpenStorage = Callable[[StoredArray], bytes]


def _read_archive(file: IO[bytes], path: Path) -> tuple[object, OpenStorage]:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise InputError(path, "is a compressed zip archive", "expected a PyTorch checkpoint, which is not compressed")
    program = next((name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")), None)
    if program is None:
        raise InputError(path, "is a zip archive without a checkpoint in it", "expected a PyTorch checkpoint")
    folder = program.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise InputError(path, "is a TorchScript program", "expected the checkpoint with the weights")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise InputError(path, "was written on a big-endian machine", "save it again on a little-endian one")

    def open_storage(storage: StoredArray) -> bytes:
        entry = entries.get(f"{folder}data/{storage.key}")
        if entry is None or entry.file_size < storage.nbytes:
            raise EOFError(f"storage {storage.key} lacks {storage.nbytes} bytes")
        return archive.read(entry)

    with archive.open(program) as stream:
        return _Unpickler(stream, entries[program].file_size).load(), open_storage


def _read_stream(file: IO[bytes], path: Path) -> tuple[object, OpenStorage]:
    size = path.stat().st_size
    magic, _version, system = (_Unpickler(file, size).load() for _ in range(3))
    if magic != LEGACY_MAGIC or not isinstance(system, dict) or not system.get("little_endian", True):
        raise InputError(path, "was written on a big-endian machine or by an unknown torch")
    unpickler = _Unpickler(file, size)
    content = unpickler.load()
    places = dict(_storage_places(file, _Unpickler(file, size).load(), unpickler.storages, path))

    def open_storage(storage: StoredArray) -> bytes:
        if storage.key not in places:
            raise EOFError(f"storage {storage.key} is not in the file")
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return content, open_storage


def _storage_places(
    file: IO[bytes], keys: object, storages: Mapping[str, StoredArray], path: Path
) -> Iterator[tuple[str, int]]:
    """(key, offset in bytes) for each storage; they are consecutive, each preceded by its number of elements."""
    size = path.stat().st_size
    for key in keys if isinstance(keys, list) else []:
        storage = storages[str(key)]
        (numel,) = struct.unpack("<q", file.read(8))
        start = file.tell()
        if numel != storage.numel or start + storage.nbytes > size:
            raise EOFError(f"storage {key} needs {storage.nbytes} bytes at {start}, the file has {size}")
        yield str(key), start
        file.seek(start + storage.nbytes)


# --- from the unpickled content to tensors and metadata


def _tensors_of(content: object, open_storage: OpenStorage, path: Path) -> dict[str, Tensor]:
    table = content
    for key in STATE_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            table = content[key]
            break
    if not isinstance(table, dict) or not any(isinstance(value, StoredTensor) for value in table.values()):
        raise InputError(path, "contains no table of tensors", f"expected one, or one under {' or '.join(STATE_KEYS)}")
    loaded: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    size, used, stored = path.stat().st_size, 0, 0
    for name, value in table.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            raise InputError(path, f"{name!r} is not a tensor but {_kind(value)}", "expected tensors only")
        storage = value.storage
        used += math.prod(value.shape) * storage.dtype.itemsize
        if used > MAX_VIEWS * size:
            raise ValueError(f"its tensors take more than {MAX_VIEWS} times its {size} bytes")
        if storage.key not in loaded:
            stored += storage.nbytes
            if stored > size:
                raise ValueError(f"its storages take more than its {size} bytes")
            loaded[storage.key] = _numbers(open_storage(storage), storage)
        tensors[name] = loaded[storage.key].as_strided(value.shape, value.stride, value.offset)
    return tensors


def _numbers(data: bytes, storage: StoredArray) -> Tensor:
    if not storage.numel:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype, count=storage.numel)


def _kind(value: object) -> str:
    return value.name if isinstance(value, Stub) else type(value).__name__


def _plain_meta(content: object) -> dict[str, object]:
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return {}
    return {key: value for key, value in meta.items() if isinstance(key, str) and isinstance(value, str | int | float)}
