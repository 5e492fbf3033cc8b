"""Pickles of lists, dicts, texts and numbers, read without running anything.

A pickle names functions that its reader calls; here every name is refused, so that only plain containers come out.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

from formats.io.errors import InputError


# The reader in Python, not the one in C: that makes room for as many objects as a pickle of ten bytes says it has.
class _PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    dispatch: ClassVar[dict] = {
        opcode: load
        for opcode, load in pickle._Unpickler.dispatch.items()  # type: ignore[attr-defined]
        if opcode != pickle.BYTEARRAY8[0]  # here the Python reader makes room, too; the published files have none
    }

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: str | Path) -> Any:
    """The value of a pickle that holds nothing but lists, tuples, dicts, sets, texts, bytes, numbers and None.

    Texts that Python 2 wrote are read as UTF-8. Raises InputError for anything else, without having run it.
    """
    try:
        # From memory, where a text that says it is longer than the file ends with the file.
        return _PlainUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="utf-8").load()
    except FileNotFoundError:
        raise InputError(path, "does not exist", "expected a pickle of plain containers") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise InputError(path, f"is no pickle of plain containers ({error})", "expected the published file") from error
