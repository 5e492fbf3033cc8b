"""Pickles of lists, dicts, texts and numbers, read without running anything.

A pickle names functions that its reader calls; here every name is refused, so that only plain containers come out.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from formats.problems import InputError


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: str | Path) -> Any:
    """The value of a pickle that holds nothing but lists, tuples, dicts, sets, texts, bytes, numbers and None.

    Texts that Python 2 wrote are read as UTF-8. Raises InputError for anything else, without having run it.
    """
    try:
        with open(path, "rb") as stream:
            return _PlainUnpickler(stream, encoding="utf-8").load()
    except FileNotFoundError:
        raise InputError(path, "does not exist", "want a pickle of plain containers") from None
    except Exception as error:  # a broken pickle raises nearly anything
        raise InputError(path, f"is no pickle of plain containers ({error})", "want the published file") from error
