"""`groundhog reviews import`: what a person did in another program comes home, and nothing else."""

import json
from dataclasses import replace

import pytest

from flows.cli.command import main
from flows.reviews.image_names import ImageNames
from flows.reviews.review_import import (
    MAX_LISTED,
    ImportCounts,
    Imported,
    ImportOptions,
    describe_import,
    import_reviews,
)
from formats import (
    WRITERS,
    InputError,
    Instance,
    Record,
    write_coco,
    write_label_map,
    write_labelstudio,
    write_odvg,
)
from formats.dataset_names import review_journal_path, reviewed_path
from formats.exported import ExportOptions
from formats.review_journal import CorrectionRow, ReviewJournal, ReviewMark, key_bytes
from formats.reviewed import corrections_for, read_corrections, reviewed_text, write_corrections

NAMES = ("cat", "dog")
CAT = Instance((10, 20, 60.25, 80), 0, "cat", 0.8)
DOG = Instance((30.5, 5, 90, 50), 1, "dog", 0.6)
RECORDS = [
    Record("a.jpg", 100, 120, (CAT,)),
    Record("sub/b c.jpg", 100, 120, (DOG, CAT)),
    Record("c.jpg", 100, 120, ()),
]
MOVED = replace(CAT, box=(12, 20, 60.25, 80), score=None)


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "x_od_v1.json"
    write_odvg(path, RECORDS)
    write_label_map(tmp_path / "x_label_map.json", dict(enumerate(NAMES)))
    return path


def exported(tmp_path, tool, records):
    """As the tool of this name writes them; Label Studio's predictions as annotations that somebody has submitted."""
    path = tmp_path / f"export_{tool}"
    WRITERS[tool](path, records, *(() if tool == "labelstudio" else (NAMES,)))
    if tool == "labelstudio":
        tasks = json.loads(path.read_text())
        for task in tasks:
            task["annotations"] = task.get("annotations") or task["predictions"]
        path.write_text(json.dumps(tasks))
    return path


def coco(tmp_path, *records, names=NAMES):
    write_coco(tmp_path / "coco.json", records, names)
    return tmp_path / "coco.json"


def corrected(labels, number=None):
    return {
        filename: record.instances for (filename, _), record in corrections_for(reviewed_path(labels), number).items()
    }


@pytest.mark.parametrize("tool", ["labelstudio", "cvat", "fiftyone", "coco", "yolo", "voc"])
def test_every_tool_brings_home_what_was_changed_there(tmp_path, labels, tool):
    theirs = [replace(RECORDS[0], instances=(MOVED,)), *RECORDS[1:]]
    imported = import_reviews(labels, exported(tmp_path, tool, theirs), tool)
    found = corrected(labels)["a.jpg"]
    assert [(each.label, each.category, each.score) for each in found] == [(0, "cat", None)]
    assert found[0].box == pytest.approx(MOVED.box, abs=0.02)
    finished = tool == "labelstudio"  # which tells which images are done
    assert imported.written == (3 if finished else 1)
    assert (imported.counts.changed, imported.counts.confirmed) == (1, 2 if finished else 0)


@pytest.mark.parametrize("tool", ["cvat", "fiftyone", "coco", "yolo", "voc"])
def test_the_way_there_and_back_changes_nothing(tmp_path, labels, tool):
    assert import_reviews(labels, exported(tmp_path, tool, RECORDS), tool).written == 0
    assert not reviewed_path(labels).exists()


def test_all_takes_what_stayed_the_same_with_the_coordinates_of_the_labels(tmp_path, labels):
    near = replace(CAT, box=(10.4, 19.6, 60, 80.3))
    export = coco(tmp_path, replace(RECORDS[0], instances=(near,)))
    assert import_reviews(labels, export, "coco").written == 0
    assert import_reviews(labels, export, "coco", ImportOptions(everything=True)).counts.confirmed == 1
    assert corrected(labels) == {"a.jpg": (replace(CAT, score=None),)}
    assert import_reviews(labels, export, "coco", ImportOptions(tolerance=0.3)).counts.changed == 1


def test_an_export_that_rounds_its_boxes_corrects_none(tmp_path, labels):
    boxes = tuple(Instance((i, 10 * i, i + 30, 10 * i + 20), 0, "cat", 0.5) for i in range(1, 8))
    write_odvg(labels, [replace(RECORDS[0], instances=boxes)])
    shifted = [replace(each, box=(each.box[0] - 1, each.box[1] - 1, *each.box[2:])) for each in boxes]
    export = coco(tmp_path, replace(RECORDS[0], instances=tuple(shifted[1:])))
    with pytest.raises(InputError, match=r"6 of 6 boxes differ by 0\.5 to 2 pixels .* expected --tolerance 2"):
        import_reviews(labels, export, "coco")
    counts = import_reviews(labels, export, "coco", ImportOptions(tolerance=2)).counts
    assert (counts.added, counts.removed) == (0, 1)


def test_lists_of_images_are_no_labels(tmp_path, labels):
    export = exported(tmp_path, "yolo", [replace(RECORDS[0], instances=(MOVED,))])
    (export / "train.txt").write_text("data/obj_train_data/a b.jpg\n")
    assert import_reviews(labels, export, "yolo").counts.exported == 1


def test_categories_are_those_of_one_name_whatever_their_numbers(tmp_path, labels):
    named = Record("a.jpg", 100, 120, (Instance(MOVED.box, 1, "Cat"),))
    import_reviews(labels, coco(tmp_path, named, names=("dog", "Cat")), "coco")
    assert corrected(labels) == {"a.jpg": (MOVED,)}


def test_labels_of_a_round_are_corrected_from_that_round_on(tmp_path, labels):
    labels = labels.rename(tmp_path / "x_od_v3.json")
    import_reviews(labels, coco(tmp_path, replace(RECORDS[0], instances=())), "coco", ImportOptions(everything=True))
    assert corrected(labels, 2) == {}
    assert corrected(labels, 3) == {"a.jpg": ()}


def test_ignored_boxes_stay_where_the_tool_was_not_sent_them(tmp_path, labels):
    ignored = (replace(DOG, ignore=True), Instance((0, 0, 9, 9), 0, "cat", 0.2, ignore=True))
    write_odvg(labels, [replace(RECORDS[0], instances=(CAT, *ignored))])
    drawn = replace(RECORDS[0], instances=(CAT, DOG))
    import_reviews(labels, exported(tmp_path, "cvat", [drawn]), "cvat")
    assert [(each.category, each.ignore) for each in corrected(labels)["a.jpg"]] == [
        ("cat", False),
        ("dog", False),  # drawn by a person
        ("cat", True),
    ]


def test_a_program_that_loses_the_flag_makes_no_objects_of_ignored_boxes(tmp_path, labels):
    write_odvg(labels, [replace(RECORDS[0], instances=(replace(CAT, ignore=True), DOG))])
    theirs = replace(RECORDS[0], instances=(CAT, DOG))
    assert import_reviews(labels, coco(tmp_path, theirs), "coco").written == 0


# Label Studio


def tasks_of(tmp_path, change):
    write_labelstudio(tmp_path / "ls.json", RECORDS)
    tasks = json.loads((tmp_path / "ls.json").read_text())
    for task in tasks:
        change(task)
    (tmp_path / "ls.json").write_text(json.dumps(tasks))
    return tmp_path / "ls.json"


def test_tasks_that_nobody_submitted_are_left_to_the_model(tmp_path, labels):
    def cancelled(task):
        task["annotations"] = [{"was_cancelled": True, "result": []}] if "a.jpg" in task["data"]["image"] else []

    imported = import_reviews(labels, tasks_of(tmp_path, cancelled), "labelstudio", ImportOptions(everything=True))
    assert (imported.written, imported.counts.unfinished) == (0, 3)


def test_labels_of_a_person_that_went_there_as_annotations_are_not_confirmed_by_it(tmp_path, labels):
    write_odvg(labels, [replace(RECORDS[0], instances=(replace(CAT, score=None),))])
    write_labelstudio(tmp_path / "ls.json", [replace(RECORDS[0], instances=(replace(CAT, score=None),))])
    assert import_reviews(labels, tmp_path / "ls.json", "labelstudio").counts.unchanged == 1


def test_the_annotation_that_is_ground_truth_counts(tmp_path, labels):
    def two(task):
        result = task["predictions"][0]["result"]
        task["annotations"] = [{"ground_truth": True, "result": result[1:]}, {"result": result}]

    import_reviews(labels, tasks_of(tmp_path, two), "labelstudio")
    assert corrected(labels)["sub/b c.jpg"] == (replace(CAT, score=None),)


def test_a_submission_without_boxes_says_that_an_unlabelled_image_has_none(tmp_path, labels):
    write_odvg(labels, [Record("a.jpg", 100, 120)])
    task = {"data": {"image": "/data/upload/1/1a2b3c4d-a.jpg"}, "annotations": [{"result": []}]}
    (tmp_path / "ls.json").write_text(json.dumps([task]))
    assert import_reviews(labels, tmp_path / "ls.json", "labelstudio").counts.confirmed == 1
    assert corrected(labels) == {"a.jpg": ()}


def test_turned_boxes_of_cvat_are_refused(tmp_path, labels):
    export = exported(tmp_path, "cvat", RECORDS)
    export.write_text(export.read_text().replace('occluded="0"', 'occluded="0" rotation="10.5"', 1))
    with pytest.raises(InputError, match=r"a\.jpg: contains rotated boxes \(1\)"):
        import_reviews(labels, export, "cvat")


@pytest.mark.parametrize("entry", [{"value": {"rotation": 30}}, {"type": "polygonlabels"}])
def test_shapes_that_are_no_upright_boxes_are_refused(tmp_path, labels, entry):
    def turned(task):
        result = task["predictions"][0]["result"]
        if "a.jpg" in task["data"]["image"]:
            result[0] |= {**entry, "value": result[0]["value"] | entry.get("value", {})}
        task["annotations"] = [{"result": result}]

    export = tasks_of(tmp_path, turned)
    with pytest.raises(InputError, match=r"contains (rotated boxes|polygons) \(1\)"):
        import_reviews(labels, export, "labelstudio")
    assert not reviewed_path(labels).exists()
    import_reviews(labels, export, "labelstudio", ImportOptions(skip=True))
    assert sorted(corrected(labels)) == ["c.jpg", "sub/b c.jpg"]


def test_of_many_images_left_out_the_result_says_how_many_are_not_listed():
    problems = [InputError(f"{index}.jpg", "no box", "draw one") for index in range(MAX_LISTED + 2)]
    counts = ImportCounts(exported=len(problems), problems=problems)
    text = describe_import(Imported(None, 0, 1, 0, counts), "x_od_v1.json")
    assert "  and 2 more" in text.splitlines()


# Which image it is


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("a.jpg", "a.jpg"),
        ("photos/a.jpg", "a.jpg"),
        ("/home/me/photos/sub/b c.jpg", "sub/b c.jpg"),
        ("b c.jpg", "sub/b c.jpg"),
        ("upload/3/1a2b3c4d-b_c.jpg", "sub/b c.jpg"),
        ("1a2b3c4d-b%20c.jpg", "sub/b c.jpg"),
        ("images/879e8ec3__b_c.jpg", "sub/b c.jpg"),
        ("train/b-c_jpg.rf.3f2a9c0d1e4b5a69788796a5b4c3d2e1.jpg", "sub/b c.jpg"),
        ("a_jpg.rf.Q9zT0.jpg", "a.jpg"),
        ("A.JPG", "a.jpg"),
        ("https://bucket.example/x%20y/sub/b%20c.jpg?X-Signature=ab/cd#t", "sub/b c.jpg"),
    ],
)
def test_images_are_found_by_path_then_by_base_name(name, filename):
    assert ImageNames(["a.jpg", "sub/b c.jpg"], "x", [name]).find(name, "").filename == filename


def test_names_that_differ_only_in_what_programs_change_are_not_mistaken_for_one_another():
    images = ["a-b.jpg", "a_b.jpg", "A_b.jpg"]
    assert [ImageNames(images, "x", images).find(name, "").filename for name in images] == images
    with pytest.raises(InputError, match="its base name is that of 3 images"):
        ImageNames(images, "x", ["a b.jpg"]).find("a b.jpg", "")


def test_two_images_of_one_base_name_need_their_folders():
    images = ["p/1.jpg", "q/1.jpg", "1.jpg"]
    names = [f"photos/{name}" for name in images]
    assert [ImageNames(images, "x", names).find(name, "").filename for name in names] == images
    with pytest.raises(InputError, match=r"'1\.jpg' may be p/1\.jpg or q/1\.jpg"):
        ImageNames(images[:2], "x", ["1.jpg"]).find("1.jpg", "")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record("other.jpg", 100, 120, (MOVED,)), r"'other\.jpg' is not an image of x_od_v1\.json"),
        (Record("a.jpg", 50, 60, (MOVED,)), r"'a\.jpg' has 60x50 pixels, but x_od_v1\.json has 120x100"),
        (
            Record("a.jpg", 100, 120, (Instance((1, 2, 3, 4), 2, "dogg"),)),
            "'dogg' is not a .*did you mean 'dog'",
        ),
        (Record("a.jpg", 100, 120, (Instance((130, 2, 140, 4), 0, "cat"),)), "'cat' is empty or outside the image"),
        (Record("./a.jpg", 100, 120, (MOVED,)), r"'\./a\.jpg' is a\.jpg, and so is 'a\.jpg'"),
    ],
)
def test_what_cannot_be_placed_is_refused_as_a_whole(tmp_path, labels, record, message):
    fine = replace(RECORDS[1], instances=())
    first = [] if record.filename == "a.jpg" else [RECORDS[0]]
    export = coco(tmp_path, fine, *first, record, names=(*NAMES, "dogg"))
    with pytest.raises(InputError, match=message):
        import_reviews(labels, export, "coco")
    assert not reviewed_path(labels).exists()
    import_reviews(labels, export, "coco", ImportOptions(skip=True))
    assert corrected(labels) == {"sub/b c.jpg": ()}


def test_another_data_set_is_refused_even_with_skip(tmp_path, labels):
    export = coco(tmp_path, Record("x.jpg", 100, 120, (MOVED,)))
    with pytest.raises(InputError, match="nothing was imported"):
        import_reviews(labels, export, "coco", ImportOptions(skip=True))


def test_an_export_without_its_boxes_deletes_none(tmp_path, labels):
    with pytest.raises(InputError, match="contains no image"):
        import_reviews(labels, coco(tmp_path), "coco")
    with pytest.raises(InputError, match=r"contains no box in any of 3 images, but x_od_v1\.json contains 3"):
        import_reviews(labels, coco(tmp_path, *(replace(each, instances=()) for each in RECORDS)), "coco")


# The file of corrections


def test_newer_corrections_are_not_replaced_unless_asked(tmp_path, labels):
    drawn = replace(RECORDS[0], instances=(DOG,))
    write_corrections(reviewed_path(labels), [reviewed_text(drawn, 1), reviewed_text(RECORDS[2], 1)])
    export = coco(tmp_path, replace(RECORDS[0], instances=(MOVED,)))
    with pytest.raises(InputError, match=r"'a\.jpg' has other corrections that the export does not have"):
        import_reviews(labels, export, "coco")
    assert import_reviews(labels, export, "coco", ImportOptions(skip=True)).written == 0
    import_reviews(labels, export, "coco", ImportOptions(overwrite=True))
    assert corrected(labels) == {"a.jpg": (MOVED,), "c.jpg": ()}
    assert import_reviews(labels, export, "coco").counts.already == 1


def test_what_somebody_confirmed_is_not_replaced_unless_asked(tmp_path, labels):
    write_corrections(reviewed_path(labels), [reviewed_text(RECORDS[0], 1)])
    export = coco(tmp_path, replace(RECORDS[0], instances=(MOVED,)))
    with pytest.raises(InputError, match=r"'a\.jpg' has other corrections that the export does not have"):
        import_reviews(labels, export, "coco")
    import_reviews(labels, export, "coco", ImportOptions(overwrite=True))
    assert corrected(labels) == {"a.jpg": (MOVED,)}


def test_a_review_takes_an_import_over_and_its_drafts_are_kept(tmp_path, labels):
    path, at = reviewed_path(labels), "2026-01-01T00:00:00+00:00"
    draft = reviewed_text(replace(RECORDS[0], instances=()), 1)
    key = key_bytes("a.jpg", None)
    journal = ReviewJournal(path, rows_of)
    journal.change([(None, key, 1, ReviewMark("edited", draft, "somebody", at))])
    journal.close()
    export = coco(tmp_path, replace(RECORDS[0], instances=(MOVED,)))
    with pytest.raises(InputError, match="an unfinished draft"):
        import_reviews(labels, export, "coco")
    import_reviews(labels, export, "coco", ImportOptions(overwrite=True))
    journal = ReviewJournal(path, rows_of)
    assert journal.sync()
    assert journal.mark(key, 1) is None
    journal.export()
    journal.close()
    assert review_journal_path(path).is_file()
    assert corrected(labels) == {"a.jpg": (MOVED,)}


def test_an_import_while_a_review_writes_its_file_is_kept(tmp_path, labels, monkeypatch):
    path, at = reviewed_path(labels), "2026-01-01T00:00:00+00:00"
    journal = ReviewJournal(path, rows_of)
    journal.sync()
    key, text = key_bytes("c.jpg", None), reviewed_text(RECORDS[2], 1)
    journal.change([(CorrectionRow(key, 1, text), key, 1, ReviewMark("accepted", None, "somebody", at))])
    journal.export()
    journal.change([(CorrectionRow(key, 1, text), key, 1, ReviewMark("accepted", None, "somebody", at))])
    export = coco(tmp_path, replace(RECORDS[0], instances=(MOVED,)))
    read = journal._texts

    def imported_meanwhile():
        monkeypatch.undo()
        texts = list(read())
        import_reviews(labels, export, "coco")
        return texts

    monkeypatch.setattr(journal, "_texts", imported_meanwhile)
    journal.export()
    journal.close()
    assert corrected(labels) == {"a.jpg": (MOVED,), "c.jpg": ()}


def rows_of(path):
    return [(key_bytes(each.record.filename, None), each.since, each.text) for each in read_corrections(path)]


def test_the_command_says_what_became_of_the_export(tmp_path, labels, capsys):
    export = exported(tmp_path, "yolo", [replace(RECORDS[0], instances=(MOVED,))])
    assert main(["reviews", "import", str(labels), str(export), "--from", "yolo"]) == 0
    out = capsys.readouterr().out
    assert "1 image exported: 1 found by path, 0 by file name" in out
    assert "2 lines of x_od_v1.json not in the export" in out
    assert "x_od_reviewed.json: 1 line" in out
    assert main(["reviews", "import", str(labels), str(tmp_path / "no.xml"), "--from", "cvat"]) == 2
    assert "expected an export of CVAT" in capsys.readouterr().err


def test_yolo_names_may_be_given(tmp_path, labels):
    export = exported(tmp_path, "yolo", [replace(RECORDS[0], instances=(MOVED,))])
    (export / "data.yaml").unlink()
    with pytest.raises(InputError, match="expected --categories"):
        import_reviews(labels, export, "yolo")
    options = ImportOptions(ExportOptions(categories=("dog", "cat")))
    import_reviews(labels, export, "yolo", options)
    assert [each.category for each in corrected(labels)["a.jpg"]] == ["dog"]
