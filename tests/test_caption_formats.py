"""GoldG and MDETR's files, GRIT, Flickr30k Entities, RefCOCO and its kin: samples made as their files are."""

import io
import json
import os
import pickle
import tarfile
import tracemalloc
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from formats import (
    READERS,
    InputError,
    Omissions,
    Record,
    Region,
    read_flickr30k,
    read_grit,
    read_mdetr,
    read_odvg,
    read_plain_pickle,
    read_refcoco,
    write_odvg,
)
from tests.paths import GOLDEN

CAPTION = "a man in a red hat talks to a man ."
HAT = [[15, 18], [9, 10], [11, 14]]
MDETR = {
    "info": [],
    "licenses": [],
    "images": [
        {"id": 0, "file_name": "2331.jpg", "height": 100, "width": 120, "caption": CAPTION, "data_source": "vg"},
        {"id": 1, "file_name": "2332.jpg", "height": 100, "width": 120, "caption": "nothing", "data_source": "coco"},
    ],
    "annotations": [
        {"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 2, 3, 4], "tokens_positive": [[0, 5]], "iscrowd": 0},
        {"id": 1, "image_id": 0, "category_id": 1, "bbox": [5, 5, 3, 4], "tokens_positive": [[28, 33]], "iscrowd": 0},
        {
            "id": 2,
            "image_id": 0,
            "category_id": 1,
            "bbox": [9, 9, 3, 4],
            "tokens_positive": [[15, 18], [9, 10], [11, 14]],
        },
        {"id": 3, "image_id": 0, "category_id": 1, "bbox": [2, 2, 3, 4], "tokens_positive": [[0, 5]], "iscrowd": 0},
        {"id": 4, "image_id": 0, "category_id": 1, "bbox": [2, 2, 3, 4], "tokens_positive": [[0, 5]], "iscrowd": 1},
        {"id": 5, "image_id": 0, "category_id": 1, "bbox": [2, 2, 3, 4], "tokens_positive": []},
    ],
    "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
}


@pytest.fixture
def write(tmp_path):
    def to_file(content, name="a.json"):
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content, protocol=2) if name.endswith(".p") else json.dumps(content).encode())
        return path

    return to_file


def test_goldg_makes_a_region_of_equal_spans(write, tmp_path):
    records = list(read_mdetr(write(MDETR)))
    assert records == [
        Record(
            "2331.jpg",
            100,
            120,
            caption=CAPTION,
            regions=(
                Region(((1, 2, 4, 6), (2, 2, 5, 6)), ("a man",), ((0, 5),)),
                Region(((5, 5, 8, 9),), ("a man",), ((28, 33),)),  # the other man
                Region(((9, 9, 12, 13),), ("a red hat",), ((9, 18),)),  # one blank between spans: one span
                Region(((2, 2, 5, 6),), ("a man",), ((0, 5),), ignore=True),
            ),
        ),
        Record("2332.jpg", 100, 120, caption="nothing", regions=()),
    ]
    write_odvg(tmp_path / "vg.json", records)
    assert list(read_odvg(tmp_path / "vg.json")) == records


def test_spans_that_stand_apart_stay_apart(write):
    entry = {**MDETR["annotations"][0], "tokens_positive": [[28, 33], [0, 5]]}
    assert next(read_mdetr(write({**MDETR, "annotations": [entry]}))).regions[0].phrase == ("a man", "a man")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 9}, "annotation 0: image_id 9 is not the id of an image"),
        ({"tokens_positive": [[0, 99]]}, r"annotation 0: tokens_positive \[\[0, 99\]\] leaves the caption of 35"),
        ({"tokens_positive": [[5, 5]]}, "leaves the caption"),
        ({"tokens_positive": [0, 5]}, "is not a list of spans"),
        ({"tokens_positive": [[0, 5.5]]}, "is not a list of spans"),
        ({"tokens_positive": 3}, "is not a list of spans"),
        ({"bbox": [1, 2, -3, 4]}, "annotation 0: bbox .* negative side"),
    ],
)
def test_mdetr_errors_name_the_annotation(write, entry, message):
    with pytest.raises(InputError, match=message):
        list(read_mdetr(write({**MDETR, "annotations": [{**MDETR["annotations"][0], **entry}]})))


def test_mdetr_captions_have_to_be_texts(write):
    with pytest.raises(InputError, match="image 0: caption 3 is not text"):
        list(read_mdetr(write({**MDETR, "images": [{**MDETR["images"][0], "caption": 3}], "annotations": []})))


def test_flickr_for_evaluation_numbers_its_phrases():
    (record,) = read_mdetr(GOLDEN / "data/flickr.json")
    assert [(region.phrase, len(region.boxes)) for region in record.regions] == [
        (("Two men",), 1),  # phrase ids 2, 7, 9 are the first, second and third phrase
        (("a Horse",), 2),
        (("a dog",), 1),
    ]


def test_expressions_of_mdetr_are_whole_captions_and_may_mean_nothing():
    records = list(read_mdetr(GOLDEN / "eval/grefcoco_ann.json"))
    assert records[0].regions == (Region((), ("thing 0",), ((0, 7),)),)
    assert any(len(record.regions[0].boxes) > 1 for record in records)
    assert all(len(record.regions[0].boxes) == 1 for record in read_mdetr(GOLDEN / "eval/refexp_ann.json"))


# GRIT

GRIT = {
    "key": "000000012",
    "caption": "a wire hanger with a paper cover",
    "height": 100,
    "width": 200,
    "noun_chunks": [],
    "ref_exps": [[19, 32, 0.25, 0.5, 0.75, 1.0, 0.875], [0, 13, 0, 0, 1, 1, 0.5], [19.0, 32.0, 0, 0, 0.5, 0.5, 0.75]],
}


def test_grit_boxes_are_fractions_and_scores_are_kept(write, tmp_path):
    expected = Record(
        "images/00000/000000012.jpg",
        100,
        200,
        caption=GRIT["caption"],
        regions=(
            Region(((50, 50, 150, 100), (0, 0, 100, 50)), ("a paper cover",), ((19, 32),), (0.875, 0.75)),
            Region(((0, 0, 200, 100),), ("a wire hanger",), ((0, 13),), (0.5,)),
        ),
    )
    assert list(read_grit(write([GRIT]))) == [expected]
    write([{**GRIT, "key": "000010000"}], "0.json")
    assert [record.filename for record in read_grit(tmp_path)] == ["images/00001/000010000.jpg", expected.filename]


def test_grit_is_read_as_img2dataset_leaves_it(write, tmp_path):
    expected = list(read_grit(write([GRIT])))
    lost = {**GRIT, "key": "000000013", "status": "failed_to_download", "height": None, "width": None}
    rows = [{**GRIT, "status": "success", "noun_chunks": None}, {**lost, "noun_chunks": None}]
    for kind in ("parquet", "tar"):
        (tmp_path / kind).mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "parquet/00000.parquet")
    with tarfile.open(tmp_path / "tar/00000.tar", "w") as shard:
        for name, content in (("000000012.jpg", b"pixels"), ("000000012.json", json.dumps(rows[0]).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    (tmp_path / "parquet/00000_stats.json").write_text("{}")
    omissions = Omissions()
    assert list(read_grit(tmp_path / "parquet", omissions)) == expected
    assert omissions == {"samples whose image could not be fetched": 1}
    assert list(read_grit(tmp_path / "tar")) == expected
    for path in (tmp_path / "parquet/00000.parquet", tmp_path / "tar/00000.tar"):
        path.write_bytes(path.read_bytes()[:700])
        with pytest.raises(InputError, match=path.name):
            list(read_grit(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ref_exps": [[0, 13, 0, 0, 1, 1]]}, "sample 0, ref_exps 0: .* is not seven numbers"),
        ({"ref_exps": [[0, 13.5, 0, 0, 1, 1, 1]]}, "ref_exps 0: span 0 to 13.5 is not in whole numbers"),
        ({"ref_exps": [[0, 99, 0, 0, 1, 1, 1]]}, "sample 0: .* leaves the caption"),
        ({"ref_exps": [[0, 13, 1, 0, 0, 1, 1]]}, "sample 0: box .* swapped corners"),
        ({"ref_exps": [[0, 13, 0, 0, 1, 1, 2]]}, "sample 0: score 2.0 is outside"),
        ({"ref_exps": None}, "ref_exps None is not a list"),
        ({"key": 12}, "key 12 or caption .* is not text"),
        ({"height": None}, "sample 0: lacks the image.s size"),
    ],
)
def test_grit_errors_name_the_sample(write, change, message):
    with pytest.raises(InputError, match=message):
        list(read_grit(write([{**GRIT, **change}])))


# Flickr30k Entities

SENTENCES = (
    "[/EN#1/people A young girl] and [/EN#2/people/clothing two men] sleep in [/EN#0/notvisual the sun] .\n"
    "[/EN#3/scene A street] with [/EN#2/people men] .\n"
)
ANNOTATION = """<annotation><filename>36979.jpg</filename>
<size><width>120</width><height>100</height><depth>3</depth></size>
<object><name>1</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>120</xmax><ymax>100</ymax></bndbox></object>
<object><name>2</name><name>1</name>
<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
<object><name>3</name><scene>1</scene><nobndbox>1</nobndbox></object></annotation>"""


@pytest.fixture
def entities(tmp_path):
    for folder, name, text in (("Sentences", "36979.txt", SENTENCES), ("Annotations", "36979.xml", ANNOTATION)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    return tmp_path


def test_flickr30k_entities_give_a_record_a_caption(entities):
    girl, men = (0, 0, 120, 100), (10, 20, 30, 40)
    first = "A young girl and two men sleep in the sun ."
    assert list(read_flickr30k(entities)) == [
        Record(
            "36979.jpg",
            100,
            120,
            caption=first,
            regions=(Region((girl, men), ("A young girl",), ((0, 12),)), Region((men,), ("two men",), ((17, 24),))),
        ),
        Record(
            "36979.jpg",
            100,
            120,
            caption="A street with men .",
            regions=(Region((), ("A street",), ((0, 8),)), Region((men,), ("men",), ((14, 17),))),
        ),
    ]


def test_flickr30k_split_names_the_images(entities):
    (entities / "val.txt").write_text("36979\n")
    assert len(list(read_flickr30k(entities, entities / "val.txt"))) == 2
    (entities / "val.txt").write_text("1\n")
    with pytest.raises(InputError, match=r"1\.xml: is not XML"):
        list(read_flickr30k(entities, entities / "val.txt"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("Sentences/36979.txt", "[/EN#1 A girl] .", r"36979\.txt:1: has broken markup"),
        ("Annotations/36979.xml", "<annotation>", r"36979\.xml: is not XML"),
        ("Annotations/36979.xml", "<annotation/>", r"36979\.xml: has no image size"),
        ("Annotations/36979.xml", ANNOTATION.replace("<xmin>1<", "<xmin>x<"), "object 0: <bndbox/xmin> is 'x'"),
    ],
)
def test_flickr30k_errors_name_the_file(entities, name, text, message):
    (entities / name).write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_flickr30k(entities))


def test_flickr30k_without_its_folders(tmp_path):
    with pytest.raises(InputError, match="Sentences: does not exist; expected the folder of Flickr30k Entities"):
        list(read_flickr30k(tmp_path))


# RefCOCO

INSTANCES = {
    "images": [{"id": 581857, "file_name": "COCO_train2014_000000581857.jpg", "height": 427, "width": 640}],
    "annotations": [
        {"id": 1719310, "image_id": 581857, "category_id": 1, "bbox": [103.93, 299.99, 134.22, 177.42]},
        {"id": 7, "image_id": 581857, "category_id": 1, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [{"id": 1, "name": "person"}],
}
REF = {
    "ref_id": 0,
    "ann_id": 1719310,
    "image_id": 581857,
    "split": "train",
    "file_name": "COCO_train2014_000000581857_16.jpg",
    "category_id": 1,
    "sent_ids": [0, 1, 2],
    "sentences": [
        {"tokens": ["lady"], "raw": "THE LADY", "sent_id": 0, "sent": "the lady"},
        {"tokens": ["lady"], "raw": "the lady", "sent_id": 1, "sent": "the lady"},
        {"tokens": ["blue"], "raw": "blue", "sent_id": 2, "sent": "blue"},
    ],
}


def test_refcoco_gives_a_record_a_sentence(write):
    refs = write([REF, {**REF, "split": "val"}], "refs(unc).p")
    records = list(read_refcoco(write(INSTANCES), refs, "train"))
    assert [record.caption for record in records] == ["the lady", "blue"]  # what is said twice is read once
    assert records[0].filename == "COCO_train2014_000000581857.jpg"
    assert records[0].regions[0].spans == ((0, 8),)
    assert records[0].regions[0].boxes[0] == pytest.approx((103.93, 299.99, 238.15, 477.41))
    assert len(list(read_refcoco(write(INSTANCES), refs))) == 4


def test_grefcoco_may_mean_several_objects_or_none(write):
    refs = [{**REF, "ann_id": [1719310, 7], "no_target": False}, {**REF, "ann_id": [-1], "no_target": True}]
    records = list(read_refcoco(write(INSTANCES), write(refs, "grefs(unc).json")))
    assert [len(record.regions[0].boxes) for record in records] == [2, 2, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann_id": 3}, "ref 0: ann_id 3 is not an annotation of"),
        ({"ann_id": {}}, "ref 0: ann_id {} is not an annotation of"),
        ({"image_id": 3}, "ref 0: image_id 3 is not an image of"),
        ({"image_id": []}, r"ref 0: image_id \[\] is not an image of"),
        ({"sentences": [{}]}, "ref 0: sentence {} has no words"),
        ({"sentences": 1}, "ref 0: sentence 1 has no words"),
    ],
)
def test_refcoco_errors_name_the_ref(write, change, message):
    with pytest.raises(InputError, match=message):
        list(read_refcoco(write(INSTANCES), write([{**REF, **change}], "refs.p")))


def test_refcoco_names_the_splits_there_are(write):
    with pytest.raises(InputError, match="has no split 'tset'; expected one of train, val"):
        list(read_refcoco(write(INSTANCES), write([REF, {**REF, "split": "val"}], "refs.p"), "tset"))


# Pickles


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.p").write_bytes(pickle.dumps([Attack()], protocol))
    with pytest.raises(InputError, match=r"a\.p: is not a pickle of plain containers .*mkdir"):
        read_plain_pickle("a.p")
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_plain_containers_are_read(tmp_path, protocol):
    value = [{"a": (1, 2.5, None, True), "b": ["ä"]}]
    (tmp_path / "a.p").write_bytes(pickle.dumps(value, protocol))
    assert read_plain_pickle(tmp_path / "a.p") == value


def test_texts_of_python_2_are_read(tmp_path):
    (tmp_path / "a.p").write_bytes(b"(lp0\nS'the lady'\np1\naVblue\np2\na.")
    assert read_plain_pickle(tmp_path / "a.p") == ["the lady", "blue"]


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04."])
def test_what_is_no_pickle(tmp_path, content):
    (tmp_path / "a.p").write_bytes(content)
    with pytest.raises(InputError, match="is not a pickle of plain containers"):
        read_plain_pickle(tmp_path / "a.p")
    with pytest.raises(InputError, match="does not exist"):
        read_plain_pickle(tmp_path / "none.p")


@pytest.mark.parametrize("content", [b"\x80\x02Kar\xf0\xff\xff\xff.", b"\x80\x05\x96" + b"\xff" * 5 + b"\0\0\0."])
def test_a_short_pickle_cannot_ask_for_much_memory(tmp_path, content):
    (tmp_path / "a.p").write_bytes(content)
    tracemalloc.start()
    with suppress(InputError):
        read_plain_pickle(tmp_path / "a.p")
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["mdetr", "grit"])
@pytest.mark.parametrize("text", ["", "{", "3", '"a"', "[1]", '{"images": 1}', "[" * 100_000])
def test_broken_files_are_input_errors(tmp_path, name, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(InputError, match=r"broken\.json"):
        list(READERS[name](tmp_path / "broken.json"))
