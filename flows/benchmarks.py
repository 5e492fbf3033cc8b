"""Labelled images as benchmarks lay them out: what is true, what the detector is asked, and what judges it.

One dataclass for each layout, by whose `kind` a configuration chooses.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

from formats.problems import InputError
from formats.record import Instance, Record, Region
from grounding_model.data import GlyphData, OdvgData

if TYPE_CHECKING:
    from grounding_model.metrics.lvis import Federation

Metric = Literal["coco", "lvis", "phrases", "expressions", "generalized_expressions", "described_objects"]


@dataclass(frozen=True)
class CocoData:
    """Truth in a COCO annotation file."""

    annotations: Path
    image_root: Path
    kind: Literal["coco"] = "coco"


@dataclass(frozen=True)
class YoloData:
    """Truth in a folder of YOLO text files. categories: their names: "coco", names.txt or a label map (.json)."""

    labels: Path
    image_root: Path
    categories: str
    kind: Literal["yolo"] = "yolo"


@dataclass(frozen=True)
class VocData:
    """Truth in a folder of Pascal VOC XML files."""

    annotations: Path
    image_root: Path
    kind: Literal["voc"] = "voc"


@dataclass(frozen=True)
class LvisData:
    """Truth in an LVIS v1 annotation file; images lie below image_root as train2017/… and val2017/…."""

    annotations: Path
    image_root: Path
    kind: Literal["lvis"] = "lvis"


@dataclass(frozen=True)
class FlickrData:
    """Captions and phrases of Flickr30k Entities, in MDETR's final_flickr_separateGT_*.json."""

    annotations: Path
    image_root: Path
    kind: Literal["flickr30k"] = "flickr30k"


@dataclass(frozen=True)
class ExpressionData:
    """Referring expressions in MDETR's files: finetune_refcoco_testA.json, finetune_grefcoco_val.json ….

    data_set: only images with this `dataset_name`; final_refexp_val.json holds refcoco, refcoco+ and refcocog.
    """

    annotations: Path
    image_root: Path
    data_set: str | None = None
    kind: Literal["expressions"] = "expressions"


@dataclass(frozen=True)
class DescribedData:
    """D3: d3_json/d3_full_annotations.json, and the folder d3_pkl that tells which images are asked what."""

    annotations: Path
    scenarios: Path
    image_root: Path
    kind: Literal["described_objects"] = "described_objects"


Truth = OdvgData | GlyphData | CocoData
BenchmarkData = (
    OdvgData | GlyphData | CocoData | YoloData | VocData | LvisData | FlickrData | ExpressionData | DescribedData
)


class Benchmark(NamedTuple):
    """records: the truth, in order. image_root: folder of their filenames. metric: what judges by default.

    names: categories or descriptions that are looked for, () for captions. areas: as evaluate_coco takes them.
    federation: LVIS's. asked: of each record, which names (None: all of them). absence: descriptions of what is
    lacking.
    """

    records: list[Record]
    image_root: Path
    metric: Metric
    names: tuple[str, ...] = ()
    areas: Mapping[str, Sequence[float]] | None = None
    federation: Federation | None = None
    asked: list[tuple[str, ...]] | None = None
    absence: tuple[str, ...] = ()


def open_benchmark(data: BenchmarkData, work_dir: Path) -> Benchmark:
    """work_dir: scenes of the glyph world are drawn there. Raises InputError for what is missing or broken."""
    for path in (value for value in vars(data).values() if isinstance(value, Path)):
        if not path.exists():
            raise InputError(path, "does not exist")
    return READERS[data.kind](data, work_dir)


def _read_glyphs(data: GlyphData, work_dir: Path) -> Benchmark:
    from grounding_model.glyphs import write_scenes

    folder = work_dir / "scenes"
    annotations = write_scenes(
        folder, data.domain, data.count, data.seed, data.task, data.pairs, "truth", hardness=data.hardness
    )
    assert annotations is not None  # scenes are labelled
    label_map = folder / "truth_label_map.json"
    found = OdvgData(annotations, folder / "images", label_map if annotations.stem.endswith("_od") else None)
    benchmark = _read_odvg(found, work_dir)
    return benchmark._replace(metric="expressions") if data.task == "expressions" else benchmark


def _read_odvg(data: OdvgData, work_dir: Path) -> Benchmark:
    from formats.label_map import read_label_map
    from formats.odvg import read_odvg

    records = list(read_odvg(data.annotations))
    if records and records[0].caption is not None:
        return Benchmark(records, data.image_root, "phrases")
    if data.label_map is not None:
        names = tuple(read_label_map(data.label_map).values())
    else:
        by_label = {each.label: each.category for record in records for each in record.instances or ()}
        names = tuple(name for _, name in sorted(by_label.items()))
    return Benchmark(records, data.image_root, "coco", names)


def _read_coco(data: CocoData, work_dir: Path) -> Benchmark:
    from formats.coco import read_coco, read_coco_categories

    records = list(read_coco(data.annotations))
    names = tuple(read_coco_categories(data.annotations))
    return Benchmark(records, data.image_root, "coco", names, areas=_areas(_load(data.annotations)))


def _read_yolo(data: YoloData, work_dir: Path) -> Benchmark:
    from formats.yolo import read_yolo
    from grounding_model.category_lists import read_category_list

    names = read_category_list(data.categories)
    return Benchmark(list(read_yolo(data.labels, data.image_root, names)), data.image_root, "coco", names)


def _read_voc(data: VocData, work_dir: Path) -> Benchmark:
    from formats.voc import read_voc, read_voc_categories

    records = list(read_voc(data.annotations, image_dir=data.image_root))
    return Benchmark(records, data.image_root, "coco", read_voc_categories(data.annotations))


def _read_lvis(data: LvisData, work_dir: Path) -> Benchmark:
    from grounding_model.metrics.lvis import Federation

    content = _load(data.annotations)
    names = {category["id"]: category["name"] for category in content["categories"]}
    files = {image["id"]: _lvis_filename(image) for image in content["images"]}
    found = _by_image(content)
    records = [
        Record(
            files[image["id"]],
            image["height"],
            image["width"],
            tuple(
                Instance(_corners(each["bbox"]), 0, names[each["category_id"]]) for each in found.get(image["id"], ())
            ),
        )
        for image in content["images"]
    ]

    def listed(key: str) -> dict[str, frozenset[str]]:
        return {files[image["id"]]: frozenset(names[each] for each in image[key]) for image in content["images"]}

    federation = Federation(
        listed("neg_category_ids"),
        listed("not_exhaustive_category_ids"),
        {category["name"]: category["frequency"] for category in content["categories"]},
    )
    areas = {files[image_id]: [each["area"] for each in own] for image_id, own in found.items()}
    return Benchmark(records, data.image_root, "lvis", tuple(names.values()), areas=areas, federation=federation)


def _lvis_filename(image: Mapping[str, Any]) -> str:
    """LVIS v1 names an image by its address: …/val2017/000000397133.jpg; GLIP's minival by its file name."""
    if "coco_url" in image:
        return "/".join(image["coco_url"].split("/")[-2:])
    return image["file_name"]


def _read_flickr(data: FlickrData, work_dir: Path) -> Benchmark:
    content = _load(data.annotations)
    found = _by_image(content)
    records = []
    for image in content["images"]:
        own, spans = found.get(image["id"], []), image["tokens_positive_eval"]
        places = {phrase: place for place, phrase in enumerate(sorted({each["phrase_ids"] for each in own}))}
        if len(places) > len(spans):
            raise InputError(
                f"{data.annotations}: image {image['id']}", f"{len(places)} phrases with boxes, {len(spans)} with spans"
            )
        boxes: list[list] = [[] for _ in spans]
        for each in own:
            boxes[places[each["phrase_ids"]]].append(_corners(each["bbox"]))
        records.append(_captioned(image, list(zip(boxes, spans))))
    return Benchmark(records, data.image_root, "phrases")


def _read_expressions(data: ExpressionData, work_dir: Path) -> Benchmark:
    content = _load(data.annotations)
    found = _by_image(content)
    images = [image for image in content["images"] if data.data_set in (None, image["dataset_name"])]
    if not images:
        known = sorted({image["dataset_name"] for image in content["images"]})
        raise InputError(data.annotations, f"holds no expression of '{data.data_set}'", f"want one of {known}")
    records = []
    for image in images:
        boxes = [_corners(each["bbox"]) for each in found.get(image["id"], ()) if each["category_id"] != -1]
        records.append(_captioned(image, [(boxes, [(0, len(image["caption"]))])] if boxes else []))
    generalized = any(len(r.regions or ()) == 0 or len((r.regions or ())[0].boxes) != 1 for r in records)
    return Benchmark(records, data.image_root, "generalized_expressions" if generalized else "expressions")


def _captioned(image: Mapping[str, Any], phrases: Sequence[tuple[Sequence, Sequence[Sequence[int]]]]) -> Record:
    """phrases: the boxes and the spans of each."""
    caption = image["caption"]
    regions = tuple(
        Region(
            tuple(boxes),
            tuple(caption[start:end] for start, end in spans),
            tuple((start, end) for start, end in spans),
        )
        for boxes, spans in phrases
    )
    return Record(image["file_name"], image["height"], image["width"], caption=caption, regions=regions)


def _read_described(data: DescribedData, work_dir: Path) -> Benchmark:
    content = _load(data.annotations)
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = _by_image(content)
    groups, sentences = (_plain_pickle(data.scenarios / name) for name in ("groups.pkl", "sentences.pkl"))
    asked: dict[int, list[int]] = {}
    for group in groups.values():
        for image_id in group["img_id"]:
            asked.setdefault(image_id, []).extend(each for each in group["inner_sent_id"] if each in names)
    records, questions = [], []
    for image in content["images"]:
        own = found.get(image["id"], [])
        instances = tuple(Instance(_corners(each["bbox"]), 0, names[each["category_id"]]) for each in own)
        records.append(Record(image["file_name"], image["height"], image["width"], instances))
        questions.append(tuple(names[each] for each in dict.fromkeys(asked.get(image["id"], ()))))
    absence = tuple(names[key] for key, sentence in sentences.items() if key in names and sentence["is_negative"])
    return Benchmark(
        records,
        data.image_root,
        "described_objects",
        tuple(names.values()),
        areas=_areas(content),
        asked=questions,
        absence=absence,
    )


READERS: Mapping[str, Any] = {
    "odvg": _read_odvg,
    "glyphs": _read_glyphs,
    "coco": _read_coco,
    "yolo": _read_yolo,
    "voc": _read_voc,
    "lvis": _read_lvis,
    "flickr30k": _read_flickr,
    "expressions": _read_expressions,
    "described_objects": _read_described,
}


def only(benchmark: Benchmark, categories: Sequence[str] | None) -> Benchmark:
    """The benchmark of some of its categories; None: of all. Raises InputError for one that it does not have."""
    if categories is None:
        return benchmark
    if unknown := [name for name in categories if name not in benchmark.names]:
        raise InputError(
            "categories", f"the truth has no {', '.join(unknown)}", f"want some of {', '.join(benchmark.names)}"
        )
    return benchmark._replace(names=tuple(categories))


# The files


class _PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, texts and numbers; a pickle that asks for anything else is refused before it runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _plain_pickle(path: Path) -> dict[Any, Any]:
    if not path.is_file():
        raise InputError(path, "does not exist", "want D3's folder d3_pkl")
    try:
        with open(path, "rb") as file:
            return _unpickled(file)
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError) as error:
        raise InputError(path, f"is no plain pickle ({error})", "want the file that D3 publishes") from None


def _unpickled(file: IO[bytes]) -> dict[Any, Any]:
    content = _PlainUnpickler(file).load()
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, f"is not JSON ({error})", "want an annotation file") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise InputError(path, f"has no {', '.join(missing)}", "want an annotation file with COCO's keys")
    return content


def _by_image(content: Mapping[str, Any]) -> dict[Any, list[dict[str, Any]]]:
    """image id -> its annotations, in the order of the file."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for entry in content["annotations"]:
        found.setdefault(entry["image_id"], []).append(entry)
    return found


def _areas(content: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """filename -> the area of each of its annotations; None where the file does not tell them all."""
    found = _by_image(content)
    if not all("area" in entry for entry in content["annotations"]):
        return None
    files = {image["id"]: image["file_name"] for image in content["images"]}
    return {files[image_id]: [entry["area"] for entry in own] for image_id, own in found.items()}


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return float(x), float(y), float(x + width), float(y + height)


def question_of(record: Record, metric: Metric, asked: Sequence[str] | None = None) -> Record:
    """What the detector is told of a record: no boxes, and of a caption the phrases to look for."""
    if asked is not None:
        caption, spans = "", []
        for name in asked:
            spans.append((len(caption), len(caption) + len(name)))
            caption += f"{name}. "
        regions = tuple(Region((), (name,), (span,)) for name, span in zip(asked, spans))
        return Record(record.filename, record.height, record.width, caption=caption, regions=regions)
    if record.caption is None:
        return replace(record, instances=None)
    if metric in ("expressions", "generalized_expressions"):
        return replace(record, regions=(Region((), (record.caption,), ((0, len(record.caption)),)),))
    return replace(record, regions=tuple(replace(each, boxes=(), scores=()) for each in record.regions or ()))
