"""Where a checkpoint is: embedded, a file, a folder, or a repository of the Hugging Face hub. No torch."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from formats.io.errors import InputError
from formats.io.files import sha256_of
from grounding_model.inputs.defaults import WEIGHTS

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
EMBEDDED = {WEIGHTS: Path(__file__).with_name(f"{WEIGHTS}.safetensors")}
HUB_PREFIX = "hf:"  # any repository of the Hugging Face hub; those below need no prefix
HUB_NAMES = (
    *(
        f"openmmlab-community/mm_grounding_dino_{name}"
        for name in (
            "tiny_o365v1_goldg",
            "tiny_o365v1_goldg_grit",
            "tiny_o365v1_goldg_v3det",
            "tiny_o365v1_goldg_grit_v3det",
            "base_o365v1_goldg_v3det",
            "base_all",
            "large_o365v2_oiv6_goldg",
            "large_all",
        )
    ),
    *(f"iSEE-Laboratory/llmdet_{size}" for size in ("tiny", "base", "large")),
    *(f"IDEA-Research/grounding-dino-{size}" for size in ("tiny", "base")),
)


def locate(source: str | Path) -> Path:
    """The file or folder that `source` means. Raises InputError when there is none."""
    if str(source) in EMBEDDED:
        path = EMBEDDED[str(source)]
        if not path.is_file():
            raise InputError(source, f"is not in this installation ({path})", "install groundhog whole")
        return path
    path = Path(source)
    if path.exists():
        return path
    name = str(source).removeprefix(HUB_PREFIX)
    if name in HUB_NAMES or str(source).startswith(HUB_PREFIX):
        return download(name)
    raise InputError(
        source,
        "no such checkpoint",
        f"expected {', '.join(EMBEDDED)}, a file, a folder, a hub name like {HUB_NAMES[0]}, or {HUB_PREFIX}owner/name",
    )


def checkpoint_hash(source: str | Path) -> str:
    """SHA-256 of a checkpoint's file; of a folder, of the names and contents of the files that make up the model."""
    path = locate(source)
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in {".safetensors", ".bin", ".json", ".txt"}:
            digest.update(f"{file.name}\0{sha256_of(file)}\0".encode())
    return digest.hexdigest()


def download(name: str) -> Path:
    """The folder of a hub repository, from the cache or the network. Raises InputError when it cannot be downloaded."""
    # Only here: they take longer to import than most commands take, which use local weights.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

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
            name, f"cannot be downloaded from the Hugging Face hub ({reason})", "check the name, or specify a folder"
        ) from None
