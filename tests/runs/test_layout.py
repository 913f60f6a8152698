"""Where runs lie: what is written is read back, and what is none of ours is passed over."""

from pathlib import Path

import pytest
from mocoop.runs import layout
from mocoop.runs.layout import Place, Setting, read_path, run_folder

PLACES = {
    "base2new/train_base/dtd/shots_16": Place("base2new", "train_base", "dtd", 16),
    "fewshot/image_folder-mine/shots_1": Place("fewshot", "", "image_folder-mine", 1),
    "source/imagenet/shots_-1": Place("source", "", "imagenet", -1),
    "cross_dataset/imagenet/dtd/shots_4": Place("cross_dataset", "imagenet", "dtd", 4),
    "domain_generalization/imagenet/imagenet_r/shots_4": Place("domain_generalization", "imagenet", "imagenet_r", 4),
}


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("seed", [0, 12, -1])
def test_a_runs_folder_says_what_it_holds(path, seed):
    setting = Setting(PLACES[path], "CoOp", "vit_b16-tag")
    folder = run_folder(Path("out"), setting, seed)
    assert folder == Path("out") / path / f"CoOp/vit_b16-tag/seed{seed}"
    assert read_path(folder.relative_to("out")) == (setting, seed)


@pytest.mark.parametrize(
    "path",
    [
        "other/dtd/shots_16/CoOp/vit/seed1",
        "base2new/elsewhere/dtd/shots_16/CoOp/vit/seed1",
        "base2new/dtd/shots_16/CoOp/vit/seed1",
        "fewshot/dtd/shots_16/CoOp/vit/seed1/prompt_learner",
        "fewshot/dtd/shots_all/CoOp/vit/seed1",
        "fewshot/dtd/shots_16/CoOp/vit/seed1-old",
        "fewshot/dtd/16/CoOp/vit/seed1",
        "fewshot/dtd/shots_16/CoOp/vit/1",
        "fewshot",
    ],
)
def test_other_folders_are_none_of_ours(path):
    assert read_path(Path(path)) is None


def test_runs_are_found_in_order_and_files_are_none(tmp_path):
    wanted = sorted((Setting(place, "LASP", "vit"), seed) for place in PLACES.values() for seed in (2, 10))
    for setting, seed in wanted:
        run_folder(tmp_path, setting, seed).mkdir(parents=True)
    (tmp_path / "fewshot/dtd/shots_1/CoOp/vit").mkdir(parents=True)
    (tmp_path / "fewshot/dtd/shots_1/CoOp/vit/seed1").touch()
    assert layout.find_runs(tmp_path) == [(*run, str(run_folder(tmp_path, *run))) for run in wanted]
