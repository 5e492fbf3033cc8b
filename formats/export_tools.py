"""The labelling tools whose exports can be imported (`formats.exported`), by their names on the command line."""

from __future__ import annotations

TOLERANCE = 0.5  # pixels by which sides of equal boxes may differ: the error of rounding to whole pixels

TITLES = {
    "labelstudio": "Label Studio: the JSON of its tasks",
    "cvat": "CVAT: the XML of CVAT for images 1.1",
    "fiftyone": "FiftyOne: a FiftyOneImageDetectionDataset",
    "coco": "COCO: a JSON file",
    "yolo": "YOLO: a folder of text files",
    "voc": "Pascal VOC: a folder of XML files",
}
