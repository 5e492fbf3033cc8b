"""Matches image names in an export of another program with our images.

Programs add folders of their storage to a name, drop folders, and change names: Label Studio prefixes uploaded files
with a key of eight digits and removes spaces and brackets, URLs are percent-encoded, and some formats drop the
suffix. Roboflow writes `a_jpg.rf.KEY.jpg`. Windows and some cameras do not distinguish upper and lower case.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from formats.io.errors import InputError

_KEY = re.compile(r"[0-9a-f]{8}(?:-|__)(?=.)")  # Label Studio's: of an upload, and of an image that it exports
_ROBOFLOW = re.compile(r"_([A-Za-z0-9]{3,4})\.rf\.[0-9A-Za-z]+\.\w+$")  # the original suffix, and the key
_MAX_FOLDERS = 32  # that a program may put before our names


class Match(NamedTuple):
    """filename: of our image. by_path: whether the whole path matched, not only the base name."""

    filename: str
    by_path: bool


class ImageNames:
    """The images of one label file, found by their names in another program.

    The same number of leading folders is removed from all names of an export: the number with the most matches. Names
    that do not match then are looked up by their base name, if only one of our images has it.
    """

    def __init__(self, filenames: Iterable[str], source: str, exported: Sequence[str], are_stems: bool = False) -> None:
        """source: name of the label file, for messages. exported: all names of the export. are_stems: no suffixes."""
        self._source, self._are_stems = source, are_stems
        self._paths: dict[str, list[str]] = defaultdict(list)
        self._bases: dict[str, list[str]] = defaultdict(list)
        self._cleaned: dict[str, list[str]] = defaultdict(list)
        for filename in dict.fromkeys(filenames):
            path = self._key(filename)
            base = PurePosixPath(path).name
            self._paths[path].append(filename)
            self._bases[base].append(filename)
            self._cleaned[_clean(base)].append(filename)
        self._folders = self._leading_folders(exported)

    def find(self, name: str, location: str) -> Match:
        """Our image for an exported name. Raises InputError at `location` if there is none, or more than one."""
        found = self._paths.get(_without_folders(_normal(name), self._folders), ())
        if len(found) == 1:
            return Match(found[0], by_path=True)
        for matches in self._with_base_name(PurePosixPath(_normal(name)).name):
            if len(matches) == 1:
                return Match(matches[0], by_path=False)
            if matches:
                what = f"{name!r} may be {' or '.join(matches[:2])} (its base name is that of {len(matches)} images)"
                raise InputError(location, what, "expected the image's folder in the export")
        raise InputError(location, f"{name!r} is not an image of {self._source}", "expected an export of these labels")

    def _with_base_name(self, base: str) -> Iterator[Sequence[str]]:
        bases = dict.fromkeys([base, unquote(base)])
        bases |= dict.fromkeys([_KEY.sub("", each, count=1) for each in bases])
        bases |= dict.fromkeys([_ROBOFLOW.sub(r".\1", each) for each in bases])
        yield from (self._bases.get(each, ()) for each in bases)
        yield from (self._cleaned.get(_clean(each), ()) for each in bases)

    def _leading_folders(self, exported: Sequence[str]) -> int:
        names = [_normal(name) for name in exported]
        deepest = min(max((name.count("/") for name in names), default=0), _MAX_FOLDERS)

        def known(folders: int) -> int:
            return sum(len(self._paths.get(_without_folders(name, folders), ())) == 1 for name in names)

        return max(range(deepest + 1), key=known)

    def _key(self, filename: str) -> str:
        name = _normal(filename)
        return PurePosixPath(name).with_suffix("").as_posix() if self._are_stems else name


def _normal(name: str) -> str:
    """The name in composed Unicode, since macOS decomposes letters with accents; of a URL, only the path."""
    name = unquote(urlsplit(name).path) if "://" in name else name
    return unicodedata.normalize("NFC", name).removeprefix("./").lstrip("/")


def _without_folders(name: str, folders: int) -> str:
    return "/".join(name.split("/")[folders:])


def _clean(base: str) -> str:
    """A base name without what web servers and other programs change in it: case, blanks, and signs."""
    return re.sub(r"[^\w.]", "", re.sub(r"[-_ ]", "_", base.strip())).casefold()
