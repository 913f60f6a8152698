"""Errors whose message is for the user."""

import pickle

import pytest
from mocoop.toolbox.dassl import errors


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.WrongValue, ValueError),
        (errors.WrongType, TypeError),
        (errors.UnknownName, KeyError),
        (errors.NotFinite, FloatingPointError),
        (errors.MissingPackage, ImportError),
    ],
)
def test_each_is_also_the_built_in_error_that_callers_look_for(kind, builtin):
    error = kind("told")
    assert isinstance(error, errors.ExpectedError) and isinstance(error, builtin)
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "told"  # a worker's error travels as a pickle


def test_the_mark_is_seen_whatever_name_the_toolbox_was_imported_by():
    from dassl.errors import WrongValue
    from mocoop.runs.errors import explain

    assert WrongValue is errors.WrongValue and explain(WrongValue("told")) == "told"
    assert explain(ValueError("told")) is None
