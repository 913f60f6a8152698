"""Runs made of nothing but their files."""

import json

import pytest

EXPERTS = ["a photo of a {}.", "{} texture."]


@pytest.fixture()
def write_run(tmp_path):
    """write_run(place, seed, accuracy, ...) -> folder of a run `<tmp>/out/<place>/<method>/<config>/seed<k>`.

    `place` is e.g. "base2new/train_base/dtd/shots_16".
    """

    def write(place, seed, accuracy, method="CoOp", config="vit", done=True, lr=0.1, routing=None, written_seed=None):
        folder = tmp_path / "out" / place / method / config / f"seed{seed}"
        folder.mkdir(parents=True)
        record = {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": 1.5, "images": 10, "classes": 5}
        if routing:
            by_class = {"classnames": ["ant", "bee"], "by_class": [routing, routing]}
            record["routing"] = {"experts": EXPERTS, "share": routing, **by_class}
        (folder / "results.json").write_text(json.dumps({"test": record}))
        seed = seed if written_seed is None else written_seed
        (folder / "config.yaml").write_text(f"OPTIM: {{LR: {lr}}}\nSEED: {seed}\nOUTPUT_DIR: {folder}\n")
        if done:
            (folder / "DONE").write_text("{}")
        return folder

    return write


@pytest.fixture()
def write_both(write_run):
    """write_both(seed, base, new, dataset="dtd", shots=16, ...) -> both runs of a seed, base-to-new."""

    def write(seed, base, new, dataset="dtd", shots=16, **more):
        write_run(f"base2new/train_base/{dataset}/shots_{shots}", seed, base, **more)
        write_run(f"base2new/test_new/{dataset}/shots_{shots}", seed, new, **more)

    return write


@pytest.fixture()
def output(tmp_path):
    """The folder that `write_run` writes below."""
    return tmp_path / "out"
