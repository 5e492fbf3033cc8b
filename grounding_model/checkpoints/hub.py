"""Downloads from the Hugging Face hub. Imported only when needed, since the hub's client is slow to import."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from formats.io.errors import InputError
from grounding_model.inputs.tokens import TOKENIZER_FILES

log = logging.getLogger(__name__)


def download(name: str) -> Path:
    """The folder of a hub repository, from the cache or the network. Raises InputError if it cannot be downloaded."""
    patterns = [
        "config.json",
        "preprocessor_config.json",
        *TOKENIZER_FILES,
        "*.safetensors",
        "*.safetensors.index.json",
    ]
    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if (folder / "config.json").is_file():
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    log.info("downloading %s from the Hugging Face hub", name)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            name, f"cannot be downloaded from the Hugging Face hub ({reason})", "check the name, or pass a folder"
        ) from None


def download_file(name: str, file: str) -> Path:
    """One file of a hub repository, from the cache or the network. Raises InputError if it cannot be downloaded."""
    try:
        return Path(hf_hub_download(name, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            name, f"cannot be downloaded from the Hugging Face hub ({reason})", "check the name, or pass a file"
        ) from None
