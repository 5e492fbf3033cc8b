"""A person audits 30 images in the review page by keyboard, and the command says how good the labels are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.labelling.bootstrap import bootstrap_od
from flows.labelling.filter import filter_candidates
from flows.labelling.infer import infer
from formats.boxes import pairwise_iou
from formats.label_map import write_label_map
from formats.odvg import read_odvg, write_odvg
from formats.record import Instance, Record
from formats.voc import read_voc
from grounding_model.glyphs import write_scenes
from grounding_model.inputs.prompt import Prompt
from tests.chromium import Page, chromium_page, find_chromium
from tests.pipeline_cases import make_weights, plan_images

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
]
ROOT = Path(__file__).parent.parent
PHOTOS = Path(os.environ.get("GROUNDHOG_DATA", ROOT / "data")) / "raccoon"  # annotations/ as VOC, images/

PICTURE = "document.getElementById('picture').naturalWidth > 0 && !document.getElementById('picture').hidden"


def text(element: str) -> str:
    return f"document.getElementById({json.dumps(element)}).textContent"


@contextmanager
def served(command: Sequence[str], folder: Path) -> Iterator[tuple[Page, subprocess.Popen]]:
    """A groundhog command that opens the review page, and the page in a browser."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "flows.cli", *command, "--port", "0", "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder)
    try:
        assert process.stdout is not None
        address = next(line for line in process.stdout if "http://" in line).split("http://")[1].split()[0]
        with chromium_page(find_chromium() or "", folder / "profile") as page:
            page.open(f"http://{address}")
            yield page, process
    finally:
        process.kill()


def ended(process: subprocess.Popen) -> str:
    """What the command prints after Ctrl+C."""
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return printed


def wait_for_image(page: Page, number: int) -> None:
    page.wait(f"{text('position')} === '{number + 1} / 30'")
    page.wait(PICTURE)


def test_thirty_images_are_audited_by_keyboard(tmp_path: Path) -> None:
    write_scenes(tmp_path, "source", count=36, seed=0, labelled=False)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    lines = [  # every third label is of nothing
        Record(name, 160, 160, (Instance((20.0, 20.0, 90.0, 90.0), 0, "cat", 0.4 if index % 3 == 0 else 0.9),))
        for index, name in enumerate(names)
    ]
    labels = tmp_path / "x_od_v1.json"
    write_odvg(labels, lines)
    write_label_map(tmp_path / "x_label_map.json", {0: "cat"})
    with served(["audit", str(labels), "-n", "30"], tmp_path) as (page, process):
        for number, record in enumerate(read_odvg(tmp_path / "x_od_v1.audit" / labels.name)):
            wait_for_image(page, number)
            if (record.instances or ())[0].score == 0.4:
                page.press("Tab")
                page.press("x")
            page.press("Enter")
            page.wait(f"{text('progress')}.startsWith('{number + 1} of 30')")
        printed = ended(process)
    assert "30 reviewed images of 36" in printed
    report = json.loads((tmp_path / "x_od_v1.audit" / "report.json").read_text())
    assert report["precision"]["low"] < 2 / 3 < report["precision"]["high"]
    assert report["precision"]["images"] == report["reviews"] == 30
    assert report["recall"]["value"] == 1.0


class Imperfect:
    """Finds the true boxes, but scores those of every fourth photo too low for a label, and in every third one sees
    something in the upper left corner.
    """

    def __init__(self, truth: Mapping[str, Record]) -> None:
        self.truth, self.order = truth, {name: index for index, name in enumerate(sorted(truth))}

    def predict_each(self, images: Sequence[Path], prompt: Prompt, **settings: object) -> Iterator[Record]:
        for path in images:
            true, index = self.truth[path.name], self.order[path.name]
            score = 0.28 if index % 4 == 0 else 0.9
            found = [Instance(each.box, 0, "raccoon", score) for each in true.instances or ()]
            if index % 3 == 0:
                found.append(Instance((0.0, 0.0, 24.0, 18.0), 0, "raccoon", 0.6))
            yield Record(path.name, true.height, true.width, tuple(found))


@pytest.mark.skipif(not (PHOTOS / "images").is_dir(), reason="there are no raccoon photos: see configs, GROUNDHOG_DATA")
def test_thirty_photos_are_audited_by_keyboard_with_the_models_candidates(tmp_path: Path) -> None:
    truth = {each.filename: each for each in read_voc(PHOTOS / "annotations", image_dir=PHOTOS / "images")}
    (tmp_path / "images").symlink_to((PHOTOS / "images").resolve())
    make_weights(tmp_path)
    made = bootstrap_od(tmp_path / "images", ["raccoon"], tmp_path / "x_od.json")
    manifest = plan_images(tmp_path, made.annotations, made.label_map, tmp_path / "work", shard_size=50)
    infer(manifest, Imperfect(truth))
    labels = filter_candidates(manifest).labels
    with served(["audit", str(labels), "-n", "30", "--work-dir", str(tmp_path / "work")], tmp_path) as (page, process):
        for number, record in enumerate(read_odvg(tmp_path / "x_od_v1.audit" / labels.name)):
            wait_for_image(page, number)
            objects = [each.box for each in truth[record.filename].instances or ()]
            correct_by_keyboard(page, [each.box for each in record.instances or ()], objects)
            page.press("Enter")
            page.wait(f"{text('progress')}.startsWith('{number + 1} of 30')")
        printed = ended(process)
    assert "30 reviewed images of 200" in printed
    report = json.loads((tmp_path / "x_od_v1.audit" / "report.json").read_text())
    meta = json.loads((tmp_path / "x_od_v1.meta.json").read_text())
    assert meta["audit"] == report
    every = [(each, truth[each.filename].instances or ()) for each in read_odvg(labels)]
    labelled, objects = (sum(len(each) for each in column) for column in zip(*((r.instances, t) for r, t in every)))
    right = labelled - sum(each.score == 0.6 for record, _ in every for each in record.instances or ())
    assert report["precision"]["low"] < right / labelled < report["precision"]["high"]
    assert report["recall"]["low"] < right / objects < report["recall"]["high"]


def correct_by_keyboard(page: Page, labels: Sequence, objects: Sequence) -> None:
    """Deletes labels of nothing with Tab and x, and takes candidates with a until every object has a box."""
    overlap = pairwise_iou(labels, objects)
    wrong = [row for row in range(len(labels)) if not len(objects) or overlap[row].max() < 0.5]
    missing = len(objects) - (len(labels) - len(wrong))
    for row in sorted(wrong, reverse=True):
        for _ in range(row + 1):
            page.press("Tab")
        page.press("x")
        page.press("Escape")
    for left in range(missing, 0, -1):
        page.wait(f"document.querySelectorAll('.ghost').length === {left}")
        page.press("a")


def test_suspects_open_worst_first_with_the_reason(tmp_path: Path) -> None:
    write_scenes(tmp_path, "source", count=4, seed=0, labelled=False)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    box, other = (20.0, 20.0, 90.0, 90.0), (100.0, 100.0, 150.0, 150.0)
    lines = [Record(name, 160, 160, (Instance(box, 0, "cat"),)) for name in names]
    found = [Record(name, 160, 160, (Instance(box, 0, "cat", 0.9),)) for name in names]
    found[1] = Record(names[1], 160, 160, (Instance(box, 0, "cat", 0.9), Instance(other, 0, "cat", 0.6)))
    found[2] = Record(names[2], 160, 160, (Instance(box, 1, "dog", 0.95),))
    write_odvg(tmp_path / "x_od_v1.json", lines)
    write_odvg(tmp_path / "x_od_v2.json", found)
    write_label_map(tmp_path / "x_label_map.json", {0: "cat", 1: "dog"})
    with served(["suspects", "x_od_v1.json", "--against", "x_od_v2.json"], tmp_path) as (page, process):
        for number, reason in enumerate(("wrong category: cat, dog found there with 0.95", "overlooked: cat found")):
            page.wait(f"{text('position')} === '{number + 1} / 2' && {text('reason')}.includes({json.dumps(reason)})")
            page.wait(
                "document.getElementById('picture').naturalWidth > 0 && !document.getElementById('picture').hidden"
            )
            if number == 0:
                page.press("Tab")
                page.press("2")
            page.press("Enter")
        page.wait(f"{text('progress')}.startsWith('2 of')")
        ended(process)
    reviewed = {each.filename: each for each in read_odvg(tmp_path / "x_od_reviewed.json")}
    assert set(reviewed) == {names[1], names[2]}
    assert [each.category for each in reviewed[names[2]].instances or ()] == ["dog"]
