"""Whether other programs load what we write: `python benchmarks/peers_load.py`.

Makes a virtual environment in a temporary folder, puts the peers in it that install (what this environment has already,
such as torch, is shared), converts a drawn data set to YOLO, COCO and VOC, loads each with its peers, and compares the
number of images and boxes and the corners of the boxes with ours. Exit code 1 where a peer that installed differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from formats import read_odvg
from formats.convert import convert
from grounding_model.glyphs import write_scenes

# name -> packages, and a program that fills found, {image stem: [[x1, y1, x2, y2], ...]}, from a data set in `folder`
PEERS = {
    "ultralytics": (
        ("ultralytics", "ultralytics-thop", "opencv-python-headless"),
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
        ("supervision", "defusedxml", "opencv-python-headless"),
        """
import supervision
yolo = f"{folder}/yolo"
data = supervision.DetectionDataset.from_yolo(f"{yolo}/images", f"{yolo}/labels", f"{yolo}/data.yaml")
for path, _, boxes in data:
    found[Path(path).stem] = boxes.xyxy.tolist()
""",
    ),
    "supervision, COCO": (
        ("supervision", "defusedxml", "opencv-python-headless"),
        """
import supervision
data = supervision.DetectionDataset.from_coco(f"{folder}/yolo/images", f"{folder}/coco.json")
for path, _, boxes in data:
    found[Path(path).stem] = boxes.xyxy.tolist()
""",
    ),
    "supervision, VOC": (
        ("supervision", "defusedxml", "opencv-python-headless"),
        """
import supervision
data = supervision.DetectionDataset.from_pascal_voc(f"{folder}/yolo/images", f"{folder}/voc/Annotations")
for path, _, boxes in data:
    found[Path(path).stem] = boxes.xyxy.tolist()
""",
    ),
    "datumaro, COCO": (
        ("datumaro",),
        """
from datumaro.components.dataset import Dataset
for item in Dataset.import_from(f"{folder}/coco.json", "coco_instances"):
    found[item.id] = [list(each.points) for each in item.annotations]
""",
    ),
}
HEAD = """
import json, sys
from pathlib import Path
folder, found = sys.argv[1], {}
"""
TAIL = """
print("RESULT" + json.dumps({name: [list(map(float, box)) for box in boxes] for name, boxes in found.items()}))
"""


def main() -> int:
    """Prints a line for each peer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = _write(folder)
        python = _environment(folder)
        return int(any([not _loads(peer, folder, python, expected) for peer in PEERS]))


def _write(folder: Path) -> dict[str, list[list[float]]]:
    source = write_scenes(folder / "drawn", "dense", 12, 0, "od", labelled=True)
    convert("odvg", "yolo", source, folder / "yolo")
    convert("odvg", "voc", source, folder / "voc")
    convert("odvg", "coco", source, folder / "coco.json")
    (folder / "drawn/images").rename(folder / "yolo/images")
    return {
        Path(record.filename).stem: [list(each.box) for each in record.instances or ()] for record in read_odvg(source)
    }


def _environment(folder: Path) -> Path:
    venv.create(folder / "venv", with_pip=True)
    site = next((folder / "venv/lib").glob("python*/site-packages"))
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv/bin/python"


def _loads(peer: str, folder: Path, python: Path, expected: dict[str, list[list[float]]]) -> bool:
    packages, program = PEERS[peer]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *packages]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        print(f"{peer}: does not install here")
        return True
    command = [str(python), "-c", HEAD + program + TAIL, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or "RESULT" not in done.stdout:
        reason = (done.stderr.strip().splitlines() or ["no result"])[-1]
        missing = "ModuleNotFoundError" in reason or "ImportError" in reason
        print(f"{peer}: {'does not run here' if missing else 'FAILED'} ({reason})")
        return missing
    found = json.loads(done.stdout.split("RESULT")[1])
    worst = _difference(found, expected)
    limit = 1.01  # VOC counts pixels from 1, which not every reader undoes; the others are within a hundredth
    boxes = sum(map(len, found.values()))
    print(f"{peer}: {len(found)} images, {boxes} boxes, at most {worst:.2f} pixels from ours")
    return worst <= limit


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
    sys.exit(main())
