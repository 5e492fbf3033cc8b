"""Where files lie: paths of this machine, or addresses such as s3://bucket/photos that fsspec opens.

Stages call as_path once on their arguments and then work with `/`, open, is_file and their kin as with any Path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from formats.io.errors import InputError

# Two letters or more before the colon: C:/photos is a path. One slash: what Path makes of s3://bucket.
_ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/(?P<second>/?)")


def as_path(location: str | Path) -> Path:
    """A Path, or for an address an object with the methods of one (universal_pathlib's UPath).

    file:// addresses are paths of this machine. Raises InputError for a protocol that nothing installed here speaks.
    """
    if not isinstance(location, str | Path):
        return location  # an address that was opened before
    match = _ADDRESS.match(str(location))
    if not match:
        return Path(location)
    protocol, address = match["protocol"], str(location)
    if not match["second"]:
        address = address.replace(":/", "://", 1)
    if protocol == "file":
        return Path("/" + address.removeprefix("file://").removeprefix("localhost").lstrip("/"))
    from upath import UPath  # only here: local paths need not wait for it

    try:
        path = UPath(address)
        path.fs  # noqa: B018 - fsspec looks for its package only now
    except (ImportError, ValueError) as error:
        remedy = "expected groundhog[s3] or groundhog[gcs] installed, or the package that fsspec names"
        raise InputError(address, f"{protocol}:// cannot be opened ({error})", remedy) from error
    return cast(Path, path)


def is_address(path: str | Path) -> bool:
    """True where as_path opens it with fsspec."""
    return not isinstance(as_path(path), Path)


def absolute(path: str | Path) -> str:
    """The whole path, or the address, as text."""
    path = as_path(path)
    return str(path.resolve() if isinstance(path, Path) else path)
