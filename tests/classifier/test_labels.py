import numpy as np
import pytest
import torch
from mocoop.classifier.labels import check_classes, labelled, positions
from mocoop.tests.classifier.conftest import write_images


def test_a_folder_with_parts_gives_the_part_that_is_meant(photos, capsys):
    train, test = labelled(str(photos), None, "train", None), labelled(photos, None, "test", None)
    assert train.classes() == ["blue sea", "green tree", "red_ball"] and len(train.images) == 18
    assert len(test.images) == 12 and not set(train.images) & set(test.images)
    assert all(label in path for path, label in zip(test.images, test.labels, strict=True))
    assert "train/ is used" in capsys.readouterr().out


def test_class_folders_alone_serve_for_both(tmp_path):
    write_images(tmp_path, 2)
    assert labelled(tmp_path, None, "train", None).images == labelled(tmp_path, None, "test", None).images


def test_names_of_a_names_file_go_into_prompts(tmp_path):
    write_images(tmp_path, 1)
    (tmp_path / "classnames.txt").write_text("red_ball crimson ball\ngreen tree oak\nblue sea ocean\n")
    found = labelled(tmp_path, None, "train", {"blue sea": "sea"})
    assert check_classes(found.classes(), found.names) == ["sea", "oak", "crimson ball"]


def test_lists_arrays_and_tensors_of_labels():
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    for labels in ([7, 3], np.array([7, 3]), torch.tensor([7, 3])):
        found = labelled(images, labels, "train", {3: "three", 7: "seven"})
        assert found.labels == [7, 3] and found.classes() == [3, 7] and type(found.labels[0]) is int
    assert labelled(images, np.array(["b", "a"]), "train", None).labels == ["b", "a"]


def test_few_shots_are_drawn_per_class_and_by_the_seed(listed):
    found = labelled(*listed, "train", None)
    few = found.few(2, seed=1)
    assert [few.labels.count(label) for label in few.classes()] == [2, 2, 2]
    assert few.images == found.few(2, seed=1).images != found.few(2, seed=2).images
    assert found.few(None, 1).images == found.images


@pytest.mark.parametrize(
    ("classes", "names", "said"),
    [
        (["one"], {}, "at least two classes, found 1"),
        ([], {}, "found 0"),
        (["a", "b", "a"], {}, "found twice: 'a'"),
        (["a", 1], {}, "both"),
        (["a", "b"], {"c": "see"}, "names are given for 'c'"),
        (["red_fox", "Red fox"], {}, "same prompts"),
        (["a", "b"], {"a": "fox", "b": "fox"}, "same prompts.*names="),
        (["a", "b"], {"a": "  "}, "leave nothing"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(classes, names, said):
    with pytest.raises(ValueError, match=said):
        check_classes(classes, names)


def test_labels_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 images and 1 labels"):
        labelled(["a.png", "b.png"], ["a"], "train", None)
    with pytest.raises(ValueError, match="found none"):
        labelled([], [], "train", None)
    for label in (None, 1.5, True):
        with pytest.raises(ValueError, match="text or a whole number"):
            labelled(["a.png"], [label], "train", None)
    with pytest.raises(ValueError, match="one folder per class"):
        labelled(["a.png"], None, "train", None)
    with pytest.raises(FileNotFoundError, match="absent"):
        labelled(tmp_path / "absent", None, "train", None)
    with pytest.raises(ValueError, match="found none"):
        labelled(tmp_path, None, "train", None)
    write_images(tmp_path, 1, {"alone": (1, 2, 3)})
    with pytest.raises(ValueError, match="found one: alone"):
        labelled(tmp_path, None, "train", None)


def test_places_of_labels():
    assert positions(["b", "a", "b"], ["a", "b"]) == [1, 0, 1]
    with pytest.raises(ValueError, match="1 labels are no class.*'c'.*'a', 'b'"):
        positions(["a", "c"], ["a", "b"])
