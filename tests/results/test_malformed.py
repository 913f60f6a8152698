"""Runs' files from strangers: a table or one message, within bounded time."""

import json
import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mocoop import results
from mocoop.results.reading import read_record, read_routing
from mocoop.toolbox.dassl.errors import WrongValue

PLACE = "base2new/train_base/dtd/shots_16"
many = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NAN = float("nan")


def shown(output, capsys, *options):
    """(exit code, errors) of the command, within bounded time."""
    began = time.monotonic()
    code = results.main([str(output), *options])
    assert time.monotonic() - began < 20
    return code, capsys.readouterr().err


def numbers(value):
    return json.dumps({"test": {"accuracy": value}})


BAD = {
    "empty": "",
    "torn": '{"test": {"accuracy": 5',
    "nested": "[" * 10**5 + "]" * 10**5,
    "nested dicts": '{"a":' * 10**5,
    "other types": ["[]", "1", "null", '"x"', '{"test": []}', '{"test": "accuracy"}', '{"test": 5}', "{}"],
    "accuracies": [
        numbers(value) for value in (None, "5", True, -1, 100.5, float("nan"), float("inf"), [], {}, 10**400)
    ],
    "a number of 5,000 digits": '{"test": {"accuracy": ' + "9" * 5000 + "}}",
    "bytes": bytes(range(256)),
    "zeros": bytes(4096),
    "routing": [
        json.dumps({"test": {"accuracy": 5, "routing": routing}})
        for routing in (
            *(
                None,
                1,
                "x",
                [],
                {},
                {"experts": [], "share": []},
                {"share": [1]},
                {"experts": ["a"], "share": [1], "by_class": 5},
                {"experts": ["a"]},
                {"experts": ["a"], "share": []},
                {"experts": [1], "share": [1]},
            ),
            *({"experts": "ab", "share": [1, 2]}, {"experts": ["a"], "share": ["x"]}, {"experts": ["a"], "share": 5}),
            {"experts": ["a"], "share": [1], "by_class": [[1, 2]]},
            {"experts": ["a"], "share": [1], "by_class": [[1]], "classnames": ["b", "c"]},
        )
    ],
}


@pytest.mark.parametrize("kind", BAD)
def test_a_damaged_record_is_named_and_the_other_runs_are_shown(write_both, output, capsys, record, kind):
    write_both(1, 70.0, 60.0)
    write_both(2, 71.0, 61.0)
    path = output / PLACE / "CoOp/vit/seed2/results.json"
    contents = BAD[kind] if isinstance(BAD[kind], list) else [BAD[kind]]
    for content in contents:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        code, errors = shown(output, capsys, "--out", str(output.parent / "tables"), "--no-figures")
        assert code == 1 and errors.count("Error:") == 1 and str(path) in errors and len(errors) < 1500, content
    record("malformed results", kind, "named, the other runs are shown", tries=len(contents))


def test_pipes_devices_and_huge_files(write_run, output, capsys, record):
    path = write_run(PLACE, 1, 70.0) / "results.json"
    for make in (
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
        path.mkdir,
        lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40),
    ):
        path.unlink()
        make()
        code, errors = shown(output, capsys)
        assert code == 1 and str(path) in errors
        if path.is_dir():
            path.rmdir()
            path.touch()
    record("malformed results", "pipe, device, folder, a file of a terabyte", "named", tries=4)


@pytest.mark.parametrize("name", ["config.yaml", "DONE"])
def test_other_files_of_a_run(write_both, output, capsys, record, name):
    write_both(1, 70.0, 60.0)
    write_both(2, 71.0, 61.0)
    path = output / PLACE / "CoOp/vit/seed2" / name
    bomb = "\n".join([f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 12)])
    for content in (b"", b"\xff\xfe", b"[" * 10**5, b"x: [", f"a0: &a0 {{k: v}}\n{bomb}\nSEED: 2\n".encode(), b"- 1"):
        path.write_bytes(content)
        code, errors = shown(output, capsys)
        assert code in (0, 1) and "Traceback" not in errors
        if code == 1:
            assert str(path) in errors
    record("malformed results", name, "a table, or the file is named", tries=6)


HEAD = "protocol,part,dataset,shots,method,config,seed,split,metric,value\n"
LINE = "base2new,train_base,dtd,16,CoOp,vit,1,test,accuracy,70.0\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "a,b\n1,2\n", HEAD, HEAD + "base2new\n", HEAD + LINE + LINE, HEAD + LINE.strip() + ",9\n"),
        *(HEAD + LINE.replace("70.0", value) for value in ("x", "nan", "inf", "")),
        *(HEAD + LINE.replace("16", value) for value in ("x", "1.5", "9" * 5000)),
        *(HEAD + LINE.replace("base2new", "odd"), HEAD + '"' + "x" * 200_000, "\0" * 1000),
    ],
    ids=lambda text: repr(text[-12:]),
)
def test_a_csv_that_is_none(tmp_path, capsys, record, text):
    path = tmp_path / "results.csv"
    path.write_text(text)
    code, errors = shown(path, capsys)
    assert code == 1 and errors.count("Error:") == 1 and str(path) in errors
    record("malformed results", "CSV files", "refused with one message")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["accuracy", "macro_f1", "images", "routing", "experts", "share", "by_class", "classnames", "test", "x"]
RECORDS = st.dictionaries(st.sampled_from(KEYS), VALUES | st.dictionaries(st.sampled_from(KEYS), VALUES), max_size=4)


@many
@given(record_of_test=RECORDS, others=RECORDS)
def test_any_json(tmp_path_factory, record, record_of_test, others):
    folder = tmp_path_factory.mktemp("any")
    (folder / "results.json").write_text(json.dumps({**others, "test": record_of_test}))
    try:
        metrics, routed = read_record(folder, "test")
    except WrongValue as error:
        assert str(folder / "results.json") in str(error) and len(str(error)) < 1000
        record("malformed results", "any JSON", "refused with one message")
        return
    assert 0 <= metrics["test"]["accuracy"] <= 100
    routing = read_routing(folder)
    assert bool(routing) == routed
    assert all(len(part["experts"]) == len(part["share"]) for part in routing.values())
    record("malformed results", "any JSON", "read")


def test_names_that_would_run_in_latex_are_left_out_and_named_once(write_both, output, capsys):
    write_both(1, 70.0, 60.0)
    write_both(1, 90.0, 90.0, config="x\n\\input{passwd}%")
    assert results.main([str(output), "--format", "latex"]) == 1
    out, err = capsys.readouterr()
    assert "passwd" not in out and "70.00" in out and "90.00" not in out
    assert err.count("Error: ") == 1 and "2 run folders have control characters" in err and r"x\n\input{passwd}%" in err


def test_captions_are_text_to_latex(write_run, output, capsys):
    for place in (r"source/\input{a}/shots_16", r"cross_dataset/\input{a}/dtd/shots_16"):
        write_run(place, 1, 70.0)
    assert results.main([str(output), "--format", "latex"]) == 0
    (caption,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(r"\caption")]
    assert r"from \textbackslash{}input\{a\}" in caption


def test_names_with_line_ends_in_a_csv_file(write_both, output, tmp_path, capsys):
    write_both(1, 70.0, 60.0)
    assert results.main([str(output), "--format", "csv"]) == 0
    path = tmp_path / "results.csv"
    path.write_text(capsys.readouterr().out.replace("vit", '"x\n\\input{a}"'))
    code, err = shown(path, capsys)
    assert code == 1 and "expected names without control characters" in err
