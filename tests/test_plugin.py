"""`import mocoop` in a host with the real Dassl, played by a stand-in package with the same registry behaviour."""

import os
import subprocess
import sys

import pytest
from mocoop import methods

# Dassl's registry: no register_lazy, a name twice is a KeyError. The rest is what our trainers import when they load.
HOST = {
    "__init__.py": "",
    "utils.py": """
class Registry:
    def __init__(self, name):
        self.name, self.table = name, {}

    def register(self, obj=None, force=False):
        if obj is None:
            return lambda cls: (self.register(cls, force), cls)[1]
        if obj.__name__ in self.table and not force:
            raise KeyError(obj.__name__)
        self.table[obj.__name__] = obj

    def get(self, name):
        if name not in self.table:
            raise KeyError(name)
        return self.table[name]

    def registered_names(self):
        return list(self.table)
""",
    "engine/__init__.py": "from .build import TRAINER_REGISTRY, build_trainer\n\nclass TrainerX:\n    pass\n",
    "engine/build.py": """
from ..utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")

def build_trainer(cfg):
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)
""",
    "data/__init__.py": "",
    "data/datasets/__init__.py": """
from .build import DATASET_REGISTRY

class DatasetBase:
    pass

class Datum:
    pass
""",
    "data/datasets/build.py": "from ...utils import Registry\n\nDATASET_REGISTRY = Registry('DATASET')\n",
    "optim.py": "def build_optimizer(*args):\n    pass\n",
    "config.py": """
from yacs.config import CfgNode as CN

def get_cfg_default():
    return CN({"SEED": -1, "DATASET": {"NAME": ""}, "INPUT": {}, "TRAIN": {}, "TRAINER": {"NAME": ""}})
""",
}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    for name, text in HOST.items():
        path = site / "dassl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return site


def run(host, code, timeout=120):
    env = {**os.environ, "PYTHONPATH": str(host)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=host, env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_hosts_dassl_is_used_and_only_what_it_lacks_is_registered(host):
    """The two lines that a CoOp checkout adds; afterwards the host registers its own classes without a clash."""
    lines = run(
        host,
        """
import sys
finders = list(sys.meta_path)
import mocoop, dassl
from dassl.config import get_cfg_default
from dassl.engine.build import TRAINER_REGISTRY
from dassl.data.datasets import DATASET_REGISTRY

class CoOp: pass
class EuroSAT: pass
TRAINER_REGISTRY.register(CoOp)
DATASET_REGISTRY.register(EuroSAT)
print(dassl.__file__)
print(sorted(TRAINER_REGISTRY.registered_names()), DATASET_REGISTRY.registered_names())
print(TRAINER_REGISTRY.get("MoCoOp").__module__, TRAINER_REGISTRY.get("CoOp").__module__)
cfg = get_cfg_default()
cfg.TRAINER.COOP = type(cfg)({"N_CTX": 5})
mocoop.extend_cfg(cfg)
before = cfg.dump()
mocoop.extend_cfg(cfg)
print(cfg.dump() == before, cfg.TRAINER.COOP.N_CTX, cfg.TRAINER.MOCOOP.TOPK, cfg.DATASET.SUBSAMPLE_CLASSES)
mocoop.register()
print(sys.meta_path == finders)
""",
    )
    assert lines[4] == "True"  # nothing of ours stands before the host's modules
    assert lines[0] == str(host / "dassl/__init__.py")
    missing_in_coop = {row.name for row in methods.OURS} - {"ZeroshotCLIP", "ZeroshotCLIP2", "CoOp", "CoCoOp"}
    assert missing_in_coop >= {"LASP", "MoCoOp"} and lines[1] == f"{sorted(missing_in_coop | {'CoOp'})} ['EuroSAT']"
    assert lines[2] == "mocoop.trainers.mocoop __main__"
    assert lines[3] == "True 5 2 all"


def test_names_that_the_host_registered_first_stay_the_hosts(host):
    lines = run(
        host,
        """
from dassl.engine.build import TRAINER_REGISTRY
from dassl.data.datasets import DATASET_REGISTRY

class MoCoOp: pass
class EuroSAT: pass
TRAINER_REGISTRY.register(MoCoOp)
DATASET_REGISTRY.register(EuroSAT)
import mocoop
from mocoop.methods import table
from mocoop.plugin import DATASETS, all_keys
print(TRAINER_REGISTRY.get("MoCoOp").__module__, set(TRAINER_REGISTRY.registered_names()) & {"LASP", "CoOp"})
mocoop.register(everything=True)
print(TRAINER_REGISTRY.get("MoCoOp").__module__, DATASET_REGISTRY.get("EuroSAT").__module__)
print(set(table()) <= set(TRAINER_REGISTRY.registered_names()))
print(set(DATASETS) <= set(DATASET_REGISTRY.registered_names()))
""",
    )
    assert lines == ["__main__ {'LASP'}", "__main__ __main__", "True", "True"]


@pytest.mark.parametrize("everything", [False, True])
def test_names_that_the_host_registers_later_become_the_hosts(host, everything):
    """LASP's checkout registers its LASP, perhaps after `import mocoop`; its own duplicates stay errors."""
    lines = run(
        host,
        f"""
import mocoop
from dassl.engine.build import TRAINER_REGISTRY
from dassl.data.datasets import DATASET_REGISTRY
mocoop.register(everything={everything})

@TRAINER_REGISTRY.register()
class LASP: pass
class MoCoOp: pass
class EuroSAT: pass
TRAINER_REGISTRY.register(MoCoOp)
DATASET_REGISTRY.register(EuroSAT)
mocoop.register(everything={everything})
print([TRAINER_REGISTRY.get(name).__module__ for name in ("LASP", "MoCoOp")], LASP.__name__)
print(DATASET_REGISTRY.get("EuroSAT").__module__)
try:
    TRAINER_REGISTRY.register(LASP)
except KeyError as error:
    print("taken", error)
TRAINER_REGISTRY.register(type("LASP", (), {{"__module__": "forced"}}), force=True)
print(TRAINER_REGISTRY.get("LASP").__module__)
""",
    )
    assert lines == ["['__main__', '__main__'] LASP", "__main__", "taken 'LASP'", "forced"]


def test_without_a_host_the_toolbox_is_found_and_a_later_registration_wins():
    lines = run(
        "/",
        """
import sys
import mocoop
from dassl.engine.build import TRAINER_REGISTRY
print(TRAINER_REGISTRY.registered_names()[:3], "torch" in sys.modules)

class CoOp: pass
TRAINER_REGISTRY.register(CoOp)
print(TRAINER_REGISTRY.get("CoOp").__module__)
""",
    )
    assert lines == ["['ZeroshotCLIP', 'ZeroshotCLIP2', 'CoOp'] False", "__main__"]


def test_without_a_host_dassl_is_our_toolbox_module_by_module():
    """No class exists twice, whichever name it is imported by, in whichever order; all keep the name of their home."""
    lines = run(
        "/",
        """
import importlib, pkgutil, sys
import mocoop
from mocoop.toolbox.dassl.data.datasets import Datum  # its home first
import dassl
print("torch" in sys.modules)
names = [module.name for module in pkgutil.walk_packages(dassl.__path__, "dassl.")]
print(len(names) > 30, "dassl.engine.trainer" in names)
for name in ["dassl", *names]:
    module = importlib.import_module(name)
    home = importlib.import_module("mocoop.toolbox." + name)
    assert module is home and module.__name__ == module.__spec__.name == "mocoop.toolbox." + name, name
    assert module.__spec__.loader is not sys.meta_path[0] and importlib.util.find_spec(name).name == home.__name__, name
import dassl.data.datasets
print(dassl.data.datasets.Datum is Datum, not any("toolbox" in entry for entry in sys.path))
try:
    import dassl.modeling.backbone
except ModuleNotFoundError as error:
    print(error)
""",
    )
    missing = "No module named 'dassl.modeling'"
    assert lines == ["False", "True True", "True True", missing]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_without_a_host_what_a_worker_gets_and_gives_is_of_the_same_classes(start, tmp_path):
    (tmp_path / "image.png").touch()
    (tmp_path / "worker.py").write_text(
        """
import multiprocessing
import sys

import mocoop
from dassl.data.datasets import Datum
from dassl.errors import WrongValue
from mocoop.toolbox.dassl.errors import ExpectedError

def work(datum):
    assert type(datum) is Datum
    try:
        raise WrongValue(datum.impath)
    except ExpectedError as error:
        return datum, error

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        datum, error = pool.apply(work, (Datum(impath="image.png", label=3),))
    print(type(datum) is Datum, datum.label, type(error) is WrongValue, error)
"""
    )
    call = [sys.executable, "worker.py", start]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("True 3 True image.png\n", "")
