"""`mocoop explain` as a user calls it."""

import json

import pytest
from mocoop.commands.main import main
from PIL import Image


@pytest.fixture()
def pictures(photos):
    return sorted(str(path) for path in (photos / "test").rglob("*.png"))[:2]


def call(capsys, *args):
    code = main(["explain", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_model_says_its_words_and_experts(fitted_run, fitted, capsys):
    code, out, _ = call(capsys, fitted_run("MoCoOp"), "--words", 2)
    first = fitted("MoCoOp").words(2)[0]
    assert code == 0 and str(first) in out and "often not readable" in out
    assert "Experts\n  1  a photo of a {}.\n" in out and "--images FOLDER" in out


def test_labelled_images_give_routing_files_and_sheets(fitted_run, fitted, photos, tmp_path, capsys):
    code, out, _ = call(
        capsys, fitted_run("MoCoOp"), "--images", photos, "--out", tmp_path / "o", "--json", tmp_path / "a.json"
    )
    clf = fitted("MoCoOp")
    expected = clf.routing(photos)
    assert code == 0 and str(expected) in out
    found = json.loads((tmp_path / "a.json").read_text())
    assert found == json.loads((tmp_path / "o/explanation.json").read_text())
    assert found["routing"] == json.loads(json.dumps(expected.to_dict())) and found["method"] == "MoCoOp"
    assert [len(prompt["vectors"]) for prompt in found["words"]] == [t.size for t in clf.model.templates]
    assert len(list((tmp_path / "o").glob("expert_*.png"))) == len(expected.experts)


def test_images_are_explained_one_by_one_with_maps(fitted_run, fitted, pictures, tmp_path, capsys):
    twin = tmp_path / "copies" / pictures[0].rpartition("/")[2]  # of the same name
    twin.parent.mkdir()
    Image.open(pictures[0]).save(twin)
    maps = tmp_path / "maps"
    code, out, _ = call(capsys, fitted_run("MoCoOp"), *pictures, twin, "--maps", maps, "--json", tmp_path / "a.json")
    assert code == 0
    records = json.loads((tmp_path / "a.json").read_text())["images"]
    assert [record["image"] for record in records] == [*pictures, str(twin)]
    for record in records[:2]:
        said = fitted("MoCoOp").explain(record["image"])
        assert str(said) in out and record["label"] == said.label and len(record["experts"]) == len(said.experts)
    assert len({record["map"] for record in records}) == len(list(maps.iterdir())) == 3
    with Image.open(records[0]["map"]) as picture:
        assert picture.width >= 400


def test_what_a_method_lacks_is_one_line(fitted_run, pictures, capsys):
    code, out, _ = call(capsys, fitted_run("ZeroshotCLIP"))
    assert code == 0 and "ZeroshotCLIP has no context vectors" in out and "ZeroshotCLIP has no router" in out
    code, out, _ = call(capsys, fitted_run("CoOp"), pictures[0])
    assert code == 0 and out.count("CoOp has no router") == 1 and f"{pictures[0]}: " in out


def test_a_bad_image_is_named_and_the_others_are_explained(fitted_run, pictures, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = call(capsys, fitted_run("CoOp"), pictures[0], tmp_path / "bad.png", pictures[1])
    assert code == 1 and "bad.png" in err and err.startswith("Error: ") and len(err.splitlines()) == 1
    assert pictures[0] in out and pictures[1] in out


def test_what_cannot_be_is_one_message(fitted_run, photos, tmp_path, capsys):
    code, _, err = call(capsys, tmp_path / "nothing")
    assert code == 1 and err.startswith("Error: ") and "nothing" in err
    code, _, err = call(capsys, fitted_run("CoOp"), tmp_path / "gone.png")
    assert code == 1 and "gone.png" in err
    with pytest.raises(SystemExit) as end:
        call(capsys, fitted_run("CoOp"), "--maps", tmp_path / "maps")
    assert end.value.code == 2 and not (tmp_path / "maps").exists()
