"""A run that is killed again and again, wherever it is, ends with the same bits as one that was let alone."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from dassl.utils import load_checkpoint

pytestmark = pytest.mark.slow
RUN = """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    import conftest
    from dassl.config import get_cfg_default
    from dassl.engine import build_trainer
    from dassl.engine import trainer as engine
    from dassl.utils import set_random_seed

    engine.MOST_UNSAVED_SECONDS = 0.0  # a rolling checkpoint after every epoch
    toy = conftest.register_toys()
    step = toy.forward_backward
    toy.forward_backward = lambda self, batch: (time.sleep(0.01), step(self, batch))[1]
    cfg = get_cfg_default()
    cfg.merge_from_file(sys.argv[2])
    set_random_seed(3)
    build_trainer(cfg).train()
"""


@pytest.mark.parametrize("kills", [3])
def test_killed_at_random_moments(make_cfg, build, tmp_path, record, kills):
    epochs = ["OPTIM.MAX_EPOCH", 40, "TEST.NO_TEST", True]
    build(make_cfg(*epochs, "OUTPUT_DIR", str(tmp_path / "whole"))).train()
    (tmp_path / "config.yaml").write_text(make_cfg(*epochs).dump())
    call = [sys.executable, "-c", textwrap.dedent(RUN), str(Path(__file__).parent), str(tmp_path / "config.yaml")]
    learner, killed = tmp_path / "run/prompt_learner", 0
    moments = torch.rand(kills, generator=torch.Generator().manual_seed(0)).tolist()
    while not (learner / "model.pth.tar-40").exists():
        before = sorted(learner.glob("*"))
        with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while killed < kills and process.poll() is None and sorted(learner.glob("*")) == before:
                time.sleep(0.01)  # until it has saved something new
            if killed < kills:
                time.sleep(moments[killed] / 4)  # of the 2 s or more that the run takes
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
                record("kills", "training with rolling checkpoints, SIGKILL at a random moment", "same bits in the end")
            else:
                assert process.wait(timeout=300) == 0, process.stderr.read()
    assert killed == kills
    assert not list(learner.glob("model-rolling*"))
    one, two = (load_checkpoint(tmp_path / run / "prompt_learner/model.pth.tar-40") for run in ("whole", "run"))
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
    assert str(one["optimizer"]) == str(two["optimizer"]) and one["rng"]["python"] == two["rng"]["python"]
