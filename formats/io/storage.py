"""Where files are: local paths, or URLs such as s3://bucket/photos, which fsspec opens ("addresses" in this code).

Stages call as_path once on their arguments and then use `/`, open, is_file and so on as with any Path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from formats.io.errors import InputError

# At least two letters before the colon: C:/photos is a path. One slash: Path turns s3://bucket into s3:/bucket.
_ADDRESS = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/(?P<second>/?)")


def as_path(location: str | Path) -> Path:
    """A Path; for a URL, an object with the methods of Path (universal_pathlib's UPath).

    file:// URLs become local paths. Raises InputError for a protocol that no installed package supports.
    """
    if not isinstance(location, str | Path):
        return location  # a UPath already
    match = _ADDRESS.match(str(location))
    if not match:
        return Path(location)
    protocol, address = match["protocol"], str(location)
    if not match["second"]:
        address = address.replace(":/", "://", 1)
    if protocol == "file":
        return Path("/" + address.removeprefix("file://").removeprefix("localhost").lstrip("/"))
    from upath import UPath  # imported here, since local paths do not need it

    try:
        path = UPath(address)
        path.fs  # noqa: B018 - only now does fsspec import the package for the protocol
    except (ImportError, ValueError) as error:
        remedy = "expected groundhog[s3] or groundhog[gcs] installed, or the package that fsspec names"
        raise InputError(address, f"{protocol}:// cannot be opened ({error})", remedy) from error
    return cast(Path, path)


def is_address(path: str | Path) -> bool:
    """Whether the path is a URL, which as_path opens with fsspec."""
    return not isinstance(as_path(path), Path)


def absolute(path: str | Path) -> str:
    """The absolute path, or the URL, as a string."""
    path = as_path(path)
    return str(path.resolve() if isinstance(path, Path) else path)
