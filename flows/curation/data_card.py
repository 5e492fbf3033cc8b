"""The data card of a published data set: its content, how its labels were made, and their estimated quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.curation.label_origin import sections
from formats.io.files import write_whole
from formats.io.markdown import markdown_text
from formats.io.plurals import many
from formats.record import Record

# The size_categories of Hugging Face.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST = "n>1M"


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split. boxes: by category, without ignored ones. empty: images without objects. people: boxes
    without a score, drawn or confirmed by a person.

    origins: the .meta.json of its labels, then that of the labels their model was trained on, and so on; () if unknown.
    renamed: number of renamed images.
    """

    name: str
    images: int
    empty: int
    boxes: Mapping[str, int]
    ignored: int
    people: int
    origins: tuple[Mapping[str, Any], ...] = ()
    renamed: int = 0

    @classmethod
    def of(
        cls, name: str, records: Sequence[Record], origins: Sequence[Mapping[str, Any]] = (), renamed: int = 0
    ) -> SplitCounts:
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
            tuple(origins),
            renamed,
        )


@dataclass(frozen=True)
class DataCard:
    """The content of the card, the page and the Croissant metadata. citation: BibTeX or a sentence."""

    name: str
    license: str
    categories: tuple[str, ...]
    splits: tuple[SplitCounts, ...]
    citation: str = ""

    @property
    def images(self) -> int:
        """The number of images in all splits."""
        return sum(split.images for split in self.splits)

    @property
    def boxes(self) -> int:
        """The number of boxes in all splits."""
        return sum(sum(split.boxes.values()) for split in self.splits)

    @property
    def scored(self) -> bool:
        """Whether any box has a score; then a person's box gets 1."""
        return any(split.people < sum(split.boxes.values()) for split in self.splits)

    @property
    def description(self) -> str:
        """A short description with counts."""
        kinds = f"{len(self.categories)} {'category' if len(self.categories) == 1 else 'categories'}"
        made = " The boxes were predicted by a model." if any(split.origins for split in self.splits) else ""
        return f"{many(self.images, 'image')} with {many(self.boxes, 'box')} of {kinds}.{made}"


class _NoAliases(yaml.SafeDumper):
    """Repeats equal values instead of using YAML aliases, which not every reader of cards supports."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_data_card(path: Path, card: DataCard) -> None:
    """Writes README.md: Hugging Face's header, then the card."""
    header = yaml.dump(_header(card), Dumper=_NoAliases, sort_keys=False, allow_unicode=True)
    with write_whole(path) as stream:
        stream.write(f"---\n{header}---\n\n# {markdown_text(card.name)}\n\n{card.description}\n\n")
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
        # For an image folder, `load_dataset` reads names only from "configs"; the hub shows "dataset_info".
        "configs": [{"config_name": "default", "data_files": files, "features": features}],
        "dataset_info": {"config_name": "default", "features": features},
    }


def _sections(card: DataCard) -> Iterator[str]:
    yield _counts_table(card)
    for split in card.splits:
        yield from sections(split.name, split.origins)
    yield _usage(card)
    if card.citation:
        yield f"## Citation\n\n{_fenced(card.citation)}"


def _fenced(citation: str) -> str:
    return f"```bibtex\n{citation.strip()}\n```" if citation.lstrip().startswith("@") else citation.strip()


def _counts_table(card: DataCard) -> str:
    names = [split.name for split in card.splits]
    rows: list[list[object]] = [["images", *(split.images for split in card.splits)]]
    rows += [["images without objects", *(split.empty for split in card.splits)]]
    rows += [
        [f"boxes of {markdown_text(name)}", *(split.boxes.get(name, 0) for split in card.splits)]
        for name in card.categories
    ]
    rows += [["boxes drawn or confirmed by a person", *(split.people for split in card.splits)]]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    ignored = sum(split.ignored for split in card.splits)
    notes = [f"\n\n{many(ignored, 'ignored box')} marked `iscrowd` in COCO and left out elsewhere."] if ignored else []
    if renamed := sum(split.renamed for split in card.splits):
        notes.append(f"\n\n{many(renamed, 'image')} renamed: the name differed from another only by its suffix.")
    return "\n".join(lines) + "".join(notes)


def _usage(card: DataCard) -> str:
    split = card.splits[0].name
    return f"""## Use

```python
from datasets import load_dataset

row = load_dataset(".", split="{split}")[0]
row["image"], row["objects"]["bbox"], row["objects"]["categories"]  # boxes: x, y, width, height in pixels
```

COCO: `annotations/{split}.json` with the images in `{split}/images`. Ultralytics: `data.yaml`. Croissant metadata:
`croissant.json`. Page with pictures: `index.html`."""
