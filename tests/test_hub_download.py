"""Checkpoints of the hub are downloaded as often as needed, and no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from grounding_model.checkpoints import hub


class Repository:
    """Stands for snapshot_download: a remote folder, and what of it is in the cache."""

    def __init__(self, cache: Path, files: dict[str, str]) -> None:
        self.cache, self.files, self.downloads = cache, files, 0

    def __call__(self, name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            if not self.cache.is_dir():
                raise LocalEntryNotFoundError("not in the cache")
            return str(self.cache)
        self.downloads += 1
        self.cache.mkdir(exist_ok=True)
        for file, text in self.files.items():
            if any(Path(file).match(pattern) for pattern in allow_patterns):
                (self.cache / file).write_text(text)
        return str(self.cache)


WHOLE = {"config.json": "{}", "model.safetensors": "", "pytorch_model.bin": "", "optimizer.bin": ""}
SHARDS = {"config.json": "{}", "model-1.safetensors": "", "model-2.safetensors": ""}
LISTED = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
INDEX = {"model.safetensors.index.json": json.dumps(LISTED)}
PICKLED = {"config.json": "{}", "pytorch_model.bin": ""}


@pytest.mark.parametrize(
    ("files", "cached", "downloads", "fetched"),
    [
        (WHOLE, None, 1, {"config.json", "model.safetensors"}),
        (WHOLE, ["config.json", "model.safetensors"], 0, {"config.json", "model.safetensors"}),
        (WHOLE, ["config.json"], 1, {"config.json", "model.safetensors"}),  # interrupted
        (SHARDS | INDEX, ["config.json", *INDEX, "model-1.safetensors"], 1, {*SHARDS, *INDEX}),
        (SHARDS | INDEX, [*SHARDS, *INDEX], 0, {*SHARDS, *INDEX}),
        (PICKLED, None, 2, {*PICKLED}),
        (PICKLED, [*PICKLED], 0, {*PICKLED}),
    ],
)
def test_a_snapshot_without_its_weights_is_downloaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    cached: list[str] | None,
    downloads: int,
    fetched: set[str],
) -> None:
    repository = Repository(tmp_path / "cache", files)
    if cached is not None:
        repository.cache.mkdir()
        for file in cached:
            (repository.cache / file).write_text(files[file])
    monkeypatch.setattr(hub, "snapshot_download", repository)
    folder = hub.download("owner/name")
    assert {each.name for each in folder.iterdir()} == fetched
    assert repository.downloads == downloads
