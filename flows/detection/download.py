"""Downloads images from URLs, up to a maximum size."""

from __future__ import annotations

import re
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from formats.io.errors import InputError
from formats.io.files import write_whole

MAX_BYTES = 100 * 2**20  # of an image; a larger file is not a photo
TIMEOUT = 30  # seconds without a byte
BLOCK = 2**16
SCHEMES = ("http", "https", "file")


def is_url(source: str) -> bool:
    """True for 'scheme://…'. A drive letter is not a scheme."""
    return re.match(r"[a-z][a-z0-9+.-]+://", source, re.IGNORECASE) is not None


def fetch(url: str, folder: Path, max_bytes: int = MAX_BYTES) -> Path:
    """Downloads one file into `folder`, named by the last part of the URL.

    Raises InputError if the scheme is none of SCHEMES, the server does not respond or refuses, or the file is larger
    than `max_bytes` bytes. Then nothing is left in the folder.
    """
    try:
        address = urlsplit(url)
    except ValueError as error:
        raise InputError(url, f"is not a URL ({error})", "expected http://host/photo.jpg") from error
    if address.scheme.lower() not in SCHEMES:
        raise InputError(url, f"{address.scheme}:// is not supported", f"expected {', '.join(SCHEMES)}")
    target = folder / _file_name(address.path)
    request = Request(url, headers={"User-Agent": "groundhog"})
    try:
        with urlopen(request, timeout=TIMEOUT) as response, write_whole(target, "wb") as file:
            received = 0
            while block := response.read(BLOCK):
                received += len(block)
                if received > max_bytes:
                    raise InputError(url, f"is larger than {max_bytes} bytes", "download it yourself if it is an image")
                file.write(block)
    except InputError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(url, f"cannot be downloaded ({error})", "expected the URL of an image") from error
    return target


def _file_name(path: str) -> str:
    """The last part of a URL's path, without characters that file systems forbid."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", PurePosixPath(unquote(path)).name).strip(". ")
    return name or "image"
