"""What the ranks of one run do in `test_ranks.py`, and their start: by a process that has imported torch once."""

import multiprocessing
import os
from pathlib import Path
from queue import Empty

import mocoop
import torch
from mocoop.trainers import ranks

NAMES = ["red square", "green square", "a very blue square", "yellow square", "grey"]  # 5: 2 and 3 do not divide it
COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30), (120, 120, 120)]
GROUPS = [["a photo of a {}."], ["{} texture.", "a rendering of the {}."], ["a {} in a video game."]]
BATCHES = (5, 4, 1, 3)  # images: also fewer than ranks
LR = 0.02


def make_images(root):
    """Three training and three test images of every class."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for label, colour in enumerate(COLOURS):
        for i in range(6):
            noise = random.normal(0, 60, (40, 36, 3))
            Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(root / f"{label}_{i}.png")


def register():
    """The data set of these images."""
    from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

    class Shared(DatasetBase):
        all_classnames = [*NAMES, "white square", "black"]

        def __init__(self, cfg):
            paths = sorted(Path(cfg.DATASET.ROOT).glob("*.png"))
            items = [Datum(impath=str(p), label=int(p.name[0]), classname=NAMES[int(p.name[0])]) for p in paths]
            train, test = ([x for x in items if (int(x.impath[-5]) < 3) == first] for first in (True, False))
            super().__init__(train_x=train, val=test, test=test)

    if "Shared" not in DATASET_REGISTRY.registered_names():
        DATASET_REGISTRY.register(Shared)


def make_trainer(method, root, out, *opts):
    """A trainer of the tiny CLIP on these images: batches of 4 train (the last, smaller one is dropped) and test."""
    import mocoop.trainers.base as base
    from dassl.config import get_cfg_default
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed
    from mocoop.clip import Backbone, Preprocess, Tokenizer
    from mocoop.tests.conftest import build_tiny_clip

    register()
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(size=32, mean=half, std=half, interpolation="bicubic")
    base.load_backbone = lambda *_, **__: Backbone("tiny", build_tiny_clip(), preprocess, Tokenizer())
    cfg = get_cfg_default()
    mocoop.extend_cfg(cfg)
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.OUTPUT_DIR = "Shared", str(root), str(out)
    cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME = method, "tiny"
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (32, 32), "bicubic"
    cfg.INPUT.PIXEL_MEAN = cfg.INPUT.PIXEL_STD = [0.5, 0.5, 0.5]
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.OPTIM.NAME, cfg.OPTIM.LR, cfg.OPTIM.LR_SCHEDULER, cfg.OPTIM.MAX_EPOCH = "sgd", LR, "cosine", 4
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.DATALOADER.TEST.BATCH_SIZE = 0, 4, 4
    cfg.TRAINER.MOCOOP.PROMPT_GROUPS = GROUPS
    for node in ("MOCOOP", "COOP", "COCOOP", "LASP", "KGCOOP"):
        cfg.TRAINER[node].PREC = "fp32"
    cfg.TRAIN.CHECKPOINT_FREQ = 1
    cfg.merge_from_list(list(opts))
    set_random_seed(1)
    return build_trainer(cfg)


def twenty_steps(method, root, out, *opts):
    """Losses, first gradients and parameters of 20 steps, and what a test says of the first parameters."""
    trainer = make_trainer(method, root, out, *opts)
    logits, process = [], trainer.evaluator.process

    def spied(answer, label):
        logits.append(answer.clone())
        process(answer, label)

    trainer.evaluator.process = spied
    result = {"accuracy": trainer.test(), "logits": torch.cat(logits)}
    result["routing"] = trainer.extra_results()
    parameters = dict(trainer.model.named_parameters())
    if not parameters:
        return result
    torch.manual_seed(3)
    random = torch.Generator().manual_seed(4)
    trainer.set_model_mode("train")
    trainer.num_batches, losses = 10**6, []
    trainer.before_epoch()
    for step in range(20):
        size = BATCHES[step % len(BATCHES)]
        image = torch.randn(size, 3, 32, 32, generator=random)
        label = torch.randint(len(NAMES), (size,), generator=random)
        trainer.batch_idx = step
        losses.append(list(trainer.forward_backward({"img": image, "label": label}).values()))
        if step == 0:
            result["gradients"] = {name: p.grad.clone() for name, p in parameters.items()}
    state = {name: p.detach().clone() for name, p in parameters.items()}
    return result | {"losses": torch.tensor(losses), "state": state}


def whole_run(method, root, out, *opts):
    """Train with the trainer's own loop, to the end; gives the parameters and the number of the next draw."""
    trainer = make_trainer(method, root, out, *opts)
    trainer.train()
    state = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return {"state": state, "draw": torch.rand(()), "epoch": trainer.start_epoch}


def images_read(method, root, out):
    """Which images a test reads on this rank."""
    trainer = make_trainer(method, root, out)
    dataset, read = trainer.test_loader.dataset, []
    original = dataset._read
    dataset._read = lambda index: read.append(index) or original(index)
    trainer.test()
    return {"read": read}


def pieces():
    """`Ranks` on plain numbers."""
    own = ranks.here()
    whole = torch.arange(10.0).view(5, 2).requires_grad_()
    share = own.share(5)
    together = own.gather(whole[share] ** 2, 5)
    (together.sum() * 3).backward()
    whole = [whole]
    own.average_gradients(whole)
    unused = torch.zeros(2, requires_grad=True)
    some = torch.ones(2, requires_grad=True)
    some.grad = torch.tensor([float(own.rank), 1.0]) if own.rank else None
    own.average_gradients([unused, some])
    few = own.gather(torch.full((3, 1), float(own.rank)), 1, dim=1)  # one entry for all ranks
    dealt = list(own.dealt(iter([torch.tensor(i) for i in range(7)][own.rank :: own.size]), 7))
    return {
        "share": share,
        "gathered": together.detach(),
        "gradient": whole[0].grad,
        "unused": unused.grad,
        "some": some.grad,
        "few": few,
        "dealt": [int(x) for x in dealt],
    }


def be_a_rank(rank, size, store, tasks, answers):
    """One rank: do the tasks, and put what each gives."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MOCOOP_STORE=store)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if size > 1:
        ranks.meet()
        ranks.join(gpus=False)
    for number, (name, *arguments) in enumerate(tasks):
        answers.put((rank, number, to_numpy(globals()[name](*arguments))))
    if size > 1:
        ranks.leave()


def to_numpy(found):
    """Tensors as arrays: torch would send them through shared memory, which ends with this process."""
    if isinstance(found, dict):
        return {key: to_numpy(value) for key, value in found.items()}
    return found.numpy() if isinstance(found, torch.Tensor) else found


def on_ranks(size, tasks, store):
    """[task][rank]: what the tasks (name of a function here, its arguments) give on so many ranks.

    Args:
        store: a file that is not there yet.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mocoop.tests.trainers.shared_run", "mocoop.clip.upstream"])
    answers = context.Queue()
    started = [
        context.Process(target=be_a_rank, args=(rank, size, str(store), tasks, answers), daemon=True)
        for rank in range(size)
    ]
    for process in started:
        process.start()
    found = [[None] * size for _ in tasks]
    for _ in range(size * len(tasks)):
        try:
            rank, number, answer = answers.get(timeout=120)
        except Empty:
            raise AssertionError(f"exit codes {[process.exitcode for process in started]}") from None
        found[number][rank] = answer
    for process in started:
        process.join(60)
    return found
