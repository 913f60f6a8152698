"""Config files and settings from strangers: a config as usual or one message, within bounded time."""

import datetime
import math
import os
import time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mocoop import config, train
from mocoop.clip import Tokenizer
from mocoop.clip.tokenizer import SPECIAL, SpecialToken
from mocoop.config.keys import is_template, template_groups
from mocoop.plugin import all_keys

DEFAULTS = config.flatten(config.compose([], all_keys())[0])
USUAL = ["--trainer", "MoCoOp", "--dataset-config-file", "configs/datasets/eurosat.yaml", "--backbone", "ViT-B/16"]
many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def build(*args):
    """The config of a command line, or None if it is refused, with a message that a person can read."""
    began = time.monotonic()
    try:
        cfg = train.build_config(train.build_parser().parse_intermixed_args([*USUAL, *map(str, args)]))[0]
    except config.ConfigError as error:
        assert 0 < len(error.problems) <= 250
        assert all(10 < len(problem) < 2000 for problem in error.problems)
        return None
    finally:
        assert time.monotonic() - began < 20
    return cfg


def of_file(folder, content):
    """The same with a method's file of this content."""
    path = folder / "method.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return build("--config-file", path)


def laughs(levels, start, more):
    lines = [f"a0: &a0 {start}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} " + more.format(*[f"*a{level - 1}"] * 10))
    return "\n".join(lines)


LISTS, DICTS = "[{}, {}, {}, {}, {}, {}, {}, {}, {}, {}]", "{{a: {}, b: {}, c: {}, d: {}, e: {}, f: {}, g: {}}}"
FILES = {
    "billion laughs of lists": laughs(12, "[ha, ha]", LISTS),
    "billion laughs of dicts": laughs(12, "{k: v}", DICTS),
    "billion laughs below a key": "TRAINER:\n  MOCOOP:\n    PROMPT_GROUPS: " + "&a [x]\nOPTIM: {LR: *a}",
    "billion laughs of merged keys": laughs(14, "{k: v}", "{{<<: [{}, {}, {}, {}]}}"),
    "an alias within itself": "OPTIM: &a {LR: *a}",
    "a list within itself": "INPUT: {SIZE: &a [1, *a]}",
    "nested lists": "SEED: " + "[" * 5000,
    "nested lists, closed": "SEED: " + "[" * 500 + "]" * 500,
    "nested dicts": "{a: " * 100_000,
    "nested blocks": "\n".join(" " * depth + "a:" for depth in range(400)),
    "nested dashes": "SEED: \n  " + "- " * 5000 + "1",
    "10 MB of keys": "\n".join(f"key{number}: 1" for number in range(900_000)),
    "100 kB of keys": "\n".join(f"key{number}: 1" for number in range(8000)),
    "a key of 100 kB": "k" * 100_000 + ": 1",
    "a text of 300 kB": "OPTIM: {LR: " + "x" * 300_000 + "}",
    "sections twice": "OPTIM: {LR: 0.1}\nSEED: 1\nOPTIM: {MAX_EPOCH: 3}",
    "a key twice": "OPTIM:\n  LR: 0.1\n  LR: 0.2",
    "a key twice, once with dots": "OPTIM: {LR: 0.1}\nOPTIM.LR: 0.2",
    "code": "SEED: !!python/object/apply:os.system ['true']",
    "an unknown tag": "SEED: !odd 1",
    "no date": "SEED: 2024-13-45",
    "a date": "OUTPUT_DIR: 2024-01-02",
    "binary data": "SEED: !!binary x",
    "a set": "SEED: !!set {a, b}",
    "keys that are lists": "? [a, b]\n: 1",
    "keys that are numbers": "1: 2\nnull: 3\n1.5: 2",
    "a number of 5,000 digits": "SEED: " + "9" * 5000,
    "a number of 5,000 digits in hexadecimals": "SEED: 0x" + "f" * 5000,
    "infinity": "OPTIM: {LR: .inf}",
    "no number": "OPTIM: {LR: .nan}",
    "torn": "OPTIM: {LR: 0.1",
    "a tab": "OPTIM:\n\tLR: 1",
    "two documents": "SEED: 1\n---\nSEED: 2",
    "a list": "- 1",
    "a text": "hello",
    "bytes": bytes(range(256)),
    "UTF-16": "SEED: 1".encode("utf-16"),
    "zeros": bytes(1000),
    "zeros within a text": 'OUTPUT_DIR: "a\\0b"',
    "half a character": 'OUTPUT_DIR: "\\ud800"',
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_a_config(tmp_path, record, kind):
    assert of_file(tmp_path, FILES[kind]) is None
    record("malformed configs", kind, "refused with one message")


def test_pipes_devices_and_folders_are_no_files(tmp_path, record):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for path in (tmp_path / "pipe.yaml", tmp_path / "folder.yaml", "/dev/zero", "/dev/null"):
        assert build("--config-file", path) is None
    record("malformed configs", "pipe, device, folder", "refused with one message", tries=4)


def test_anchors_and_merged_keys_are_fine_within_limits(tmp_path):
    text = "TRAINER:\n  COOP: &a {PREC: fp32}\n  COCOOP: {<<: *a, N_CTX: 3}\nOPTIM: {LR: 0.5}\n"
    cfg = of_file(tmp_path, "\ufeff" + text)  # some editors begin a file with this mark
    assert (cfg.TRAINER.COCOOP.PREC, cfg.TRAINER.COCOOP.N_CTX, cfg.OPTIM.LR) == ("fp32", 3, 0.5)


VALUES = {
    "OPTIM.LR": ["1e400", "nan", "0", "-1", "1j", "None", "[0.1]", "1" + "0" * 400],
    "OPTIM.WARMUP_CONS_LR": ["-1", "1e400"],
    "OPTIM.WARMUP_MIN_LR": ["-0.1"],
    "OPTIM.MOMENTUM": ["-1"],
    "OPTIM.ADAM_BETA1": ["1", "-0.1"],
    "OPTIM.STEPSIZE": ["(1.5,)", "('x',)", "(1j,)"],
    "OPTIM.MAX_EPOCH": ["0", "1" + "0" * 30, "1.5"],
    "OPTIM.WEIGHT_DECAY": ["-1", "1e999"],
    "INPUT.FEATURE_VIEWS": ["1000000", "-1"],
    "INPUT.SIZE": ["(1e400, 1)", "()", "({},)", "(224, 'x')"],
    "INPUT.RRCROP_SCALE": ["(0, 1)", "(1, 0.5)", "(0.5,)", "('a', 'b')", "(0.1, 2)"],
    "INPUT.GB_K": ["2", "-1"],
    "INPUT.TRANSFORMS": ["[[1]]", "[{}]", "(None,)"],
    "DATALOADER.NUM_WORKERS": ["-1", "1001", "100000"],
    "DATALOADER.TRAIN_X.BATCH_SIZE": ["0", "-1"],
    "DATASET.NUM_SHOTS": ["0", "-2"],
    "MODEL.INIT_WEIGHTS": ["weights.pth"],
    "OUTPUT_DIR": ["", " "],
    "SEED": ["4294967296", "1" + "0" * 5000, "True"],
    "TRAINER.MOCOOP.PROMPT_GROUPS": ["[[]]", "[['a']]", "[[1]]", "[[{}]]", "[['a {0}']]", "[['a {name}.']]", "{}"]
    + ["[['a {} {']]", "[['} {}']]", "[['{{}}']]", "[['{!r}']]", "[['{} <|endoftext|>']]", "[" * 150 + "]" * 150],
    "TRAINER.ZSCLIP.TEMPLATE": ["a {0}", "a {name}", "{", "{} {}", "{}}"],
    "TRAINER.LASP.LASP_PROMPTS": ["['a {0}']", "['{} {']", "'a {}'"],
    "TRAINER.COOP.CTX_INIT": ["a <|endoftext|> b"],
    "TRAINER.COOP.N_CTX": ["0", "1000000000"],
    "TRAINER.LASP.GROUPS": ["0", "1000000000"],
    "TRAINER.MOCOOP.TEXT_LOGIT_SCALE": ["1e400", "nan", "True", "1j", "{}", "b'x'", "-1"],
    "TRAINER.MOCOOP.TEXT_LOSS_WEIGHT": ["nan", "-1", "1e400"],
    "TRAIN.TEXT_CHUNK": ["0", "1e400", "'x'", "[1]", "1j"],
}


@pytest.mark.parametrize("key", VALUES)
def test_a_value_that_makes_no_sense_is_one_problem(key, record):
    for value in VALUES[key]:
        assert build(key, value) is None, value
        with pytest.raises(config.ConfigError) as caught:
            train.build_config(train.build_parser().parse_intermixed_args([*USUAL, key, value]))
        assert any(key in problem for problem in caught.value.problems), caught.value.problems
    record("malformed configs", f"{key} on the command line", "refused with one message", tries=len(VALUES[key]))


def test_a_repeated_section_names_both_lines(tmp_path):
    with pytest.raises(config.ConfigError, match=r"OPTIM is given twice \(lines 1 and 3\)"):
        path = tmp_path / "a.yaml"
        path.write_text(FILES["sections twice"])
        config.read_yaml(path)


def test_no_message_about_a_key_moves_the_cursor(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text('"LR\\e[2J": 1\n')
    with pytest.raises(config.ConfigError, match=r"unknown key LR\\x1b\[2J"):
        train.build_config(train.build_parser().parse_intermixed_args([*USUAL, "--config-file", str(path)]))
    path.write_text('"LR\\e": 1\n"LR\\e": 2\n')
    with pytest.raises(config.ConfigError, match=r"LR\\x1b is given twice"):
        config.read_yaml(path)


SCALARS = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_subnormal=False),
        st.text(max_size=20),
        st.binary(max_size=5),
    ),
    st.dates().map(lambda day: datetime.date(day.year, day.month, day.day)),
    st.sampled_from(["1e400", "a {}.", "{0}", "(1, 2)", "[[", "clip", "../..", "\0", "1" * 5000]),
)
NASTY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEY = st.sampled_from(sorted(DEFAULTS))


def check(cfg, folder):
    """A config that was accepted holds finite plain values and comes back from its own file."""
    if cfg is None:
        return "refused with one message"
    flat = config.flatten(cfg)
    numbers = [value for value in flat.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers)) and cfg.OUTPUT_DIR.strip()
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    again = config.read_yaml(folder / "config.yaml")
    from mocoop.runs.folder import differing

    assert differing(again, flat, DEFAULTS) == []
    return "a config that comes back from its file"


@many
@given(values=st.dictionaries(KEY, NASTY, min_size=1, max_size=2))
def test_any_values_in_a_file(tmp_path_factory, record, values):
    folder = tmp_path_factory.mktemp("any")
    record("malformed configs", "any values in a file", check(of_file(folder, yaml.safe_dump(values)), folder))


@many
@given(key=KEY, value=NASTY.map(str) | st.text(max_size=40))
def test_any_value_on_the_command_line(tmp_path_factory, record, key, value):
    if value.startswith("-"):
        return  # argparse's
    folder = tmp_path_factory.mktemp("any")
    record("malformed configs", "any value on the command line", check(build(key, value), folder))


@many
@given(content=st.binary(max_size=60) | st.text("&*a-: []{}<'\"\n!|>?#%@`,1.\t", max_size=60))
def test_any_file(tmp_path_factory, record, content):
    folder = tmp_path_factory.mktemp("any")
    record("malformed configs", "any bytes", check(of_file(folder, content), folder))


@many
@given(text=st.text("{}a !0:.r<|>", max_size=20) | st.text(max_size=20))
def test_a_template_that_is_accepted_holds_the_class_name_once(record, text):
    good = is_template(text)
    assert good == (template_groups([[text]]) is None)
    if good:
        before, _, after = text.partition("{}")
        assert text.format("NAME") == f"{before}NAME{after}"
    record("malformed configs", "templates", "names once" if good else "refused with one message")


@many
@given(text=st.text(max_size=30) | st.sampled_from(SPECIAL).flatmap(lambda mark: st.just(f"a {mark.upper()} b")))
def test_a_class_name_never_holds_a_start_or_end(record, tokenizer, text):
    try:
        ids = Tokenizer().encode(text)
    except SpecialToken:
        record("malformed configs", "class names with CLIP's own marks", "refused with one message")
        return
    assert tokenizer.sot not in ids and tokenizer.eot not in ids
    record("malformed configs", "class names", "tokens of their own")


@pytest.mark.parametrize("name", [*SPECIAL, "kite <|endoftext|>", "&lt;end_of_text&gt;", "&amp;lt;end_of_text&amp;gt;"])
def test_clips_own_marks_in_a_class_name_are_named(name, tokenizer):
    for call in (tokenizer.encode, tokenizer):
        with pytest.raises(SpecialToken, match="CLIP's own mark"):
            call(name)
