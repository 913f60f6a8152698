"""Files from anybody: whatever stands in their header, there is a report or one message."""

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st
from mocoop import Classifier
from mocoop.classifier.hub import model_card
from mocoop.commands.main import main
from mocoop.report.content import gather
from mocoop.report.page import render
from mocoop.tests.classifier.conftest import QUICK
from mocoop.toolbox.dassl.errors import WrongValue
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("jinja2")


@pytest.fixture(scope="module")
def whole(demo, photos, tmp_path_factory):
    """Tensors and header of a classifier with all that can be measured while it is trained."""
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    given = {**QUICK, "backbone": demo, "folds": 2, "seconds": 60.0, "epochs": 1}
    clf = Classifier("auto", candidates=["CoOp", "ZeroshotCLIP"], least_precision=0.5, **given).fit(str(photos))
    clf.save(path)
    with safe_open(str(path), "pt") as opened:
        return load_file(str(path)), opened.metadata()["mocoop"]


def entries(node, path=()):
    """The paths of all entries of a header, at any depth; of a list the first."""
    inner = node.items() if isinstance(node, dict) else list(enumerate(node))[:1] if isinstance(node, list) else ()
    for key, value in inner:
        yield (*path, key)
        yield from entries(value, (*path, key))


NUMBERS = st.sampled_from([10**400, -(10**30), 2**63, -1, 0, 1, 2, 1e-320, 1e308, 0.5, True])
JSON = st.recursive(
    st.none() | NUMBERS | st.text(st.characters(), max_size=4) | st.just("\ud800") | st.just("a" * 5000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@tries(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_entry_of_the_header_may_be_anything(data, whole, demo, tmp_path_factory):
    tensors, header = whole[0], json.loads(whole[1])
    *way, last = data.draw(st.sampled_from(list(entries(header))))
    node = header
    for key in way:
        node = node[key]
    node[last] = data.draw(JSON)
    path = tmp_path_factory.mktemp("hostile") / "a.safetensors"
    save_file(tensors, str(path), {"mocoop": json.dumps(header)})
    try:
        clf = Classifier.load(path, "cpu", demo)
    except WrongValue as error:
        assert str(path) in str(error) and len(str(error)) < 3000
        return
    assert render(gather(clf, path)).encode()
    assert model_card(clf, "me/it").encode()


def test_the_report_of_a_hostile_file_is_one_message(whole, tmp_path, capsys):
    header = json.loads(whole[1])
    header["fit"] = {"images": "x", "recipe": 5}
    save_file(whole[0], str(tmp_path / "classifier.safetensors"), {"mocoop": json.dumps(header)})
    assert main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and "a whole number in fit.images" in said and said.count("\n") == 1
