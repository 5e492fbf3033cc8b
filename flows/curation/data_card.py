"""The card of a published data set: what is in it, how its labels were made, and how far they can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from formats.io.files import write_whole
from formats.record import Record

# Hugging Face's steps of size_categories.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST = "n>1M"


@dataclass(frozen=True)
class SplitCounts:
    """One split. boxes: by category, ignored ones apart; empty: images without objects; people: boxes without a score.

    meta: the .meta.json of its labels, {} where they came from elsewhere.
    """

    name: str
    images: int
    empty: int
    boxes: Mapping[str, int]
    ignored: int
    people: int
    meta: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, records: Sequence[Record], meta: Mapping[str, Any]) -> SplitCounts:
        """Counts the records of a split."""
        kept = [instance for record in records for instance in record.instances or () if not instance.ignore]
        every = sum(len(record.instances or ()) for record in records)
        return cls(
            name,
            len(records),
            sum(not record.instances for record in records),
            Counter(instance.category for instance in kept),
            every - len(kept),
            sum(instance.score is None for instance in kept),
            meta,
        )


@dataclass(frozen=True)
class DataCard:
    """What the card, the page and the Croissant metadata say of a data set."""

    name: str
    license: str
    categories: tuple[str, ...]
    splits: tuple[SplitCounts, ...]

    @property
    def images(self) -> int:
        """Of all splits."""
        return sum(split.images for split in self.splits)

    @property
    def boxes(self) -> int:
        """Of all splits and categories."""
        return sum(sum(split.boxes.values()) for split in self.splits)

    @property
    def scored(self) -> bool:
        """Whether the boxes have scores; one that a person drew has 1."""
        return any(split.people < sum(split.boxes.values()) for split in self.splits)

    @property
    def description(self) -> str:
        """One sentence."""
        kinds = f"{len(self.categories)} {'category' if len(self.categories) == 1 else 'categories'}"
        made = " The boxes were found by a model." if any(split.meta for split in self.splits) else ""
        return f"{self.images} images with {self.boxes} boxes of {kinds}.{made}"


def write_data_card(path: Path, card: DataCard) -> None:
    """Writes README.md: Hugging Face's header, then the card."""
    header = yaml.safe_dump(_header(card), sort_keys=False, allow_unicode=True)
    with write_whole(path) as stream:
        stream.write(f"---\n{header}---\n\n# {card.name}\n\n{card.description}\n\n")
        stream.write("\n\n".join(_sections(card)) + "\n")


def _header(card: DataCard) -> dict[str, Any]:
    labels = {str(label): name for label, name in enumerate(card.categories)}
    objects = [
        {"name": "bbox", "list": {"list": "float32"}},
        {"name": "categories", "list": {"class_label": {"names": labels}}},
    ]
    if card.scored:
        objects.append({"name": "score", "list": "float32"})
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "width", "dtype": "int32"},
        {"name": "height", "dtype": "int32"},
        {"name": "objects", "struct": objects},
    ]
    size = next((name for limit, name in _SIZES if card.images < limit), _LARGEST)
    files = [
        {"split": split.name, "path": [f"{split.name}/metadata.jsonl", f"{split.name}/images/**"]}
        for split in card.splits
    ]
    return {
        "pretty_name": card.name,
        "license": card.license,
        "task_categories": ["object-detection"],
        "size_categories": [size],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": features},
    }


def _sections(card: DataCard) -> Iterator[str]:
    yield _counts_table(card)
    for split in card.splits:
        yield f"## How the labels of `{split.name}` were made\n\n{_making(split)}"
        if (audit := split.meta.get("audit")) is not None:
            yield f"## How good they are\n\n{_audit(audit)}"
    yield _usage(card)


def _counts_table(card: DataCard) -> str:
    names = [split.name for split in card.splits]
    rows = [["images", *(split.images for split in card.splits)]]
    rows += [["images without objects", *(split.empty for split in card.splits)]]
    rows += [[f"boxes of {name}", *(split.boxes.get(name, 0) for split in card.splits)] for name in card.categories]
    rows += [["boxes drawn or confirmed by a person", *(split.people for split in card.splits)]]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    ignored = sum(split.ignored for split in card.splits)
    note = (
        f"\n\n{ignored} boxes are marked `iscrowd` in COCO and are left out elsewhere: they are unsure."
        if ignored
        else ""
    )
    return "\n".join(lines) + note


def _making(split: SplitCounts) -> str:
    meta = split.meta
    if not meta:
        return "They came as they are; no record of their making is beside them."
    counts = meta.get("counts", {})
    lines = [
        f"- model: `{meta.get('weights')}`, SHA-256 `{str(meta.get('weights_sha256'))[:16]}`; mind its licence",
        f"- prompt: {_listed(meta.get('prompt'))}",
        f"- round {meta['round']} of self-training" if "round" in meta else "- labelled once, without self-training",
        f"- policy: {', '.join(f'{name} {value}' for name, value in _simple(meta.get('policy', {})))}",
        f"- {counts.get('candidates', 0)} candidates, {counts.get('kept', 0)} kept, {counts.get('reviewed', 0)} images "
        "corrected by a person",
    ]
    return "\n".join(lines)


def _simple(policy: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [
        (name, value) for name, value in policy.items() if isinstance(value, (int, float, str)) and value is not False
    ]


def _listed(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else ", ".join(map(str, prompt or ()))


def _audit(audit: Mapping[str, Any]) -> str:
    """The intervals of an audit (flows.audit.report); each number says from how many reviewed images it comes."""
    lines = [f"From {audit['reviews']} images that a person reviewed (a stratified random sample, 95 % intervals):", ""]
    lines += ["| | | estimate | from | to | reviewed images |", "|---|---|---:|---:|---:|---:|"]
    for name, part in {"all": audit, **audit.get("categories", {})}.items():
        for kind in ("precision", "recall"):
            if (found := part.get(kind)) is not None:
                numbers = " | ".join(f"{found[each]:.3f}" for each in ("value", "low", "high"))
                lines.append(f"| {name} | {kind} | {numbers} | {found['images']} |")
    return "\n".join(lines)


def _usage(card: DataCard) -> str:
    split = card.splits[0].name
    return f"""## Use

```python
from datasets import load_dataset

row = load_dataset(".", split="{split}")[0]
row["image"], row["objects"]["bbox"], row["objects"]["categories"]  # boxes: x, y, width, height in pixels
```

COCO: `annotations/{split}.json` with the images in `{split}/images`. Ultralytics: `data.yaml`. Croissant metadata:
`croissant.json`. Pictures: `index.html`."""
