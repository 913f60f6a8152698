"""Train or test one method on one data set: the command line of the CoOp family.

    python train.py --root data --trainer MoCoOp --seed 1 --output-dir output/try \
        --dataset-config-file configs/datasets/eurosat.yaml \
        --config-file configs/trainers/MoCoOp/vit_b16_ep300_batch32.yaml DATASET.NUM_SHOTS 16

A config is merged in this order, later ones win: the data set's file, the method's file, the arguments, the KEY VALUE
pairs at the end. Unlike CoOp's, everything wrong with it is reported at once before torch is even imported, seed 0 is a
seed, no --seed keeps the config's SEED, and an output folder that holds a run with another config is refused.
"""

import argparse
import os
import runpy
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent


if __name__ in ("__main__", "__mp_main__"):  # the second is a data loader's worker where processes are spawned
    runpy.run_path(str(ROOT / "checkout.py"))["bind_package"]()


def build_parser() -> argparse.ArgumentParser:
    """CoOp's arguments. The help lists methods, data sets and where their configs are."""
    from mocoop import methods

    datasets = ", ".join(sorted(path.stem for path in (ROOT / "configs/datasets").glob("*.yaml")))
    parser = argparse.ArgumentParser(
        description="Train or test one method on one data set.",
        epilog="Files are merged first (data set, method), then the arguments, then the KEY VALUE pairs.",
    )
    add = parser.add_argument
    add("--root", help="folder that holds the data sets")
    add("--output-dir", help="folder for everything this run writes")
    add("--resume", help="folder of a run to continue (without it, a run in --output-dir is continued by itself)")
    add("--seed", type=int, help="a whole number, 0 included; negative = unseeded")
    add("--source-domains", nargs="+", help="kept for CoOp's command lines; our data sets have no domains")
    add("--target-domains", nargs="+", help="see --source-domains")
    add("--transforms", nargs="+", help="training augmentation, e.g. random_resized_crop random_flip normalize")
    add("--config-file", help="the method's config, configs/trainers/METHOD/NAME.yaml (found from any folder)")
    add("--dataset-config-file", help=f"the data set's config, configs/datasets/NAME.yaml; there are {datasets}")
    add("--trainer", help=f"the method: {', '.join(methods.table())}")
    add("--backbone", help="ViT-B/16, RN50, demo, ViT-B-16/laion2b_s34b_b88k, ...")
    add("--head", help="kept for CoOp's command lines")
    add("--eval-only", action="store_true", help="test the model in --model-dir, do not train")
    add("--model-dir", help="run folder whose model --eval-only tests")
    add("--load-epoch", type=epochs, help="epoch of that model, or several: 5,10,50 (default: the last that was saved)")
    add(
        "--gpus",
        type=count,
        default=1,
        metavar="N",
        help="processes that share the run, each on a GPU (docs/RANKS.md)",
    )
    add("--no-train", action="store_true", help="build everything, then stop")
    add("--unless-done", action="store_true", help=argparse.SUPPRESS)  # for a run that another process may have done
    add("opts", nargs="*", metavar="KEY VALUE", help="config keys to change, e.g. DATASET.NUM_SHOTS 16 OPTIM.LR 0.002")
    return parser


def count(text: str) -> int:
    """The value of --gpus."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def epochs(text: str) -> list[int]:
    """The value of --load-epoch: 50, or several with commas between."""
    return [int(number) for number in text.split(",")]


ARGUMENT_KEYS = {
    "root": "DATASET.ROOT",
    "output_dir": "OUTPUT_DIR",
    "resume": "RESUME",
    "seed": "SEED",
    "source_domains": "DATASET.SOURCE_DOMAINS",
    "target_domains": "DATASET.TARGET_DOMAINS",
    "transforms": "INPUT.TRANSFORMS",
    "trainer": "TRAINER.NAME",
    "backbone": "MODEL.BACKBONE.NAME",
    "head": "MODEL.HEAD.NAME",
}


def from_arguments(args: argparse.Namespace) -> dict[str, object]:
    """The config keys that the given arguments set (CoOp skips falsy ones, hence seed 0)."""
    given = {key: getattr(args, name) for name, key in ARGUMENT_KEYS.items()}
    return {key: value for key, value in given.items() if value is not None}


def locate(path: str) -> Path:
    """A config file: as given, or `configs/...` of the package when it is used from another folder."""
    ours = ROOT / path
    return ours if not Path(path).exists() and ours.is_file() else Path(path)


def build_config(args: argparse.Namespace):  # noqa: ANN201 (yacs is imported inside)
    """The frozen config of this command line, and Dassl's and our defaults.

    Raises:
        ConfigError: listing everything that is wrong.
    """
    from mocoop import config
    from mocoop.plugin import all_keys

    layers = [("arguments", lambda: from_arguments(args)), ("options", lambda: config.parse_opts(args.opts))]
    for path in (args.config_file, args.dataset_config_file):  # the data set's file comes first in the end
        if path is not None:
            layers.insert(0, (path, lambda path=path: config.read_yaml(locate(path))))
    cfg, seen, problems = config.compose(layers, all_keys())
    problems += config.check(cfg, registered_names(), all_keys())
    problems += check_backbone(cfg, seen) + check_evaluation(args, cfg)
    if problems:
        raise config.ConfigError(problems)
    cfg.freeze()
    return cfg, config.compose([], all_keys())[0]


def config_of(argv: Sequence[str]):  # noqa: ANN201
    """The config of a run with this command line, and the defaults; the model that it tested may no longer exist.

    Raises:
        ConfigError: listing everything that is wrong.
    """
    args = build_parser().parse_intermixed_args(argv)
    args.eval_only, args.model_dir = False, None
    return build_config(args)


def registered_names() -> dict[str, list[str]]:
    """Config key -> the names that are registered for it; with our own toolbox this imports no torch."""
    from dassl.data.datasets.build import DATASET_REGISTRY
    from dassl.engine.build import TRAINER_REGISTRY
    from dassl.evaluation.build import EVALUATOR_REGISTRY
    from mocoop import register

    register(everything=True)
    return {
        "TRAINER.NAME": TRAINER_REGISTRY.registered_names(),
        "DATASET.NAME": DATASET_REGISTRY.registered_names(),
        "TEST.EVALUATOR": EVALUATOR_REGISTRY.registered_names(),
    }


def check_backbone(cfg, seen: set[str]) -> list[str]:  # noqa: ANN001
    """Problems with the backbone's name, or with an INPUT that is not what it was trained with.

    INPUT keys that are not set yet are set here. A host's own trainer, which may know other backbones, is not checked.

    Args:
        cfg: unfrozen config.
        seen: the keys that a file or an option has set.
    """
    from dassl.engine.build import TRAINER_REGISTRY
    from mocoop import clip, config
    from mocoop.methods import table
    from mocoop.toolbox.dassl.errors import ExpectedError

    name = cfg.MODEL.BACKBONE.NAME
    if cfg.TRAINER.NAME not in table() and cfg.TRAINER.NAME in TRAINER_REGISTRY.registered_names():
        return []
    if not name:
        return ["MODEL.BACKBONE.NAME is not set: give --config-file or --backbone"]
    try:
        preprocess = clip.preprocess_of(name)
    except (ExpectedError, OSError) as error:
        return [f"MODEL.BACKBONE.NAME: {error}"]
    config.fill_input(cfg, preprocess, seen)
    row = table().get(cfg.TRAINER.NAME)
    key = row.tunes_image_path if row else ""
    problems = config.check_input(cfg, preprocess, name) + config.check_ignored(cfg)
    return problems + config.check_frozen(cfg, key, clip.is_resnet(name))


def check_evaluation(args: argparse.Namespace, cfg) -> list[str]:  # noqa: ANN001
    """Problems with what is to be tested."""
    from mocoop.methods import untrained
    from mocoop.toolbox.dassl.files import saved_epochs

    problems = []
    if args.eval_only and not args.model_dir and cfg.TRAINER.NAME not in untrained():
        problems.append("--eval-only needs --model-dir: the output folder of the run whose model is to be tested")
    if args.model_dir and not Path(args.model_dir).is_dir():
        problems.append(f"--model-dir {args.model_dir} does not exist; train first, or give the run's output folder")
    if not args.eval_only or not args.model_dir or cfg.TRAINER.NAME in untrained():
        return problems
    saved = sorted({epoch for model in Path(args.model_dir).glob("*/") for epoch in saved_epochs(model)})
    for epoch in sorted(set(args.load_epoch or []) - set(saved)):
        problems.append(f"--load-epoch {epoch}: --model-dir has epochs {saved or 'none'} (TRAIN.CHECKPOINT_FREQ)")
    return problems


def print_settings(args: argparse.Namespace, cfg, device: str) -> None:  # noqa: ANN001
    """A short header for the console; arguments, config and environment, in CoOp's form, for the log."""
    from dassl.utils import collect_env_info

    print(header(args, cfg, device))
    given = "\n".join(f"{name}: {getattr(args, name)}" for name in sorted(vars(args)))
    text = f"***************\n** Arguments **\n***************\n{given}\n"
    text += f"************\n** Config **\n************\n{cfg}\n"
    text += f"Collecting env info ...\n** System info **\n{collect_env_info()}\n"
    if hasattr(sys.stdout, "write_file"):  # our logger, which names the file if the disk is full
        sys.stdout.write_file(text + "\n")
    else:  # Dassl's, if it has a file
        print(text, file=getattr(sys.stdout, "file", None) or sys.stdout)


def header(args: argparse.Namespace, cfg, device: str) -> str:  # noqa: ANN001
    """Two lines: what runs, and where its output goes."""
    from mocoop.methods import untrained

    trains = not args.eval_only and cfg.TRAINER.NAME not in untrained()
    what = [f"{cfg.TRAINER.NAME} on {cfg.DATASET.NAME}"]
    if cfg.DATASET.SUBSAMPLE_CLASSES != "all":
        what.append(f"{cfg.DATASET.SUBSAMPLE_CLASSES} classes")
    if trains:
        shots = cfg.DATASET.NUM_SHOTS
        what.append(f"{shots} shot{'s' * (shots != 1)}" if shots > 0 else "all training images")
    what.append(f"seed {cfg.SEED}" if cfg.SEED >= 0 else "no seed")
    task = f"{cfg.OPTIM.MAX_EPOCH} epochs" if trains else f"test of {args.model_dir}" if args.model_dir else "test"
    lines = [f"{', '.join(what)}: {task}, backbone {cfg.MODEL.BACKBONE.NAME}, {device}"]
    if cfg.OUTPUT_DIR:
        lines.append(f"{cfg.OUTPUT_DIR}: log.txt gets everything that is printed, config.yaml all settings")
    return "\n".join(lines)


def prepare_device(use_cuda: bool) -> str:
    """Set up the device (cuDNN's search for fast kernels, as in CoOp; a CPU's memory); returns its name."""
    import torch
    from mocoop.toolbox.dassl.utils import keep_freed_memory
    from mocoop.trainers import ranks

    others = f" x {ranks.here().size} processes" if ranks.here().size > 1 else ""
    if not (torch.cuda.is_available() and use_cuda):
        keep_freed_memory()
        return f"cpu ({torch.get_num_threads()} threads){others}"
    torch.backends.cudnn.benchmark = True
    return f"{torch.cuda.get_device_name()}{others}"


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """One run, from arguments to `DONE`; returns the exit code."""
    began = time.time()
    cfg, defaults = build_config(args)
    from mocoop.runs import folder as runs
    from mocoop.runs import together

    if args.gpus > 1 and not together.together():
        from mocoop.runs.launch import launch

        return launch(main, argv, args.gpus, Path(cfg.RESUME or cfg.OUTPUT_DIR), cfg.USE_CUDA)
    with together.joined(cfg), together.claimed(cfg, defaults) as folder:
        model = Path(args.model_dir) if args.model_dir else None
        if args.unless_done and not together.together() and runs.up_to_date(folder, model):
            print(f"done already: {folder}")
            return 0
        try:
            compute(args, cfg, folder, began)
        except KeyboardInterrupt:
            if args.eval_only:
                raise
            raise KeyboardInterrupt(runs.how_to_continue(Path(cfg.RESUME or folder))) from None
    return 0


def compute(args: argparse.Namespace, cfg, folder: Path, began: float) -> None:  # noqa: ANN001
    """Do a run in its folder.

    Args:
        args, cfg: of the command line.
        folder: claimed and held for this run.
        began: time.time() at its start.
    """
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed, setup_logger
    from mocoop.methods import untrained
    from mocoop.runs import folder as runs
    from mocoop.toolbox.dassl.utils import brief
    from mocoop.trainers import ranks

    if cfg.SEED >= 0:
        set_random_seed(cfg.SEED)
    ranks.here().draw_alike()
    device = prepare_device(cfg.USE_CUDA)
    if ranks.here().first:
        setup_logger(cfg.OUTPUT_DIR)
        runs.start(folder, cfg, runs.environment(device, model_dir=args.model_dir))
        print_settings(args, cfg, device)
    with brief():
        trainer = build_trainer(cfg)
    if hasattr(trainer, "precision") and ranks.here().first:
        runs.add_to_environment(folder, precision=trainer.precision)
    if hasattr(trainer, "write_settings"):
        trainer.write_settings(folder)
    if cfg.TRAINER.NAME in untrained():
        trainer.test()
    elif args.eval_only:
        test_epochs(trainer, args, folder)
    elif args.no_train:
        return
    else:
        trainer.train()
    if ranks.here().first:
        runs.finish(folder, time.time() - began)


def test_epochs(trainer, args: argparse.Namespace, folder: Path) -> None:  # noqa: ANN001
    """Test the model in --model-dir at every --load-epoch; several epochs have an entry each in results.json."""
    from mocoop.trainers import ranks, records

    if args.load_epoch is None:
        note_unfinished(Path(args.model_dir))
    if first := ranks.here().first:
        records.drop_epoch_results(folder, trainer.cfg.TEST.SPLIT)
    for epoch in args.load_epoch or [None]:
        trainer.load_model(args.model_dir, epoch=epoch)
        trainer.test()
        if first and len(args.load_epoch or []) > 1:
            records.keep_epoch_result(folder, trainer.cfg.TEST.SPLIT, epoch)


def note_unfinished(model_dir: Path) -> None:
    """Print a note if the tested run is not finished, so that its last saved epoch is tested."""
    from mocoop.runs.folder import is_finished
    from mocoop.toolbox.dassl.files import DONE
    from mocoop.trainers.records import CONFIG

    if (model_dir / CONFIG).is_file() and not is_finished(model_dir):
        print(f"Note: the run in {model_dir} is not finished (no {DONE}); its last saved epoch is tested")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. An expected error is one message, any other keeps its traceback."""
    from mocoop.runs import together

    argv = list(sys.argv[1:] if argv is None else argv)
    if wrong := together.wrong_environment():
        print(f"\nError: {wrong}", file=sys.stderr)
        return 1
    try:
        with together.quiet():
            return run(build_parser().parse_intermixed_args(argv), argv)
    except KeyboardInterrupt as stop:
        again = stop.args[0] if stop.args else "The same command again starts anew."
        if together.has_the_word(stop):
            print(f"\nInterrupted. {again}", file=sys.stderr)
        return 130
    except Exception as error:
        from mocoop.runs.errors import explain

        if not together.has_the_word(error):
            return 1
        message = explain(error)
        if message is None or os.environ.get("MOCOOP_TRACEBACK"):
            traceback.print_exc()
        if message is not None:
            print(f"\nError: {message}", file=sys.stderr)
        give_up_broken_output()
        return 1


def give_up_broken_output() -> None:
    """If stdout is full or closed, keep Python from failing again (with exit code 120) when it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
