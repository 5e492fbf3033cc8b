"""The programs whose corrected labels are read (`formats.exported`), by the names that the command line knows."""

from __future__ import annotations

TOLERANCE = 0.5  # pixels by which a side may differ and be the same: what rounding to whole pixels makes

TITLES = {
    "labelstudio": "Label Studio: the JSON of its tasks",
    "cvat": "CVAT: the XML of CVAT for images 1.1",
    "fiftyone": "FiftyOne: a FiftyOneImageDetectionDataset",
    "coco": "COCO: a JSON file",
    "yolo": "YOLO: a folder of text files",
    "voc": "Pascal VOC: a folder of XML files",
}
