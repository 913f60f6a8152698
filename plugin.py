"""How mocoop works with Dassl: use an installed one or our own, register what is missing, add our config keys."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from yacs.config import CfgNode

from . import config, methods

TOOLBOX = f"{__package__}.toolbox.dassl"  # what serves as Dassl where none is installed

# Registry name of a data set -> module and class. (Methods: `methods.py`.)
DATASETS = {
    "ImageNet": "mocoop.datasets.imagenet:ImageNet",
    "Caltech101": "mocoop.datasets.caltech101:Caltech101",
    "OxfordPets": "mocoop.datasets.oxford_pets:OxfordPets",
    "StanfordCars": "mocoop.datasets.stanford_cars:StanfordCars",
    "OxfordFlowers": "mocoop.datasets.oxford_flowers:OxfordFlowers",
    "Food101": "mocoop.datasets.food101:Food101",
    "FGVCAircraft": "mocoop.datasets.fgvc_aircraft:FGVCAircraft",
    "SUN397": "mocoop.datasets.sun397:SUN397",
    "DescribableTextures": "mocoop.datasets.dtd:DescribableTextures",
    "EuroSAT": "mocoop.datasets.eurosat:EuroSAT",
    "UCF101": "mocoop.datasets.ucf101:UCF101",
    "ImageNetV2": "mocoop.datasets.imagenetv2:ImageNetV2",
    "ImageNetSketch": "mocoop.datasets.imagenet_sketch:ImageNetSketch",
    "ImageNetA": "mocoop.datasets.imagenet_a:ImageNetA",
    "ImageNetR": "mocoop.datasets.imagenet_r:ImageNetR",
    "ImageFolder": "mocoop.datasets.image_folder:ImageFolder",
    "DemoIcons": "mocoop.datasets.demo_icons:DemoIcons",
    "DemoSymbols": "mocoop.datasets.demo_icons:DemoSymbols",
    "DemoObjects": "mocoop.datasets.demo_icons:DemoObjects",
    "DemoIconsSketch": "mocoop.datasets.demo_icons:DemoIconsSketch",
    "DemoIconsPixel": "mocoop.datasets.demo_icons:DemoIconsPixel",
    "DemoIconsTilted": "mocoop.datasets.demo_icons:DemoIconsTilted",
    "MiniThings": "mocoop.datasets.miniature:MiniThings",
    "MiniEmoji": "mocoop.datasets.miniature:MiniEmoji",
    "MiniLogos": "mocoop.datasets.miniature:MiniLogos",
    "MiniFlags": "mocoop.datasets.miniature:MiniFlags",
    "MiniLetters": "mocoop.datasets.miniature:MiniLetters",
    "MiniGreek": "mocoop.datasets.miniature:MiniGreek",
    "MiniHebrew": "mocoop.datasets.miniature:MiniHebrew",
    "MiniSky": "mocoop.datasets.miniature:MiniSky",
    "MiniMath": "mocoop.datasets.miniature:MiniMath",
    "MiniMusic": "mocoop.datasets.miniature:MiniMusic",
    "MiniThingsPixel": "mocoop.datasets.miniature:MiniThingsPixel",
    "MiniThingsNoise": "mocoop.datasets.miniature:MiniThingsNoise",
    "MiniThingsTilted": "mocoop.datasets.miniature:MiniThingsTilted",
}


class StandIn:
    """Finder and loader of `dassl` and all its modules where `mocoop.toolbox.dassl` serves as Dassl.

    Both names lead to the same module objects, so no class exists twice. A module is imported when it is asked for, and
    keeps the name, package and spec that it has in `mocoop.toolbox`.
    """

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of a module of `dassl`; None for any other module and for one that does not exist."""
        if name.partition(".")[0] != "dassl" or importlib.util.find_spec(home_of(name)) is None:
            return None
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system to make a module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Replace the module by the one in `mocoop.toolbox` (allowed while a module is being loaded)."""
        sys.modules[module.__name__] = importlib.import_module(home_of(module.__name__))


def home_of(name: str) -> str:
    """Where a module of `dassl` is in this package."""
    return TOOLBOX + name.removeprefix("dassl")


def provide_dassl() -> None:
    """Make `import dassl` work: an installed Dassl is used; where there is none, `dassl` is `mocoop.toolbox.dassl`."""
    if "dassl" not in sys.modules and importlib.util.find_spec("dassl") is None:
        sys.meta_path.insert(0, StandIn())  # before the finder of files, which would load a second copy


def usable_methods() -> list[methods.Method]:
    """All methods; only ours if another package brings one that cannot be used.

    (`import mocoop` must not fail then, as that package itself may be importing it. Every command reports the error.)
    """
    try:
        return list(methods.table().values())
    except methods.MethodError:
        return list(methods.OURS)


def trainer_targets() -> dict[str, str]:
    """Name of every method -> "module:class" of its trainer."""
    return {row.name: row.trainer for row in usable_methods()}


def missing_in_coop() -> list[str]:
    """The methods that a CoOp checkout lacks: `import mocoop` registers only these there; the others would collide."""
    return [row.name for row in usable_methods() if not row.in_coop]


def register(everything: bool = False) -> None:
    """Register our trainers and data sets with Dassl; a name that the host registers, before or after, is the host's.

    Args:
        everything: with a real Dassl, register every name of both tables that is still free, not only what a CoOp
            checkout lacks. (With our own toolbox all names are always known, lazily, and any class that the host
            registers under one of them wins.)
    """
    trainers = importlib.import_module("dassl.engine.build").TRAINER_REGISTRY
    datasets = importlib.import_module("dassl.data.datasets.build").DATASET_REGISTRY
    lazy = hasattr(trainers, "register_lazy")
    for registry, table in ((trainers, trainer_targets()), (datasets, DATASETS)):
        for name, target in table.items():
            if lazy:
                registry.register_lazy(name, target)
            elif (everything or name in missing_in_coop()) and name not in registry.registered_names():
                try:
                    ours = methods.load_class(target)
                except (ImportError, AttributeError):
                    if everything or target.startswith(f"{__package__}."):
                        raise
                    continue  # a broken package, or one that imports mocoop while being imported itself
                registry.register(ours)
                give_way(registry, ours)


def give_way(registry: Any, ours: type) -> None:
    """Let the host register its own class under the name of `ours` later: Dassl refuses a name that is taken.

    Args:
        registry: one of Dassl's, in which `ours` stands; only this object's `register` changes.
        ours: a class of this project.
    """
    register = registry.register

    def register_later(obj: Any = None, force: bool = False) -> Callable | None:
        if obj is None:
            return lambda target: (register_later(target, force), target)[1]
        return register(obj, force or (obj.__name__ == ours.__name__ and registry.get(obj.__name__) is ours))

    registry.register = register_later


def extend_cfg(cfg: CfgNode) -> None:
    """Add to a Dassl config the keys that mocoop reads and that it lacks; present keys are left alone (idempotent).

    Args:
        cfg: an unfrozen yacs `CfgNode` from `dassl.config.get_cfg_default()`.
    """
    config.extend_cfg(cfg, all_keys())


def all_keys() -> dict[str, config.Key]:
    """Every config key that we add to Dassl's: those of no single method, then those of the methods."""
    return config.KEYS | methods.keys()
