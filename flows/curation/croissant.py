"""Croissant metadata of a published data set (MLCommons, version 1.0): JSON-LD for search engines of data sets."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

from flows.curation.data_card import DataCard
from formats.io.files import sha256_of

# The context from the section "Context" of the specification.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_FIELDS = (("file_name", "sc:Text"), ("width", "sc:Integer"), ("height", "sc:Integer"))


def croissant_metadata(root: Path, card: DataCard) -> dict[str, Any]:
    """The content of croissant.json. root: the published folder, with the metadata.jsonl of each split."""
    files = [_metadata_file(root, split.name) for split in card.splits]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in card.name),
        "description": card.description,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "license": card.license,
        **({"citeAs": card.citation} if card.citation else {}),
        "version": "1.0.0",
        "datePublished": date.today().isoformat(),
        "distribution": files,
        "recordSet": [_record_set(split.name) for split in card.splits],
    }


def _metadata_file(root: Path, split: str) -> dict[str, Any]:
    path = f"{split}/metadata.jsonl"
    return {
        "@type": "cr:FileObject",
        "@id": f"{split}-metadata",
        "name": f"{split}-metadata",
        "description": f"One line per image of {split}: size, boxes, categories, scores.",
        "contentUrl": path,
        "encodingFormat": "application/jsonlines",
        "sha256": sha256_of(root / path),
    }


def _record_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"The images of {split}.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{name}",
                "name": f"{split}/{name}",
                "description": {"file_name": "the image, relative to the metadata"}.get(name, f"{name} in pixels"),
                "dataType": data_type,
                "source": {"fileObject": {"@id": f"{split}-metadata"}, "extract": {"column": name}},
            }
            for name, data_type in _FIELDS
        ],
    }
