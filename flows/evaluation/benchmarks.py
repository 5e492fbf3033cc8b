"""Labelled images as benchmarks lay them out: what is true, what the detector is asked, and what judges it.

One dataclass for each layout, by whose `kind` a configuration chooses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from formats.cityscapes import read_cityscapes, read_cityscapes_categories
from formats.coco import load_coco, read_coco, read_coco_categories
from formats.coco_dialects import (
    read_categories_by_id,
    read_lvis,
    read_lvis_details,
    read_objects365v1,
    read_objects365v2,
    read_objects365v2_categories,
    read_odinw,
    read_odinw_categories,
)
from formats.dataset_names import label_map_beside, parse_annotation_name
from formats.dod import read_dod, read_dod_details
from formats.images import IMAGE_SUFFIXES
from formats.io.errors import InputError, want_one_of
from formats.io.files import sha256_of
from formats.label_map import read_label_map
from formats.mdetr import read_mdetr
from formats.odvg import read_odvg
from formats.record import Record, Region
from formats.refcoco import read_refcoco
from formats.voc import read_voc, read_voc_categories
from formats.yolo import read_yolo
from grounding_model.data.sources import CocoData, GlyphData, OdvgData, TrainingData
from grounding_model.glyphs import write_scenes
from grounding_model.glyphs.questions import write_questions
from grounding_model.metrics.lvis import Federation

if TYPE_CHECKING:
    from grounding_model.metrics.lvis import Federation

Metric = Literal["coco", "lvis", "phrases", "expressions", "generalized_expressions", "described_objects"]


@dataclass(frozen=True)
class PublishedData:
    """Truth as it is published, beside its images.

    kind             annotations                                  image_root
    voc              Annotations, a folder of XML files           JPEGImages
    cityscapes       gtFine/val, with *_instanceIds.png           leftImg8bit/val
    objects365v1/v2  the JSON file; misspelt names are put right  the folder that its file names are below
    lvis             the JSON file of LVIS v1                     the folder of train2017 and val2017
    flickr30k        MDETR's final_flickr_separateGT_*.json       flickr30k_images
    """

    kind: Literal["voc", "cityscapes", "objects365v1", "objects365v2", "lvis", "flickr30k"]
    annotations: Path
    image_root: Path


@dataclass(frozen=True)
class YoloData:
    """Truth in a folder of YOLO text files. categories: their names: "coco", names.txt or a label map (.json)."""

    labels: Path
    image_root: Path
    categories: str
    kind: Literal["yolo"] = "yolo"


@dataclass(frozen=True)
class OdinwData:
    """One data set of Object Detection in the Wild: the folder of a split, such as odinw/pothole/valid, or its JSON.

    prompts: category -> prefix, name and suffix of its words in the prompt, as Prompt.categories enhances them.
    """

    split: Path
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kind: Literal["odinw"] = "odinw"


@dataclass(frozen=True)
class OdinwSuite:
    """Several of them, each judged by itself. sets: name -> its split, below root. prompts: name -> as OdinwData's."""

    root: Path
    sets: Mapping[str, str]
    prompts: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    kind: Literal["odinw_suite"] = "odinw_suite"


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
class RefsData:
    """Referring expressions as RefCOCO's family publishes them: instances.json and refs(unc).p, or grefs(unc).json.

    split: train, val, test, testA or testB.
    """

    instances: Path
    refs: Path
    image_root: Path
    split: str = "val"
    kind: Literal["refs"] = "refs"


@dataclass(frozen=True)
class DescribedData:
    """D3: d3_json/d3_full_annotations.json, and the folder d3_pkl that tells which images are asked what."""

    annotations: Path
    scenarios: Path
    image_root: Path
    kind: Literal["described_objects"] = "described_objects"


@dataclass(frozen=True)
class GlyphQuestionData:
    """Scenes of the glyph world with questions in the manner of gRefCOCO, D3 or LVIS, drawn when they are needed."""

    family: Literal["generalized_expressions", "described_objects", "lvis"]
    domain: str = "source"
    count: int = 100
    seed: int = 900
    kind: Literal["glyph_questions"] = "glyph_questions"


BenchmarkData = (
    GlyphQuestionData | TrainingData | PublishedData | YoloData | OdinwData | ExpressionData | RefsData | DescribedData
)


class Benchmark(NamedTuple):
    """records: the truth, in order. image_root: folder of their filenames. metric: what judges by default.

    names: categories or descriptions that are looked for, () for captions. areas: as evaluate_coco takes them.
    federation: LVIS's. asked: of each record, which names (None: all of them). absence: descriptions of what is
    lacking. prompts: other words for some names, as Prompt.categories enhances them.
    """

    records: list[Record]
    image_root: Path
    metric: Metric
    names: tuple[str, ...] = ()
    areas: Mapping[str, Sequence[float]] | None = None
    federation: Federation | None = None
    asked: list[tuple[str, ...]] | None = None
    absence: tuple[str, ...] = ()
    prompts: Mapping[str, Mapping[str, str]] = {}

    def judged(self, record: Record) -> frozenset[str]:
        """The names that this record of the truth is judged on: of a federated truth those that were looked for."""
        if self.federation is None:
            return frozenset(self.names)
        here = frozenset(each.category for each in record.instances or ())
        return here | self.federation.absent.get(record.filename, frozenset())


def paths_of(data: BenchmarkData | OdinwSuite) -> list[Path]:
    """The files and folders that the settings of a data set name, whether they are there or not."""
    return [value for value in vars(data).values() if isinstance(value, Path)]


def file_hashes(data: BenchmarkData | OdinwSuite) -> list[str]:
    """The SHA-256 of each file and folder of annotations that the settings of a data set name, in their order.

    Of pictures in such a folder name and size count. `image_root` is not looked into: it may be large and far away.
    """
    paths = (value for name, value in vars(data).items() if isinstance(value, Path) and name != "image_root")
    return [_folder_hash(path) if path.is_dir() else sha256_of(path) for path in paths if path.exists()]


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = str(path.stat().st_size) if path.suffix.lower() in IMAGE_SUFFIXES else sha256_of(path)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def open_benchmark(data: BenchmarkData, work_dir: Path) -> Benchmark:
    """Records of one image stand together, so that it is looked at once for all its captions.

    work_dir: scenes of the glyph world are drawn there. Raises InputError for what is missing or broken.
    """
    for path in paths_of(data):
        if not path.exists():
            raise InputError(path, "does not exist")
    benchmark = READERS[data.kind](data, work_dir)
    if benchmark.names:
        return benchmark
    places: dict[str, int] = {}
    for record in benchmark.records:
        places.setdefault(record.filename, len(places))
    return benchmark._replace(records=sorted(benchmark.records, key=lambda record: places[record.filename]))


def _read_glyphs(data: GlyphData, work_dir: Path) -> Benchmark:
    folder = work_dir / "scenes"
    annotations = write_scenes(
        folder, data.domain, data.count, data.seed, data.task, data.pairs, "truth", hardness=data.hardness
    )
    assert annotations is not None  # scenes are labelled
    label_map = label_map_beside(annotations)
    found = OdvgData(
        annotations, folder / "images", label_map if parse_annotation_name(annotations).task == "od" else None
    )
    benchmark = _read_odvg(found, work_dir)
    return benchmark._replace(metric="expressions") if data.task == "expressions" else benchmark


def _read_glyph_questions(data: GlyphQuestionData, work_dir: Path) -> Benchmark:
    folder = work_dir / "scenes"
    found = write_questions(folder, data.family, data.domain, data.count, data.seed)
    federation = Federation(found.absent, found.partly, found.frequency) if data.family == "lvis" else None
    return Benchmark(
        found.records,
        folder,
        data.family,
        found.names,
        federation=federation,
        asked=list(found.asked) or None,
        absence=found.absence,
    )


def _read_odvg(data: OdvgData, work_dir: Path) -> Benchmark:
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
    records = list(read_coco(data.annotations))
    names = read_coco_categories(data.annotations)
    benchmark = Benchmark(records, data.image_root, "coco", names, areas=_areas(records, data.annotations))
    return only(benchmark, data.categories)


def _read_yolo(data: YoloData, work_dir: Path) -> Benchmark:
    from grounding_model.inputs.category_lists import read_category_list

    names = read_category_list(data.categories)
    return Benchmark(list(read_yolo(data.labels, data.image_root, names)), data.image_root, "coco", names)


def _read_voc(data: PublishedData, work_dir: Path) -> Benchmark:
    records = list(read_voc(data.annotations, image_dir=data.image_root))
    return Benchmark(records, data.image_root, "coco", read_voc_categories(data.annotations))


def _read_cityscapes(data: PublishedData, work_dir: Path) -> Benchmark:
    names = read_cityscapes_categories(data.annotations)
    return Benchmark(list(read_cityscapes(data.annotations)), data.image_root, "coco", names)


def _read_objects365v1(data: PublishedData, work_dir: Path) -> Benchmark:
    records = list(read_objects365v1(data.annotations))
    return Benchmark(records, data.image_root, "coco", read_categories_by_id(data.annotations))


def _read_objects365v2(data: PublishedData, work_dir: Path) -> Benchmark:
    records = list(read_objects365v2(data.annotations))
    return Benchmark(records, data.image_root, "coco", read_objects365v2_categories(data.annotations))


def _read_odinw(data: OdinwData, work_dir: Path) -> Benchmark:
    image_root = data.split if data.split.is_dir() else data.split.parent
    names = read_odinw_categories(data.split)
    if unknown := [name for name in data.prompts if name not in names]:
        raise InputError("prompts", f"{data.split} has no {unknown[0]}", want_one_of(names, unknown[0]))
    return Benchmark(list(read_odinw(data.split)), image_root, "coco", names, prompts=data.prompts)


def _read_lvis(data: PublishedData, work_dir: Path) -> Benchmark:
    records, names = list(read_lvis(data.annotations)), read_categories_by_id(data.annotations)
    details = read_lvis_details(data.annotations)

    def named(labels: Mapping[str, frozenset[int]]) -> dict[str, frozenset[str]]:
        return {filename: frozenset(names[label] for label in own) for filename, own in labels.items()}

    federation = Federation(named(details.absent), named(details.not_exhaustive), dict(zip(names, details.frequency)))
    areas = _areas(records, data.annotations)
    return Benchmark(records, data.image_root, "lvis", names, areas=areas, federation=federation)


def _read_flickr(data: PublishedData, work_dir: Path) -> Benchmark:
    return Benchmark(list(read_mdetr(data.annotations)), data.image_root, "phrases")


def _read_expressions(data: ExpressionData, work_dir: Path) -> Benchmark:
    data_sets = [image.get("dataset_name") for image in load_coco(data.annotations).images.values()]
    records = [
        record
        for record, data_set in zip(read_mdetr(data.annotations), data_sets, strict=True)
        if data.data_set in (None, data_set)
    ]
    if not records:
        known = sorted({str(each) for each in data_sets})
        raise InputError(
            data.annotations, f"holds no expression of '{data.data_set}'", want_one_of(known, data.data_set)
        )
    return _expressions(records, data.image_root)


def _read_refs(data: RefsData, work_dir: Path) -> Benchmark:
    return _expressions(list(read_refcoco(data.instances, data.refs, data.split)), data.image_root)


def _expressions(records: Sequence[Record], image_root: Path) -> Benchmark:
    """Each caption is one expression, whatever words of it its boxes are said to belong to.

    Where one means several things, or nothing, the metric is that of gRefCOCO.
    """
    whole = [replace(record, regions=_one_region(record)) for record in records]
    generalized = any(sum(len(region.boxes) for region in record.regions or ()) != 1 for record in whole)
    return Benchmark(whole, image_root, "generalized_expressions" if generalized else "expressions")


def _one_region(record: Record) -> tuple[Region, ...]:
    caption = record.caption or ""
    boxes = tuple(box for region in record.regions or () for box in region.boxes)
    return (Region(boxes, (caption,), ((0, len(caption)),)),) if boxes else ()


def _read_described(data: DescribedData, work_dir: Path) -> Benchmark:
    records, names = list(read_dod(data.annotations)), read_categories_by_id(data.annotations)
    details = read_dod_details(data.scenarios)
    asked = [
        tuple(names[label] for label in details.asked.get(record.filename, ()) if label < len(names))
        for record in records
    ]
    return Benchmark(
        records,
        data.image_root,
        "described_objects",
        names,
        areas=_areas(records, data.annotations),
        asked=asked,
        absence=tuple(names[label] for label in sorted(details.absence) if label < len(names)),
    )


READERS: Mapping[str, Any] = {
    "odvg": _read_odvg,
    "glyphs": _read_glyphs,
    "glyph_questions": _read_glyph_questions,
    "coco": _read_coco,
    "yolo": _read_yolo,
    "voc": _read_voc,
    "cityscapes": _read_cityscapes,
    "objects365v1": _read_objects365v1,
    "objects365v2": _read_objects365v2,
    "odinw": _read_odinw,
    "lvis": _read_lvis,
    "flickr30k": _read_flickr,
    "expressions": _read_expressions,
    "refs": _read_refs,
    "described_objects": _read_described,
}


def only(benchmark: Benchmark, categories: Sequence[str] | None) -> Benchmark:
    """The benchmark of some of its categories; None: of all. Raises InputError for one that it does not have."""
    if categories is None:
        return benchmark
    if unknown := [name for name in categories if name not in benchmark.names]:
        raise InputError("categories", f"the truth has no {unknown[0]}", want_one_of(benchmark.names, unknown[0]))
    return benchmark._replace(names=tuple(categories))


def _areas(records: Sequence[Record], annotations: Path) -> dict[str, list[float]] | None:
    """filename -> the areas of its annotations, which are those of masks; None where the file does not tell them all.

    records: of this file, in its order.
    """
    content = load_coco(annotations)
    areas: dict[Any, list[float]] = {image_id: [] for image_id in content.images}
    for entry in content.annotations or ():
        if "area" not in entry:
            return None
        areas[entry["image_id"]].append(entry["area"])
    return {record.filename: own for record, own in zip(records, areas.values(), strict=True)}
