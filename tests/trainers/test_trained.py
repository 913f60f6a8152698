"""`load_trained`: a working model from what a run has left, without its data, its config or its trainer."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import mocoop
import pytest
import torch
from mocoop import CoCoOpModel, CoOpModel, MoCoOpModel, load_backbone, load_trained
from mocoop.methods import LASP_PROMPTS, OURS
from PIL import Image

ROOT = Path(mocoop.__file__).parent
CLASSES = ("apple", "bell", "camera", "dog")  # base: apple, bell
# Method -> its name in scripts, and its model's arguments as the runs below must have stored them.
METHODS = {
    "ZeroshotCLIP": ("zsclip", {"templates": ["an icon of a {}."]}),
    "ZeroshotCLIP2": ("zsclip2", None),
    "CoOp": ("coop", {"n_ctx": 9, "class_specific": False, "position": "middle"}),
    "CoCoOp": ("cocoop", {"n_ctx": 9}),
    "KgCoOp": ("kgcoop", None),
    "LASP": ("lasp", None),
    "MoCoOp": (
        "mocoop",
        {"groups": [["an icon of a {}."], ["a solid {}."]], "topk": 1, "correction": True, "finetune_norms": True},
    ),
}
assert set(METHODS) == {row.name for row in OURS}
TRAINED = [row.name for row in OURS if row.trained]
FIRST_VERSION = [name for name in TRAINED if name != "KgCoOp"]  # what version 0.1.0 had
OPTIONS = ["OPTIM.MAX_EPOCH", "2", "TRAIN.CHECKPOINT_FREQ", "1", "OPTIM.WARMUP_EPOCH", "0", "INPUT.FEATURE_VIEWS", "0"]
OPTIONS += ["TRAINER.COOP.CLASS_TOKEN_POSITION", "middle", "TRAINER.MOCOOP.TOPK", "1", "TRAINER.LASP.GROUPS", "2"]
OPTIONS += ["TRAINER.MOCOOP.FINETUNE_VIT_LN", "True", "TRAINER.LASP.FINETUNE_VIT_LN", "True"]
IMAGE = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(7))


def write_dataset(folder):
    """Squares of a shade per class, two for training and one for testing, and the yaml file that names them."""
    for part, count in (("train", 2), ("test", 1)):
        for label, word in enumerate(CLASSES):
            for number in range(count):
                path = folder / "data" / part / word / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (48, 48), (60 * label, 90, 40 * number)).save(path)
    yaml = folder / "squares.yaml"
    yaml.write_text(
        f"DATASET: {{NAME: ImageFolder, ROOT: {folder / 'data'}}}\n"
        "TRAINER: {ZSCLIP: {TEMPLATE: 'an icon of a {}.'},\n"
        "  MOCOOP: {PROMPT_GROUPS: [['an icon of a {}.'], ['a solid {}.']]}}\n"
    )
    return yaml


def trainers_logits(run, epoch=None):
    """What the run's own trainer, built from its config and with its data, says of the images."""
    from dassl.config import get_cfg_default
    from dassl.engine import build_trainer
    from mocoop.config import merge, read_yaml

    cfg = get_cfg_default()
    mocoop.extend_cfg(cfg)
    merge(cfg, [("config.yaml", read_yaml(run / "config.yaml"))])
    trainer = build_trainer(cfg)
    trainer.load_model(str(run), epoch=epoch)
    trainer.set_model_mode("eval")
    return trainer.model_inference(IMAGE)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Method -> (its run's folder, the logits of its trainer by epoch); the data set is gone again."""
    folder = tmp_path_factory.mktemp("trained")
    scripts = " ".join(script for script, _ in METHODS.values())
    yaml = write_dataset(folder)
    call = [sys.executable, str(ROOT), "protocol", "run", "base2new", str(yaml), scripts, "1", *OPTIONS]
    env = {**os.environ, "OUTPUT": str(folder / "out"), "CFG": "demo", "SHOTS": "2", "JOBS": "1"}
    done = subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = {}
    for method in METHODS:
        run = folder / "out/base2new/train_base/squares/shots_2" / method / "demo/seed1"
        epochs = (1, 2) if method in TRAINED else (None,)
        found[method] = run, {epoch: trainers_logits(run, epoch) for epoch in epochs}
    shutil.rmtree(folder / "data")
    return found


@pytest.fixture()
def moved(runs, tmp_path):
    """moved(method) -> a copy of its run that has nothing but what loading takes: no config, no log, no record."""

    def move(method, *also):
        target = tmp_path / "elsewhere" / method
        target.mkdir(parents=True)
        for name in ("model.json", "prompt_learner", *also):
            source = runs[method][0] / name
            if source.is_dir():
                shutil.copytree(source, target / name)
            elif source.exists():
                shutil.copy(source, target)
        return target

    return move


@torch.no_grad()
def logits_of(model):
    return model(IMAGE)


def checkpoint_of(run, epoch=2):
    return run / "prompt_learner" / f"model.pth.tar-{epoch}"


def change(file, edit):
    """Rewrite a checkpoint after `edit(checkpoint, its state_dict, its settings)`."""
    checkpoint = torch.load(file, weights_only=True)
    state = checkpoint["state_dict"]
    edit(checkpoint, state, state.get("_extra_state"))
    torch.save(checkpoint, file)
    return file


# ---- what runs leave


@pytest.mark.parametrize("method", METHODS)
def test_a_runs_folder_is_a_model(runs, moved, method):
    model = load_trained(moved(method), device="cpu")
    assert not model.training and model.names == ["apple", "bell"] and model.trained_on == "ImageFolder"
    expected = METHODS[method][1]
    assert expected is None or model.arguments() == expected
    assert torch.equal(logits_of(model), runs[method][1][2 if method in TRAINED else None])


@pytest.mark.parametrize("method", TRAINED)
def test_so_is_a_checkpoint_and_an_earlier_epoch(runs, moved, tmp_path, method):
    run, logits = moved(method), runs[method][1]
    assert not torch.equal(logits[1], logits[2])
    assert torch.equal(logits_of(load_trained(run, epoch=1)), logits[1])
    alone = shutil.copy(checkpoint_of(run, 1), tmp_path / "any_name")
    assert torch.equal(logits_of(load_trained(str(alone))), logits[1])
    shutil.copy(checkpoint_of(run, 1), run / "prompt_learner/model-best.pth.tar")
    assert torch.equal(logits_of(load_trained(run)), logits[1])  # the run tested the best on val, not the last
    assert torch.equal(logits_of(load_trained(run, epoch=2)), logits[2])


@pytest.mark.parametrize("method", METHODS)
def test_it_scores_other_names(runs, moved, method):
    run = moved(method)
    model = load_trained(run, names=["camera", "dog", "apple"])
    assert model.names == ["camera", "dog", "apple"]
    last = runs[method][1][2 if method in TRAINED else None]
    torch.testing.assert_close(logits_of(model)[:, 2], last[:, 0], atol=1e-4, rtol=1e-5)
    again = load_trained(run)
    again.set_classes(["camera", "dog", "apple"])
    assert torch.equal(logits_of(again), logits_of(model))


def test_a_loaded_backbone_serves_several_models(runs, moved):
    backbone = load_backbone("demo")
    models = {method: load_trained(moved(method), backbone=backbone) for method in METHODS}  # two change LayerNorms
    for method, model in models.items():
        assert torch.equal(logits_of(model), runs[method][1][2 if method in TRAINED else None])
    assert models["CoOp"].backbone is backbone


def test_the_device_is_the_one_asked_for(moved):
    run = moved("MoCoOp")
    assert load_trained(run, device="meta", backbone=load_backbone("demo")).device.type == "meta"
    assert load_trained(run, backbone=load_backbone("demo")).device.type == "cpu"


def test_loading_draws_nothing(moved):
    run, random = moved("CoCoOp"), torch.get_rng_state()
    load_trained(run)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_run_that_has_saved_nothing_is_no_model(moved, runs):
    run = moved("CoOp")
    shutil.rmtree(run / "prompt_learner")
    with pytest.raises(FileNotFoundError, match="no checkpoint in the run .*saved none yet, or it tested the model"):
        load_trained(run)
    tested = Path(str(runs["CoOp"][0]).replace("train_base", "test_new"))
    assert (tested / "model.json").is_file()
    with pytest.raises(FileNotFoundError, match="tested the model of another run"):
        load_trained(tested)


@pytest.mark.parametrize(("where", "epoch"), [("nowhere", None), ("CoOp", 7), ("empty", None)])
def test_what_is_not_there_is_named(moved, tmp_path, where, epoch):
    run = moved("CoOp").parent
    (run / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"(?i)no checkpoint .*{where}"):
        load_trained(run / where, epoch=epoch)


def test_a_folder_that_is_not_of_a_run_is_asked_about(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"found none; is {tmp_path} the folder of a run"):
        load_trained(tmp_path)


# ---- what other versions and programs leave


def as_first_version(file):
    """Rewrite a checkpoint as version 0.1.0 would have written it: of its settings it knew these."""

    def edit(_, state, settings):
        about = {"method": settings["method"], "backbone": "demo", "dataset": "ImageFolder"}
        state["_extra_state"] = about | {"classnames": settings["names"]}
        if settings["method"] == "MoCoOp":
            state["_extra_state"]["groups"] = settings["arguments"]["groups"]

    return change(file, edit)


@pytest.mark.parametrize("method", FIRST_VERSION)
def test_checkpoints_of_version_0_1_0_and_their_config(runs, moved, method, recwarn):
    run = moved(method, "config.yaml")
    (run / "model.json").unlink()
    file = as_first_version(checkpoint_of(run))
    for place in (run, file):
        model = load_trained(place)
        assert torch.equal(logits_of(model), runs[method][1][2])
        assert model.arguments() == load_trained(runs[method][0]).arguments()
    assert [str(warning.message) for warning in recwarn if "defaults" in str(warning.message)] == []


@pytest.mark.parametrize("method", FIRST_VERSION)
def test_without_their_config_the_defaults_are_said(runs, moved, method):
    file = as_first_version(checkpoint_of(moved(method)))
    message = rf"no .*config.yaml: what checkpoint .* does not say is taken from {method}'s defaults"
    with pytest.warns(UserWarning, match=message) as warned:
        model = load_trained(file)
    assert [warning.filename for warning in warned] == [__file__]
    said = {"CoOp": {"position": "end"}, "MoCoOp": {"topk": 2}, "LASP": {"prompts": LASP_PROMPTS}}.get(method, {})
    stored = load_trained(runs[method][0]).arguments()
    assert model.arguments() == stored | said
    if said:  # who knows it, says it
        with pytest.warns(UserWarning):
            model = load_trained(file, **{name: stored[name] for name in said})
    assert torch.equal(logits_of(model), runs[method][1][2])


def write_released(path, state, names=3):
    """A checkpoint as CoOp's code saves it: half precision, with the frozen parts of the prompts."""
    state = {name: value.half() for name, value in state.items()}
    state |= {"token_prefix": torch.zeros(names, 1, 128).half(), "token_suffix": torch.zeros(names, 60, 128).half()}
    torch.save({"state_dict": state, "epoch": 50, "optimizer": None, "scheduler": None, "val_result": None}, path)
    return path


@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize("position", ["end", "front"])
def test_coops_released_checkpoints(tmp_path, specific, position):
    names, backbone = ["cat", "dog", "red house"], load_backbone("demo")
    made = CoOpModel(backbone, names, n_ctx=4, class_specific=specific, position=position)
    with torch.no_grad():
        made.ctx.copy_(made.ctx.half())
    file = write_released(tmp_path / "model.pth.tar-50", {"ctx": made.ctx})
    more = {} if position == "end" else {"position": position}
    for named in (backbone, "demo"):
        model = load_trained(file, names=names, backbone=named, method="CoOp", **more)
        assert model.arguments() == {"n_ctx": 4, "class_specific": specific, "position": position}
        assert torch.equal(logits_of(model), logits_of(made))


def test_cocoops_released_checkpoints(tmp_path):
    names, backbone = ["cat", "dog", "red house"], load_backbone("demo")
    made = CoCoOpModel(backbone, names, n_ctx=4)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(p.half())
    file = write_released(tmp_path / "model.pth.tar-10", dict(made.named_parameters()))
    model = load_trained(file, names=names, backbone=backbone, method="CoCoOp")
    assert torch.equal(logits_of(model), logits_of(made))
    with pytest.raises(ValueError, match=r"(?s)model.pth.tar-10.*does not fit.*meta_net"):
        load_trained(file, names=names, backbone=backbone, method="CoOp")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ["a"], "backbone": "demo"}, "does not say its method: give method="),
        ({"names": ["a"], "method": "CoOp"}, "does not say its backbone: give backbone="),
        ({"backbone": "demo", "method": "CoOp"}, "does not say its class names: give names="),
        ({"names": ["a"], "backbone": "demo", "method": "CoCoOp"}, "holds no trained CoCoOp: found ctx [4, 128]"),
        ({"names": ["a"], "backbone": "demo", "method": "KoOp"}, "method 'KoOp' is not known"),
        ({"names": ["a"], "backbone": "demo", "method": "CoOp", "n_ctx": 5}, "n_ctx 5, and the tensors are of one"),
        ({"names": ["a"], "backbone": "demo", "method": "CoOp", "depth": 5}, "unexpected keyword argument 'depth'"),
    ],
)
def test_what_they_do_not_say_is_asked_for(tmp_path, given, message):
    file = write_released(tmp_path / "model.pth.tar-50", {"ctx": torch.randn(4, 128)})
    with pytest.raises(ValueError) as caught:
        load_trained(file, **given)
    assert message in str(caught.value)


# ---- damaged files, and files made to do harm


def setting(name, value):
    return lambda checkpoint, state, settings: settings.__setitem__(name, value)


def argument(name, value):
    return lambda checkpoint, state, settings: settings["arguments"].__setitem__(name, value)


def tensor(name, value):
    return lambda checkpoint, state, settings: state.__setitem__(name, value)


def without(name):
    return lambda checkpoint, state, settings: (settings if name in settings else state).pop(name)


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


CHANGES = {
    "CoOp": [
        (lambda checkpoint, state, settings: checkpoint.__setitem__("state_dict", {}), "say its method"),
        (lambda checkpoint, state, settings: checkpoint.__setitem__("state_dict", 5), "state_dict"),
        (without("ctx"), "holds no trained CoOp: found nothing"),
        (tensor("ctx", torch.zeros(128)), "holds no trained CoOp: found ctx [128]"),
        (tensor("ctx", torch.zeros(9, 64)), "does not fit the model"),
        (tensor("ctx", torch.zeros(9, 128).long()), "ctx: expected numbers of float32"),
        (tensor("ctx", torch.full((9, 128), torch.nan)), "NaN"),
        (tensor("ctx", torch.zeros(1001, 128)), "tensors are of one with n_ctx 1001"),
        (tensor("more", torch.zeros(3)), "does not fit the model"),
        (setting("format", 3), "later version of mocoop"),
        (setting("format", "x"), "later version of mocoop"),
        (without("method"), "does not say its method"),
        (setting("method", "KoOp"), "method 'KoOp' is not known"),
        (setting("method", ["CoOp"]), "as method of the model it has a list of 1"),
        (setting("method", "ZeroshotCLIP"), ""),
        (without("backbone"), "does not say its backbone"),
        (setting("backbone", 5), "as backbone of the model it has 5"),
        (setting("backbone", "nonsense"), "nonsense"),
        (setting("backbone", "/etc/passwd@ViT-B/16"), "/etc/passwd"),
        (without("names"), "give names="),
        (setting("names", "cat"), "as names of the model it has 'cat'"),
        (setting("names", [["cat"]]), "as names of the model it has a list of 1"),
        (setting("names", ["a " * 5000]), "a a"),
        (setting("dataset", 5), "as dataset of the model it has 5"),
        (setting("arguments", [1]), "as arguments of the model it has a list of 1"),
        (setting("arguments", {"n_ctx": torch.zeros(3)}), "expected plain data"),
        (argument("n_ctx", 10**9), "n_ctx 1000000000, and the tensors are of one with n_ctx 9"),
        (argument("class_specific", True), "class_specific True, and the tensors are of one with"),
        (argument("class_specific", nested(20)), "class_specific"),
        (argument("position", "back"), "position must be one of"),
        (argument("position", nested(5)), "position must be one of"),
        (argument("words", "<|endoftext|>"), "words"),
        (argument("chunk", 0), "chunk must be"),
        (argument("precision", "x"), "precision must be"),
        (argument("backbone", "x"), "multiple values for argument 'backbone'"),
        (argument("others", 5), "does not describe a CoOp that can be made here"),
        (argument("depth", 9), "unexpected keyword argument 'depth'"),
    ],
    "MoCoOp": [
        (argument("groups", "x"), "groups must be"),
        (argument("groups", []), "groups must be"),
        (argument("groups", [[5]]), "groups each template needs"),
        (argument("groups", [["a {}."]]), "does not fit the model"),
        (argument("groups", [["an icon of a {}."], ["a " * 5000 + "{}"]]), "a a"),
        (argument("topk", 0), "topk must be"),
        (argument("topk", True), "topk must be"),
        (argument("finetune_norms", False), "finetune_norms False, and the tensors are of one with"),
        (without("router.weight"), "holds no trained MoCoOp"),
        (without("image_norms.0_ln_1_weight"), "does not fit the model"),
    ],
    "LASP": [
        (argument("prompts", ["a"]), "prompts each template needs"),
        (argument("groups", 10**6), "groups 1000000, and the tensors are of one with groups 2"),
        (argument("noise_std", "x"), "noise_std must be"),
    ],
    "CoCoOp": [(tensor("meta_net.linear1.weight", torch.zeros(3, 3)), "does not fit the model")],
}


@pytest.mark.parametrize("method", CHANGES)
def test_changed_checkpoints_end_in_one_message(moved, tmp_path, method):
    file, wrong = checkpoint_of(moved(method)), []
    for number, (edit, message) in enumerate(CHANGES[method]):
        changed = change(shutil.copy(file, tmp_path / f"changed-{number}"), edit)
        try:
            load_trained(changed)
        except (ValueError, OSError) as error:
            if message not in str(error):
                wrong.append((number, message, str(error)))
        else:
            wrong.append((number, message, "loaded"))
    assert wrong == []


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_files_that_are_no_checkpoints_end_in_one_message(moved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = checkpoint_of(moved("CoOp")).read_bytes()
    harmful = pickle.dumps({"state_dict": {"ctx": Bomb()}, "epoch": 1})
    for number, content in enumerate((b"", b"text", good[:1000], good[:-100], harmful)):
        file = tmp_path / f"damaged-{number}"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f'checkpoint from "{file}"'):
            load_trained(file)
    torch.save({"state_dict": {"ctx": Bomb()}, "epoch": 1}, tmp_path / "harmful")
    with pytest.raises(ValueError, match="would run code"):
        load_trained(tmp_path / "harmful")
    assert not (tmp_path / "exploded").exists()


ZEROSHOT = {"method": "ZeroshotCLIP", "backbone": "demo", "names": ["a"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "model.json"),
        ("[1]", "settings of a model, found a list of 1"),
        ("{}", "does not say its method"),
        (b"\xff\xfe", "model.json"),
        (json.dumps(ZEROSHOT | {"names": []}), "give names="),
        (json.dumps(ZEROSHOT | {"format": 9}), "later version"),
        (json.dumps(ZEROSHOT | {"arguments": {"templates": "{}"}}), "templates must be a list"),
        (json.dumps({"method": "CoOp", "backbone": "demo", "names": ["a"]}), "no checkpoint in the run"),
    ],
)
def test_a_damaged_description_ends_in_one_message(tmp_path, text, message):
    (tmp_path / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load_trained(tmp_path)
    assert message in str(caught.value)


def test_another_method_than_the_checkpoints_is_refused(moved):
    run = moved("MoCoOp")
    with pytest.raises(ValueError, match="is of method 'MoCoOp', not of 'CoOp'"):
        load_trained(run, method="CoOp")
    assert isinstance(load_trained(run, method="MoCoOp", topk=2), MoCoOpModel)


def test_a_checkpoint_of_trainers_loads_into_another_run_only_if_it_is_sound(runs, moved):
    """`load_model` of a trainer reads with the same function: what is damaged for one is damaged for the other."""
    from mocoop.trainers.trained import read_checkpoint

    file = change(checkpoint_of(moved("MoCoOp")), setting("arguments", [1]))
    with pytest.raises(ValueError, match="as arguments of the model it has a list of 1"):
        read_checkpoint(file)
