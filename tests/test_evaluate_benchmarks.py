"""Every benchmark's layout through the whole evaluation: a detector that knows the truth scores 1."""

from __future__ import annotations

import csv
import json
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.cli.command import main
from flows.evaluation.benchmarks import (
    DescribedData,
    ExpressionData,
    OdinwData,
    PublishedData,
    RefsData,
    YoloData,
    file_hashes,
)
from flows.evaluation.compare import compare
from flows.evaluation.config import EvaluateConfig
from flows.evaluation.evaluate import evaluate, evaluate_benchmark, evaluate_config
from flows.evaluation.readers import open_benchmark
from flows.labelling import detector_pool
from flows.labelling.settings import Workers
from formats.io.errors import InputError
from formats.odvg import write_odvg
from formats.record import Instance, Record, Region
from grounding_model.data.sources import CocoData, OdvgData

CAT, DOG = [10, 20, 40, 30], [60, 50, 30, 40]  # x, y, width, height in an image of 120 x 100 pixels


class Oracle:
    """A detector that knows the truth, and invents what it is told to. calls: how many images it has seen."""

    def __init__(self, benchmark, shift: float = 0.0) -> None:
        self.records = {(Path(record.filename).name, record.caption): record for record in benchmark.records}
        self.calls = 0
        self.shift = shift

    def predict_each(self, images, prompt, **settings):
        prompts = [prompt] * len(images) if not isinstance(prompt, list) else prompt
        for path, own in zip(images, prompts):
            self.calls += 1
            yield self.answer(Path(path).name, own)

    def moved(self, box):
        return box[0] + self.shift, box[1], box[2] + self.shift, box[3]

    def answer(self, name, prompt):
        record = self.records[name, None if prompt.kind == "categories" else prompt.text]
        if prompt.kind == "categories":
            known = [each for each in record.instances if each.category in prompt.labels]
            places = [prompt.labels.index(each.category) for each in known]
            instances = (
                Instance(self.moved(each.box), label, each.category, 0.9) for each, label in zip(known, places)
            )
            return replace(record, instances=tuple(instances))
        regions = record.regions if prompt.kind == "phrases" else record.regions or (Region((), (prompt.text,)),)
        found = (
            replace(each, boxes=tuple(map(self.moved, each.boxes)), scores=(0.9,) * len(each.boxes)) for each in regions
        )
        return replace(record, regions=tuple(found))


@pytest.fixture
def images(tmp_path):
    for folder in ("images", "images/val2017"):
        (tmp_path / folder).mkdir()
        for name in ("a.jpg", "b.jpg"):
            Image.fromarray(np.full((100, 120, 3), 90, np.uint8)).save(tmp_path / folder / name)
    return tmp_path / "images"


def write(path: Path, content) -> Path:
    path.write_text(json.dumps(content))
    return path


def image(number: int, **more):
    return {"id": number, "file_name": f"{'ab'[number]}.jpg", "width": 120, "height": 100} | more


def annotation(number: int, image_id: int, category_id: int, box, **more):
    rest = {"area": box[2] * box[3] / 2, "iscrowd": 0}
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box} | rest | more


CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
BOXES = [annotation(1, 0, 3, CAT), annotation(2, 0, 7, DOG), annotation(3, 1, 7, CAT)]
COCO = {"images": [image(0), image(1)], "annotations": BOXES, "categories": CATEGORIES}


def coco(folder, images):
    return CocoData(write(folder / "coco.json", COCO), images)


def odinw(folder, images):
    write(images / "annotations_without_background.json", COCO)
    return OdinwData(images)


def objects365(folder, images):
    return PublishedData("objects365v1", write(folder / "objects365.json", COCO), images)


def lvis(folder, images):
    url = "http://images.cocodataset.org/val2017/"
    entries = [
        {"coco_url": f"{url}{'ab'[number]}.jpg", "neg_category_ids": [3], "not_exhaustive_category_ids": []}
        for number in (0, 1)
    ]
    pictures = [{key: image(number)[key] for key in ("id", "width", "height")} | entries[number] for number in (0, 1)]
    categories = [entry | {"frequency": "f"} for entry in CATEGORIES]
    return PublishedData(
        "lvis", write(folder / "lvis.json", COCO | {"images": pictures, "categories": categories}), images
    )


def yolo(folder, images):
    labels = folder / "labels"
    labels.mkdir()
    lines = [
        f"{label} {(x + w / 2) / 120} {(y + h / 2) / 100} {w / 120} {h / 100}" for label, (x, y, w, h) in [(0, CAT)]
    ]
    (labels / "a.txt").write_text("\n".join(lines))
    (folder / "names.txt").write_text("cat\ndog\n")
    for path in (images / "val2017").iterdir():
        path.unlink()  # YOLO counts every image below the folder
    return YoloData(labels, images, str(folder / "names.txt"))


def voc(folder, images):
    (folder / "voc").mkdir()
    box = "<xmin>11</xmin><ymin>21</ymin><xmax>50</xmax><ymax>50</ymax>"
    size = "<size><width>120</width><height>100</height><depth>3</depth></size>"
    thing = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    (folder / "voc" / "a.xml").write_text(f"<annotation><filename>a.jpg</filename>{size}{thing}</annotation>")
    return PublishedData("voc", folder / "voc", images)


def flickr(folder, images):
    caption = {"caption": "a cat and a dog", "tokens_positive_eval": [[[0, 5]], [[10, 15]]]}
    boxes = [annotation(1, 0, 1, CAT, phrase_ids=4), annotation(2, 0, 1, DOG, phrase_ids=9)]
    content = {"images": [image(0, **caption)], "annotations": boxes, "categories": [{"id": 1, "name": "object"}]}
    return PublishedData("flickr30k", write(folder / "flickr.json", content), images)


def expressions(folder, images, nothing: bool = False):
    pictures = [image(0, caption="the cat", dataset_name="refcoco"), image(1, caption="it", dataset_name="refcoco+")]
    category = -1 if nothing else 1
    boxes = [annotation(1, 0, 1, CAT), annotation(2, 1, category, [0, 0, 0, 0] if nothing else DOG)]
    content = {"images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": "object"}]}
    return ExpressionData(write(folder / "expressions.json", content), images)


def grefcoco(folder, images):
    return expressions(folder, images, nothing=True)


def refs(folder, images):
    (folder / "refs.p").write_bytes(
        pickle.dumps(
            [{"ref_id": 1, "ann_id": 1, "image_id": 0, "split": "val", "sentences": [{"sent": "left cat"}]}], protocol=2
        )
    )
    return RefsData(coco(folder, images).annotations, folder / "refs.p", images)


def described(folder, images):
    categories = [{"id": 1, "name": "a cat"}, {"id": 2, "name": "a dog without a leash"}, {"id": 3, "name": "a cow"}]
    boxes = [annotation(1, 0, 1, CAT), annotation(2, 0, 2, DOG)]
    content = {"images": [image(0), image(1)], "annotations": boxes, "categories": categories}
    tables = {
        "images": {each: {"file_name": image(each)["file_name"], "group_id": 0} for each in (0, 1)},
        "groups": {0: {"inner_sent_id": [1, 2], "img_id": [0, 1]}},
        "sentences": {each["id"]: {"is_negative": each["id"] == 2} for each in categories},
    }
    (folder / "d3_pkl").mkdir()
    for name, table in tables.items():
        (folder / "d3_pkl" / f"{name}.pkl").write_bytes(pickle.dumps(table))
    return DescribedData(write(folder / "d3.json", content), folder / "d3_pkl", images)


LAYOUTS = {
    coco: "ap",
    odinw: "ap",
    objects365: "ap",
    lvis: "ap_frequent",
    yolo: "ap",
    voc: "ap",
    flickr: "recall@1",
    expressions: "precision@1",
    refs: "precision@1",
    grefcoco: "f1",
    described: "absence",
}


def setting(tmp_path, layout, **more):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    truth = layout(tmp_path, tmp_path / "images")
    config = EvaluateConfig(truth, weights=str(weights), work_dir=tmp_path / "work", resamples=20, shard_size=1, **more)
    return config, Oracle(open_benchmark(truth, tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_predictions_equal_to_the_truth_score_one(tmp_path, images, layout):
    config, oracle = setting(tmp_path, layout)
    found = evaluate_benchmark(config, tmp_path / "show", oracle)
    assert found.numbers[LAYOUTS[layout]] == pytest.approx(1)
    written = json.loads((config.work_dir / "evaluation.json").read_text())
    assert written[LAYOUTS[layout]] == pytest.approx(1)
    assert written["interval"] == pytest.approx([1, 1])
    assert len(list((tmp_path / "show").glob("*_0_wrong_*.jpg"))) == written["records"]
    assert (config.work_dir / "confusion.png").exists() == (bool(written["categories"]) and layout is not lvis)
    assert (config.work_dir / "precision_recall.png").exists() == bool(written["categories"])
    page = (config.work_dir / "evaluation.html").read_text()
    assert "95 % interval 1.000 to 1.000" in page.partition("<h2>")[0]
    assert "groundhog browse serve" in page
    assert "Which images are worst?" not in page
    assert len((config.work_dir / "predictions_od.json").read_text().splitlines()) == written["records"]


def test_a_sentence_may_mean_two_things_of_one_image(tmp_path, images):
    """RefCOCO has such: the same words, said of another thing. One answer cannot be right for both."""
    truth = expressions(tmp_path, images)
    content = json.loads(truth.annotations.read_text())
    content["images"][1] = image(1, file_name="a.jpg", caption="the cat", dataset_name="refcoco")
    write(truth.annotations, content)
    config, _ = setting(tmp_path, lambda *_: truth)
    oracle = Oracle(open_benchmark(truth, tmp_path))
    assert evaluate_benchmark(config, tmp_path / "show", oracle).numbers["precision@1"] == 0.5


def test_a_blind_detector_scores_nothing_and_the_csv_says_of_what(tmp_path, images):
    config, oracle = setting(tmp_path, coco)
    oracle.shift = 500.0
    found = evaluate_benchmark(config, tmp_path / "show", oracle)
    assert found.numbers["ap"] == 0
    page = (config.work_dir / "evaluation.html").read_text()
    assert "Which images are worst?" in page
    assert page.count('class="drawing"') == 2
    rows = list(csv.DictReader((config.work_dir / "per_category.csv").open()))
    assert rows == [
        {"category": "cat", "ap": "0.0000", "boxes": "1", "images": "1"},
        {"category": "dog", "ap": "0.0000", "boxes": "2", "images": "2"},
    ]
    worst = sorted(path.name for path in (tmp_path / "show").iterdir())
    assert worst == ["000_4_wrong_a.jpg", "001_2_wrong_b.jpg"]


def test_the_references_gref_numbers_are_a_setting(tmp_path, images):
    """Two cats are meant and found: right; for the reference the second is one too many. Nothing is labelled anew."""
    truth = expressions(tmp_path, images)
    content = json.loads(truth.annotations.read_text())
    content["annotations"].append(annotation(3, 0, 1, DOG))
    write(truth.annotations, content)
    config, oracle = setting(tmp_path, lambda *_: truth)
    assert evaluate_benchmark(config, detector=oracle).numbers["f1"] == 1
    first = evaluate_benchmark(replace(config, first_box_alone=True), detector=oracle).numbers
    assert (first["f1"], oracle.calls) == (0.5, 2)
    with pytest.raises(InputError, match="first_box_alone: does not apply to the metric 'expressions'"):
        evaluate_benchmark(replace(config, metric="expressions", first_box_alone=True), detector=oracle)


@pytest.mark.slow
def test_a_killed_evaluation_resumes_with_the_same_result(tmp_path):
    """kill -9 in the labelling: the second run keeps the shards, and evaluation.json is the same to the last byte."""
    (tmp_path / "scenes.toml").write_text('shard_size = 4\nresamples = 20\n[truth]\nkind = "glyphs"\ncount = 24\n')
    command = [sys.executable, "-m", "flows.cli", "evaluate", str(tmp_path / "scenes.toml"), "--set"]
    killed = subprocess.Popen([*command, f"work_dir={tmp_path}/killed"])
    candidates = tmp_path / "killed" / "candidates"
    end = time.monotonic() + 300
    while len(list(candidates.glob("*.parquet"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "evaluation.json").exists()
    done = {path: path.stat().st_mtime_ns for path in candidates.glob("*.parquet")}
    assert 2 <= len(done) < 6
    for name in ("killed", "whole"):
        subprocess.run([*command, f"work_dir={tmp_path}/{name}"], check=True, capture_output=True)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    files = [(tmp_path / name / "evaluation.json").read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]


def test_a_notebook_measures_what_the_command_measures(tmp_path, images):
    """The areas of masks count for both; an image of another size than its record is none of the truth."""
    config, oracle = setting(tmp_path, coco)
    oracle.shift = 4.0
    numbers = evaluate_benchmark(config, detector=oracle).numbers
    found = evaluate(config.truth, oracle, out=tmp_path / "numbers.json", show_dir=tmp_path / "show")
    assert found.as_dict() == {key: numbers[key] for key in found.as_dict()}
    assert found.ap_medium is None
    assert len(list((tmp_path / "show").iterdir())) == 2
    with pytest.raises(InputError, match=r"flickr\.json: has captions, which have no AP; expected labelled boxes"):
        evaluate(flickr(tmp_path, images), oracle)
    oracle.records["a.jpg", None] = replace(oracle.records["a.jpg", None], height=99)
    with pytest.raises(InputError, match=r"a\.jpg: the image is 120x99, its line says 120x100"):
        evaluate(config.truth, oracle)


def test_an_interrupted_evaluation_resumes(tmp_path, images):
    config, oracle = setting(tmp_path, coco)
    first = evaluate_benchmark(config, detector=oracle).numbers
    assert oracle.calls == 2
    (config.work_dir / "candidates" / "shard-00001.parquet").unlink()
    assert evaluate_benchmark(config, detector=oracle).numbers == first
    assert oracle.calls == 3
    evaluate_benchmark(config, detector=oracle)
    assert oracle.calls == 3


@pytest.mark.parametrize("layout", [coco, described], ids=lambda layout: layout.__name__)
def test_several_devices_leave_what_one_leaves(tmp_path, images, monkeypatch, layout):
    """Each device has a detector of its own, and both are at work at once."""
    config, oracle = setting(tmp_path, layout)
    together, loaded = threading.Barrier(2, timeout=30), []

    def load(weights, text_encoder, device, dtype):
        loaded.append((device, Together(together, open_benchmark(config.truth, tmp_path))))
        return loaded[-1][1]

    monkeypatch.setattr(detector_pool, "load_detector", load)
    one = evaluate_benchmark(config, detector=oracle)
    two = replace(config, work_dir=tmp_path / "two", workers=Workers(devices=("cpu", "cpu")))
    assert evaluate_benchmark(two).numbers == one.numbers
    assert [device for device, _ in loaded] == ["cpu", "cpu"]
    assert sum(own.calls for _, own in loaded) == oracle.calls
    left = [
        {path.name: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".json", ".parquet")}
        for folder in (config.work_dir, two.work_dir)
    ]
    for files in left:
        files.pop("manifest.json")  # names its folder
    assert left[0] == left[1]
    evaluate_benchmark(two)
    assert len(loaded) == 2  # where every shard is there nothing is loaded


class Together(Oracle):
    """Its first answer waits until another one is asked too."""

    def __init__(self, together: threading.Barrier, benchmark) -> None:
        super().__init__(benchmark)
        self.together = together

    def answer(self, name, prompt):
        if self.calls == 1:
            self.together.wait()
        return super().answer(name, prompt)


def test_ray_cannot_evaluate(tmp_path):
    (tmp_path / "ray.toml").write_text('[truth]\nkind = "glyphs"\n[workers]\nrunner = "ray"\n')
    with pytest.raises(InputError, match=r"ray\.toml: workers\.runner: 'ray' cannot evaluate; expected \"threads\""):
        evaluate_config(tmp_path / "ray.toml")


def test_areas_of_masks_decide_the_size(tmp_path, images):
    """The boxes have 1200 square pixels, medium; their masks half of it, small."""
    config, oracle = setting(tmp_path, coco)
    numbers = evaluate_benchmark(config, detector=oracle).numbers
    assert numbers["ap_small"] == pytest.approx(1)
    assert numbers["ap_medium"] is None


def test_an_image_that_cannot_be_read_is_named_and_tried_again(tmp_path, images):
    config, oracle = setting(tmp_path, coco)
    (images / "b.jpg").rename(images / "c.jpg")
    with pytest.raises(InputError, match=r"b\.jpg.*no such image.*run again"):
        evaluate_benchmark(config, detector=oracle)
    (images / "c.jpg").rename(images / "b.jpg")
    assert evaluate_benchmark(config, detector=oracle).numbers["ap"] == pytest.approx(1)


def test_missing_data_say_where_they_come_from(tmp_path, images):
    config, oracle = setting(tmp_path, coco, get="download it from example.org into data/coco")
    config.truth.annotations.unlink()
    with pytest.raises(InputError, match=r"coco\.json: does not exist; download it from example\.org"):
        evaluate_benchmark(config, detector=oracle)


def test_a_metric_that_does_not_fit_is_refused(tmp_path, images):
    config, oracle = setting(tmp_path, coco, metric="phrases")
    with pytest.raises(InputError, match="does not fit this truth; expected 'coco'"):
        evaluate_benchmark(config, detector=oracle)


def test_categories_can_be_chosen(tmp_path, images):
    config, oracle = setting(tmp_path, coco, categories=("dog",))
    assert evaluate_benchmark(config, detector=oracle).numbers["per_category"] == pytest.approx({"dog": 1})
    with pytest.raises(InputError, match="the truth has no cow"):
        evaluate_benchmark(replace(config, categories=("cow",)), detector=oracle)


def test_two_evaluations_are_compared(tmp_path, images):
    config, oracle = setting(tmp_path, coco)
    evaluate_benchmark(config, detector=oracle)
    other = replace(config, work_dir=tmp_path / "other")
    oracle.shift = 8.0  # IoU 0.67 of the wider box
    evaluate_benchmark(other, detector=oracle)
    result = compare(other.work_dir, config.work_dir / "evaluation.json")
    rows = {name: (one, two) for name, one, two in result.rows}
    assert rows["ap"][0] < rows["ap"][1] == pytest.approx(1)
    assert 0 < result.gain.low <= result.gain.high
    assert "gained most\ncat" in result.table() or "gained most\ndog" in result.table()
    same = compare(config.work_dir, config.work_dir)
    assert same.gain == (0, 0)
    assert "not significant" in same.table()


def test_evaluations_of_two_truths_are_not_compared(tmp_path, images):
    config, oracle = setting(tmp_path, coco)
    evaluate_benchmark(config, detector=oracle)
    evaluate_benchmark(replace(config, work_dir=tmp_path / "other", categories=("dog",)), detector=oracle)
    with pytest.raises(InputError, match="different ground truths"):
        compare(config.work_dir, tmp_path / "other")
    with pytest.raises(InputError, match=r"evaluation\.json: does not exist"):
        compare(config.work_dir, tmp_path)


def test_several_sets_are_measured_one_by_one(tmp_path, images, monkeypatch):
    write(images / "annotations_without_background.json", COCO)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    oracle = Oracle(open_benchmark(OdinwData(images), tmp_path))
    loads = []
    monkeypatch.setattr(detector_pool, "load_detector", lambda *arguments: loads.append(arguments) or oracle)
    (tmp_path / "suite.toml").write_text(
        f'weights = "{tmp_path}/model.safetensors"\nwork_dir = "{tmp_path}/work"\nresamples = 0\n'
        'workers.devices = ["cpu"]\n'
        f'[truth]\nkind = "odinw_suite"\nroot = "{tmp_path}"\n'
        '[truth.sets]\nfirst = "images"\nsecond = "images/annotations_without_background.json"\n'
    )
    assert "mean AP  1.000" in evaluate_config(tmp_path / "suite.toml")
    assert json.loads((tmp_path / "work" / "evaluation.json").read_text())["sets"] == {"first": 1, "second": 1}
    assert len(loads) == 1
    oracle.shift = 8.0
    evaluate_config(tmp_path / "suite.toml", [f"work_dir={tmp_path}/other"])
    result = compare(tmp_path / "other", tmp_path / "work")
    assert [name for name, _, _ in result.rows] == ["first", "second", "mean ap"]
    assert 0 < result.gain.low <= result.gain.high
    assert "gain in mean ap" in result.table()
    with pytest.raises(InputError, match="different ground truths \\(2 sets, coco of 2 records\\)"):
        compare(tmp_path / "work", tmp_path / "work" / "first")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compare", "a"], "the following arguments are required: B"),
        (["a.toml", "b.toml"], "unrecognized arguments: b.toml"),
    ],
)
def test_a_wrong_command_names_the_argument(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", *arguments])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


def test_compare_names_an_evaluation_that_does_not_exist(capsys):
    assert main(["evaluate", "compare", "a", "b"]) == 2
    assert "a/evaluation.json: does not exist" in capsys.readouterr().err


def test_a_truth_is_another_when_a_file_in_its_folder_has_changed(tmp_path: Path) -> None:
    (tmp_path / "labels" / "deep").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    truth = YoloData(tmp_path / "labels", tmp_path / "images", "coco")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    seen = [file_hashes(truth)]
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.3")
    seen.append(file_hashes(truth))
    (tmp_path / "labels" / "a.txt").rename(tmp_path / "labels" / "deep" / "a.txt")
    seen.append(file_hashes(truth))
    (tmp_path / "images" / "a.jpg").write_bytes(b"a picture")  # images are not looked into
    assert file_hashes(truth) == seen[-1]
    assert len({tuple(each) for each in seen}) == 3


def test_a_configuration_file_is_evaluated_from_python_as_by_the_command(tmp_path, images, monkeypatch):
    config, oracle = setting(tmp_path, coco)
    monkeypatch.setattr(detector_pool, "load_detector", lambda *arguments: oracle)
    path = tmp_path / "evaluate.toml"
    path.write_text(
        f'weights = "{config.weights}"\nwork_dir = "{config.work_dir}"\nresamples = 0\n[truth]\nkind = "coco"\n'
        f'annotations = "{config.truth.annotations}"\nimage_root = "{config.truth.image_root}"\n'
    )
    found = evaluate(path)
    assert found.numbers["ap"] == pytest.approx(1)
    assert json.loads((config.work_dir / "evaluation.json").read_text()) == found.numbers
    assert evaluate(path, None, ["cat"], overwrite=True).numbers["categories"] == ["cat"]
    with pytest.raises(InputError, match=r"contains another plan .*overwrite"):
        evaluate(path)
    with pytest.raises(TypeError, match="no setting 'scal'; did you mean 'scale'"):
        evaluate(path, scal=(64, 64))
    with pytest.raises(TypeError, match="a configuration has its own"):
        evaluate(path, out=tmp_path / "numbers.json")
    with pytest.raises(TypeError, match="is evaluated with weights"):
        evaluate(path, oracle)


def test_a_label_map_that_contradicts_the_truth_is_refused(tmp_path, images):
    truth, label_map = tmp_path / "x_od.json", tmp_path / "map.json"
    write_odvg(truth, [Record("a.jpg", 48, 64, (Instance((1, 2, 30, 40), 0, "cat"),))])
    label_map.write_text('{"0": "umbrella", "1": "cat"}')
    with pytest.raises(InputError, match=r"x_od.json: a.jpg: label 0 is 'cat', in the label map it is 'umbrella'"):
        open_benchmark(OdvgData(truth, images, label_map), tmp_path)


def test_a_truth_that_gives_no_score_is_named_not_the_files_made_from_it(tmp_path, images):
    config, oracle = setting(tmp_path, coco)
    empty = tmp_path / "empty_od.json"
    empty.write_text("")
    (tmp_path / "empty_label_map.json").write_text('{"0": "cat"}')
    truth = OdvgData(empty, images, tmp_path / "empty_label_map.json")
    with pytest.raises(InputError, match=rf"^{empty}: has no image"):
        evaluate_benchmark(replace(config, truth=truth), detector=oracle)
    for image in images.glob("*.jpg"):
        Image.new("RGB", (9, 9)).save(image)
    for key, record in oracle.records.items():
        oracle.records[key] = replace(record, height=9, width=9)
    with pytest.raises(InputError, match=rf"^{config.truth.annotations}: not one of 2 images could be used"):
        evaluate_benchmark(config, detector=oracle)
