"""Downloads from the Hugging Face hub. Imported only when needed, since the hub's client is slow to import."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from formats.io.errors import InputError
from grounding_model.inputs.tokens import TOKENIZER_FILES

log = logging.getLogger(__name__)


_CONFIG = ("config.json", "preprocessor_config.json", *TOKENIZER_FILES)
# Patterns of the weights' files. Most repositories have both kinds; the second is fetched where the first is missing.
_WEIGHTS = (("*.safetensors", "*.safetensors.index.json"), ("pytorch_model*.bin", "pytorch_model.bin.index.json"))

_ERRORS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)


def download(name: str) -> Path:
    """The folder of a hub repository, from the cache or the network. Raises InputError if it cannot be downloaded."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_CONFIG, *_WEIGHTS[0]], local_files_only=True))
        if (folder / "config.json").is_file() and _has_weights(folder):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    log.info("downloading %s from the Hugging Face hub", name)
    try:
        for weights in _WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_CONFIG, *weights]))
            if _has_weights(folder):
                break
        return folder
    except _ERRORS as error:
        raise _not_downloaded(name, error, "check the name, or pass a folder") from None


def _has_weights(folder: Path) -> bool:
    """Whether the snapshot has weights, which one does not whose download was interrupted."""
    indexes = [*folder.glob("*.index.json")]
    if not indexes:
        return any(next(folder.glob(pattern), None) for pattern, _ in _WEIGHTS)
    try:
        listed = json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"].values()
        return all((folder / str(file)).is_file() for file in listed)
    except (ValueError, KeyError, AttributeError, TypeError):
        return True  # the reader says what is wrong with it


def download_file(name: str, file: str) -> Path:
    """One file of a hub repository, from the cache or the network. Raises InputError if it cannot be downloaded."""
    try:
        return Path(hf_hub_download(name, file))
    except _ERRORS as error:
        raise _not_downloaded(name, error, "check the name, or pass a file") from None


def _not_downloaded(name: str, error: Exception, remedy: str) -> InputError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(name, f"cannot be downloaded from the Hugging Face hub ({reason})", remedy)
