"""Reads benchmarks: `open_benchmark`, and a reader for each `kind`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flows.evaluation.benchmarks import (
    Benchmark,
    BenchmarkData,
    DescribedData,
    ExpressionData,
    GlyphQuestionData,
    OdinwData,
    PublishedData,
    RefsData,
    YoloData,
    paths_of,
)
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
from formats.io.errors import InputError, expected_one_of
from formats.label_map import check_names, read_label_map
from formats.mdetr import read_mdetr
from formats.odvg import read_odvg
from formats.record import Record, Region
from formats.refcoco import read_refcoco
from formats.voc import read_voc, read_voc_categories
from formats.yolo import read_yolo
from grounding_model.data.sources import CocoData, GlyphData, OdvgData
from grounding_model.glyphs import write_scenes
from grounding_model.glyphs.questions import write_questions
from grounding_model.inputs.category_lists import read_category_list
from grounding_model.metrics.lvis import Federation


def open_benchmark(data: BenchmarkData, work_dir: Path) -> Benchmark:
    """Reads a benchmark. Captions of one image are consecutive, so that the backbone runs only once for them.

    work_dir: glyph scenes are drawn there. Raises InputError for missing, invalid or empty data.
    """
    for path in paths_of(data):
        if not path.exists():
            raise InputError(path, "does not exist")
    benchmark = BENCHMARK_READERS[data.kind](data, work_dir)
    if not benchmark.records:
        raise InputError(next(iter(paths_of(data)), "truth"), "has no image", "expected labelled images")
    if benchmark.names:
        return benchmark
    order: dict[str, int] = {}
    for record in benchmark.records:
        order.setdefault(record.filename, len(order))
    return benchmark._replace(records=sorted(benchmark.records, key=lambda record: order[record.filename]))


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
        queried=list(found.queried) or None,
        absence=found.absence,
    )


def _read_odvg(data: OdvgData, work_dir: Path) -> Benchmark:
    records = list(read_odvg(data.annotations))
    if records and records[0].caption is not None:
        return Benchmark(records, data.image_root, "phrases")
    if data.label_map is not None:
        mapping = read_label_map(data.label_map)
        for record in records:
            check_names(record, mapping, data.annotations)
        names = tuple(mapping.values())
    else:
        by_label = {each.label: each.category for record in records for each in record.instances or ()}
        names = tuple(name for _, name in sorted(by_label.items()))
    return Benchmark(records, data.image_root, "coco", names)


def _read_coco(data: CocoData, work_dir: Path) -> Benchmark:
    records = list(read_coco(data.annotations))
    names = read_coco_categories(data.annotations)
    benchmark = Benchmark(records, data.image_root, "coco", names, areas=_areas(records, data.annotations))
    return select_categories(benchmark, data.categories)


def _read_yolo(data: YoloData, work_dir: Path) -> Benchmark:
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
        raise InputError("prompts", f"{data.split} has no {unknown[0]}", expected_one_of(names, unknown[0]))
    return Benchmark(list(read_odinw(data.split)), image_root, "coco", names, prompts=data.prompts)


def _read_lvis(data: PublishedData, work_dir: Path) -> Benchmark:
    records, names = list(read_lvis(data.annotations)), read_categories_by_id(data.annotations)
    details = read_lvis_details(data.annotations)

    def named(labels: Mapping[str, frozenset[int]]) -> dict[str, frozenset[str]]:
        return {filename: frozenset(names[label] for label in ids) for filename, ids in labels.items()}

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
            data.annotations, f"contains no expression of '{data.data_set}'", expected_one_of(known, data.data_set)
        )
    return _expressions(records, data.image_root)


def _read_refs(data: RefsData, work_dir: Path) -> Benchmark:
    return _expressions(list(read_refcoco(data.instances, data.refs, data.split)), data.image_root)


def _expressions(records: Sequence[Record], image_root: Path) -> Benchmark:
    """Each caption becomes one expression, even if its boxes are annotated for some of its words.

    If any has several targets or none, the metric is that of gRefCOCO.
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
    queried = [
        tuple(names[label] for label in details.queried.get(record.filename, ()) if label < len(names))
        for record in records
    ]
    return Benchmark(
        records,
        data.image_root,
        "described_objects",
        names,
        areas=_areas(records, data.annotations),
        queried=queried,
        absence=tuple(names[label] for label in sorted(details.absence) if label < len(names)),
    )


BENCHMARK_READERS: Mapping[str, Any] = {
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


def select_categories(benchmark: Benchmark, categories: Sequence[str] | None) -> Benchmark:
    """The benchmark restricted to some of its categories; None for all. Raises InputError for an unknown one."""
    if categories is None:
        return benchmark
    if unknown := [name for name in categories if name not in benchmark.names]:
        raise InputError("categories", f"the truth has no {unknown[0]}", expected_one_of(benchmark.names, unknown[0]))
    return benchmark._replace(names=tuple(categories))


def _areas(records: Sequence[Record], annotations: Path) -> dict[str, list[float]] | None:
    """File name -> the areas of its annotations, which are those of masks; None if any is missing in the file.

    records: those of this file, in order.
    """
    content = load_coco(annotations)
    areas: dict[Any, list[float]] = {image_id: [] for image_id in content.images}
    for entry in content.annotations or ():
        if "area" not in entry:
            return None
        areas[entry["image_id"]].append(entry["area"])
    return {record.filename: image_areas for record, image_areas in zip(records, areas.values(), strict=True)}
