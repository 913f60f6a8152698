"""A method of somebody else's package, found by its entry point: in every command, the protocols and the results."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import mocoop
import pytest
from mocoop import methods, plugin
from mocoop.methods import MethodError
from PIL import Image

ROOT = Path(mocoop.__file__).parent
COLOUR = "#3b5e07"  # nobody else's

ROW = f'''
"""The row of a method: light, imports no torch."""

from pathlib import Path

from mocoop.config.keys import PREC, Key, at_least
from mocoop.methods import Method

SHIFT = Method(
    name="Shift",
    script="shift",
    trainer="shift_package.method:Shift",
    model="shift_package.method:ShiftModel",
    paper="of no paper",
    keys={{"START": Key(0.5, "what every entry of the shift starts from", at_least(0)), "PREC": PREC}},
    configs=(("*", "plain"),),
    folder=Path(__file__).parent / "recipes",
    colour="{COLOUR}",
    marker="P",
)
'''
METHOD = '''
import torch
import torch.nn.functional as F
from mocoop.trainers.base import PromptTrainer
from mocoop.trainers.model import PromptModel, accuracy
from mocoop.trainers.prompts import template_features


class ShiftModel(PromptModel):
    """Zero-shot CLIP's class features, moved by one learned vector."""

    method = "Shift"

    def __init__(self, backbone, names, others=(), start=0.0, chunk=None, precision="fp32"):
        super().__init__(backbone, names, others, chunk, precision)
        self.start = start
        self.shift = torch.nn.Parameter(torch.full((self.encoder.output_width,), start, device=self.device))

    def encode_classes(self):
        text = template_features(self.encoder, self.backbone.tokenizer, ["an icon of a {}."], self.names)[0]
        return F.normalize(text + self.shift, dim=-1)

    def loss(self, features, label):
        logits = self.logit_scale * features @ self.encode_classes().T
        return F.cross_entropy(logits, label), {"acc": accuracy(logits, label)}

    def arguments(self):
        return {"start": self.start}


class Shift(PromptTrainer):
    model_class = ShiftModel

    @staticmethod
    def arguments(cfg):
        return {"start": cfg.TRAINER.SHIFT.START}
'''
RECIPE = """
DATALOADER: {TRAIN_X: {BATCH_SIZE: 4}, NUM_WORKERS: 0}
INPUT: {TRANSFORMS: ["normalize"]}
OPTIM: {NAME: "sgd", LR: 0.01, MAX_EPOCH: 2, LR_SCHEDULER: "cosine"}
MODEL: {BACKBONE: {NAME: "demo"}}
TRAINER: {SHIFT: {START: 0.25, PREC: "fp32"}}
"""


def write_package(folder, row=ROW, point="shift_package.row:SHIFT"):
    """A package as pip leaves it in site-packages, with an entry point."""
    files = {
        "shift_package/__init__.py": "",
        "shift_package/row.py": row,
        "shift_package/method.py": METHOD,
        "shift_package/recipes/plain.yaml": RECIPE,
        "shift_package-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: shift-package\nVersion: 1.0\n",
        "shift_package-1.0.dist-info/entry_points.txt": f"[{methods.GROUP}]\nShift = {point}\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


def run(*words, package, cwd, **env):
    """A command as a user types it where the package is installed; exit code, stdout and stderr."""
    kept = {key: value for key, value in os.environ.items() if key not in ("DATA", "OUTPUT", "CFG", "TAG", "SHOTS")}
    env = kept | {"PYTHON": sys.executable, "PYTHONPATH": str(package), **env}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """The yaml file of a data set of coloured squares."""
    folder = tmp_path_factory.mktemp("squares")
    for part, count in (("train", 4), ("test", 2)):
        for label, word in enumerate(("apple", "bell", "camera", "dog")):
            for number in range(count):
                path = folder / "data" / part / word / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (48, 48), (60 * label, 90, 40 * number)).save(path)
    (folder / "squares.yaml").write_text(f"DATASET: {{NAME: ImageFolder, ROOT: {folder / 'data'}}}\n")
    return folder / "squares.yaml"


@pytest.fixture(scope="module")
def finished(package, squares, tmp_path_factory):
    """The output folder of a protocol that has run with the package's method, and what was printed."""
    cwd = tmp_path_factory.mktemp("finished")
    call = ("bash", ROOT / "scripts/run_protocol.sh", "base2new", squares, "shift", "1")
    code, out, err = run(*call, package=package, cwd=cwd, OUTPUT="out", SHOTS="2")
    assert code == 0, out + err
    return cwd / "out", out


# ---- it works everywhere


@pytest.mark.slow
def test_a_protocol_runs_it_with_its_own_config_and_the_table_has_it(finished):
    output, printed = finished
    run = output / "base2new/train_base/squares/shots_2/Shift/plain/seed1"
    assert (run / "DONE").is_file() and (run / "prompt_learner/model.pth.tar-2").is_file()
    assert "START: 0.25" in (run / "config.yaml").read_text()
    row = next(line for line in printed.splitlines() if "Shift" in line and "seed" not in line)
    assert any(character.isdigit() for character in row)


@pytest.mark.slow
def test_figures_draw_it_in_its_colour(finished, package, tmp_path):
    pytest.importorskip("matplotlib")
    output, _ = finished
    call = (sys.executable, "-m", "mocoop.results", output, "--out", "made", "--figures", "svg")
    code, _, err = run(*call, package=package, cwd=tmp_path)
    assert code == 0, err
    assert any(COLOUR in path.read_text() for path in (tmp_path / "made").rglob("*.svg"))


@pytest.mark.slow
def test_train_py_trains_it_and_load_trained_loads_it(package, squares, tmp_path):
    recipe = package / "shift_package/recipes/plain.yaml"
    files = ("--dataset-config-file", squares, "--config-file", recipe, "--output-dir", "run")
    call = (sys.executable, ROOT / "train.py", "--trainer", "Shift", *files, "TRAINER.SHIFT.START", "0.125")
    code, out, err = run(*call, package=package, cwd=tmp_path)
    assert code == 0, err
    assert "Shift on ImageFolder" in out
    code = "import mocoop; model = mocoop.load_trained('run'); print(type(model).__name__, model.start, model.names)"
    _, out, err = run(sys.executable, "-c", code, package=package, cwd=tmp_path)
    assert out == "ShiftModel 0.125 ['apple', 'bell', 'camera', 'dog']\n", err


def test_its_keys_are_checked(package, squares, tmp_path):
    recipe = package / "shift_package/recipes/plain.yaml"
    files = ("--dataset-config-file", squares, "--config-file", recipe, "--output-dir", "run")
    wrong = ("TRAINER.SHIFT.STRAT", "1", "TRAINER.SHIFT.START", "-1")
    call = (sys.executable, ROOT / "train.py", "--trainer", "Shift", *files, *wrong)
    code, _, err = run(*call, package=package, cwd=tmp_path)
    assert code == 1
    assert "unknown key TRAINER.SHIFT.STRAT (options); did you mean TRAINER.SHIFT.START?" in err
    assert "TRAINER.SHIFT.START = -1.0: must be a number >= 0" in err
    assert not (tmp_path / "run").exists()


def test_commands_list_it(package, tmp_path):
    _, out, _ = run(sys.executable, ROOT, "list", "methods", package=package, cwd=tmp_path)
    assert out.splitlines()[-1].split() == ["Shift", "shift", "yes", "of", "no", "paper"]
    _, out, _ = run(sys.executable, ROOT, "list", "keys", package=package, cwd=tmp_path)
    assert any(line.split()[:2] == ["TRAINER.SHIFT.START", "0.5"] for line in out.splitlines())
    _, out, _ = run(sys.executable, ROOT, "protocol", "--help", package=package, cwd=tmp_path)
    assert "mocoop, shift" in out
    code, _, err = run(sys.executable, ROOT, "list", "methods", package=tmp_path, cwd=tmp_path)
    assert code == 0 and "shift" not in err  # and without the package, nothing of it


@pytest.mark.parametrize("order", ["shift_package.row", "shift_package.method", "mocoop"])
def test_the_package_may_be_imported_first(package, tmp_path, order):
    code = f"import {order}; from mocoop import methods; print(methods.table()['Shift'].load_model().__name__)"
    _, out, err = run(sys.executable, "-c", code, package=package, cwd=tmp_path)
    assert out == "ShiftModel\n", err


def test_a_package_of_one_module_may_be_imported_first(tmp_path):
    """Its first line imports mocoop, which asks for the entry point, which is not there yet."""
    row = ROW.replace("shift_package.method", "shift_package.row") + METHOD
    write_package(tmp_path, row)
    code = "import shift_package.row as row; from mocoop import methods; print(methods.table()['Shift'] is row.SHIFT)"
    _, out, err = run(sys.executable, "-c", code, package=tmp_path, cwd=tmp_path)
    assert out == "True\n", err


# ---- what is wrong with it is said


@pytest.fixture()
def bring(monkeypatch):
    """bring(entry point's value, {attribute: value} of its module) -> the table with it."""

    def put(value, attributes=()):
        module, _, _ = value.partition(":")
        if attributes:
            monkeypatch.setitem(sys.modules, module, SimpleNamespace(**dict(attributes)))
        point = EntryPoint(name="Mine", value=value, group=methods.GROUP)
        monkeypatch.setattr(methods, "entry_points", lambda group: [point] if group == methods.GROUP else [])
        methods.table.cache_clear()
        return methods.table()

    yield put
    monkeypatch.undo()
    methods.table.cache_clear()


def row(**changes):
    return methods.Method(**{"name": "Mine", "script": "mine", "trainer": "a.b:C", "model": "a.b:D", **changes})


def test_a_good_row_comes_last(bring):
    mine = row(keys={"N": methods.N_CTX})
    assert list(bring("theirs:ROW", {"ROW": mine}).values()) == [*methods.OURS, mine]
    assert methods.keys()["TRAINER.MINE.N"] is methods.N_CTX and methods.named("mine") is mine
    assert plugin.trainer_targets()["Mine"] == "a.b:C"


@pytest.mark.parametrize(
    ("value", "attributes", "message"),
    [
        ("no_such_package:ROW", {}, "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')"),
        ("theirs:ROW", {"OTHER": 1}, "Mine = theirs:ROW of group mocoop.methods cannot be imported (AttributeError"),
        ("theirs:ROW", {"ROW": {"name": "Mine"}}, "expected a mocoop.methods.Method, found {'name': 'Mine'}"),
        ("theirs:ROW", {"ROW": methods.Method}, "expected a mocoop.methods.Method, found <class"),
        ("theirs:ROW", {"ROW": row(name="CoOp")}, "method CoOp of theirs:ROW: the name 'CoOp' is taken"),
        ("theirs:ROW", {"ROW": row(script="lasp")}, "the name 'lasp' is taken"),
        ("theirs:ROW", {"ROW": row(name="coop")}, "the name 'coop' is taken"),
        ("theirs:ROW", {"ROW": row(node="COOP", keys={"N_CTX": methods.N_CTX})}, "the name 'COOP' is taken"),
        ("theirs:ROW", {"ROW": row(node="NAME")}, "the name 'NAME' is taken"),
        ("theirs:ROW", {"ROW": row(name="../x")}, "'../x' must consist of letters, digits, - and _"),
        ("theirs:ROW", {"ROW": row(node="A.B")}, "'A.B' must consist of"),
        ("theirs:ROW", {"ROW": row(trainer="a.b.C")}, "expected a class as 'module:class', found 'a.b.C'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(bring, value, attributes, message):
    with pytest.raises(MethodError) as caught:
        bring(value, attributes)
    assert message in str(caught.value)
    assert set(plugin.trainer_targets()) == {ours.name for ours in methods.OURS}  # mocoop can still be imported


BROKEN = "entry point Shift = shift_package.row:SHIFT of group mocoop.methods cannot be imported"
COMMANDS = {
    "train.py": (ROOT / "train.py", "--trainer", "CoOp", "--output-dir", "run"),
    "mocoop train": (ROOT, "train", "--trainer", "CoOp", "--output-dir", "run"),
    "mocoop list methods": (ROOT, "list", "methods"),
    "mocoop list keys": (ROOT, "list", "keys"),
    "mocoop protocol": (ROOT, "protocol", "run", "base2new", "demo_icons", "coop", "1"),
    "mocoop protocol --help": (ROOT, "protocol", "--help"),
    "mocoop results": (ROOT, "results", "out"),
    "python -m mocoop.results": ("-m", "mocoop.results", "out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_is_broken_in_one_message(tmp_path, command):
    write_package(tmp_path / "site", row="import a_library_that_is_not_there\n")
    run_folder = tmp_path / "out/base2new/train_base/dtd/shots_16/CoOp/vit/seed1"
    run_folder.mkdir(parents=True)
    (run_folder / "results.json").write_text('{"test": {"accuracy": 50.0, "images": 2, "classes": 2}}')
    (run_folder / "config.yaml").write_text("SEED: 1\n")
    (run_folder / "DONE").write_text("{}")
    code, _, err = run(sys.executable, *COMMANDS[command], package=tmp_path / "site", cwd=tmp_path)
    assert code == 1
    assert err.strip().startswith("Error: ") and BROKEN in err and "a_library_that_is_not_there" in err
    assert "repair or uninstall that package" in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_with_a_broken_package_mocoop_can_still_be_imported(tmp_path):
    write_package(tmp_path, row="import a_library_that_is_not_there\n")
    code = (
        "import mocoop; from dassl.engine import TRAINER_REGISTRY as known; print('CoOp' in known.registered_names())"
    )
    _, out, err = run(sys.executable, "-c", code, package=tmp_path, cwd=tmp_path)
    assert out == "True\n", err
