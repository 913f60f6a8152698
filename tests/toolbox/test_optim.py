"""Learning-rate formulae against hand arithmetic and torch's own schedulers; optimiser settings."""

import math

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer

# dassl-api, section 9: LR 0.002, 10 epochs, one constant warm-up epoch.
WORKED = [1e-5, 2e-3, 1.95106e-3, 1.80902e-3, 1.58779e-3, 1.30902e-3, 1e-3, 6.90983e-4, 4.12215e-4, 1.90983e-4]


def optim_cfg(**settings):
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR = "sgd", 0.002
    for name, value in settings.items():
        cfg[name] = value
    return cfg


def rates(cfg, epochs=10, builder=build_lr_scheduler, factors=(1.0,)):
    """The learning rates per epoch, one list a group."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": cfg.LR * factor} for factor in factors]
    optimizer = torch.optim.SGD(groups, lr=cfg.LR)
    schedule = builder(optimizer, cfg)
    seen = []
    for _ in range(epochs):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return [list(column) for column in zip(*seen, strict=True)]


def test_worked_example_of_constant_warmup():
    cfg = optim_cfg(LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="constant")
    assert rates(cfg)[0] == pytest.approx(WORKED, rel=1e-5)


def test_constant_warmup_is_the_same_for_every_group():
    cfg = optim_cfg(LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="constant")
    slow, full = rates(cfg, factors=(0.1, 1.0))
    assert slow[0] == full[0] == 1e-5
    assert slow[1:] == pytest.approx([0.1 * rate for rate in full[1:]])


def test_linear_warmup_takes_the_minimum_at_epoch_0_only():
    cfg = optim_cfg(LR_SCHEDULER="cosine", WARMUP_EPOCH=4, WARMUP_TYPE="linear", WARMUP_MIN_LR=1e-5)
    assert rates(cfg, 5)[0] == pytest.approx([1e-5, 0.002 / 4, 0.002 / 2, 0.002 * 3 / 4, 0.002])


def test_cosine_without_recount():
    cfg = optim_cfg(LR_SCHEDULER="cosine", WARMUP_EPOCH=3, WARMUP_TYPE="constant", WARMUP_RECOUNT=False)

    def expected(e):
        return 0.002 * (1 + math.cos(math.pi * e / 10)) / (1 + math.cos(math.pi * 3 / 10))

    assert rates(cfg)[0] == pytest.approx([1e-5] * 3 + [expected(e) for e in range(3, 10)])
    assert rates(cfg)[0][3] == 0.002


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(LR_SCHEDULER="single_step", STEPSIZE=(3,)), [1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (dict(LR_SCHEDULER="single_step", STEPSIZE=(-1,)), [1] * 8),
        (dict(LR_SCHEDULER="multi_step", STEPSIZE=(2, 5)), [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        (dict(LR_SCHEDULER="single_step", STEPSIZE=(3,), WARMUP_EPOCH=2), [None, None, 1, 1, 1, 0.1, 0.1, 0.1]),
        (dict(LR_SCHEDULER="multi_step", STEPSIZE=(2, 5), WARMUP_EPOCH=1), [None, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        # Without RECOUNT multiples and milestones count from epoch 0, but those up to the warm-up never fire.
        (
            dict(LR_SCHEDULER="single_step", STEPSIZE=(2,), WARMUP_EPOCH=3, WARMUP_RECOUNT=False),
            [None, None, None, 1, 0.1, 0.1, 0.01, 0.01],
        ),
        (
            dict(LR_SCHEDULER="multi_step", STEPSIZE=(2, 3, 5), WARMUP_EPOCH=3, WARMUP_RECOUNT=False),
            [None, None, None, 1, 1, 0.1, 0.1, 0.1],
        ),
    ],
)
def test_step_schedules(settings, expected):
    cfg = optim_cfg(**{"WARMUP_TYPE": "constant", **settings})
    assert rates(cfg, 8)[0] == pytest.approx([1e-5 if e is None else 0.002 * e for e in expected])


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        (dict(LR_SCHEDULER="cosine"), lambda o, _: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)),
        (dict(LR_SCHEDULER="single_step", STEPSIZE=4), lambda o, _: torch.optim.lr_scheduler.StepLR(o, 4, 0.1)),
        (
            dict(LR_SCHEDULER="multi_step", STEPSIZE=(1, 7)),
            lambda o, _: torch.optim.lr_scheduler.MultiStepLR(o, [1, 7], 0.1),
        ),
    ],
)
def test_without_warmup_equals_torch(settings, own):
    cfg = optim_cfg()
    for name, value in settings.items():
        cfg[name] = value
    assert rates(cfg, factors=(1.0, 0.1)) == [
        pytest.approx(group, abs=1e-12) for group in rates(cfg, builder=own, factors=(1.0, 0.1))
    ]


def test_state_is_plain_and_restores_the_schedule_beside_another_dassl(tmp_path):
    from mocoop.toolbox.dassl.optim import build_lr_scheduler as beside

    cfg = optim_cfg(LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="constant")

    def fresh():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.LR)
        return optimizer, beside(optimizer, cfg)

    optimizer, schedule = fresh()
    for _ in range(4):
        optimizer.step()
        schedule.step()
    torch.save(schedule.state_dict(), tmp_path / "s.pt")
    state = torch.load(tmp_path / "s.pt", weights_only=True)
    assert all(isinstance(value, (int, float, list)) for value in state.values())
    again, resumed = fresh()
    resumed.load_state_dict(state)
    seen = []
    for _ in range(6):
        seen.append(again.param_groups[0]["lr"])
        again.step()
        resumed.step()
    assert seen == pytest.approx(WORKED[4:], rel=1e-5)
    two = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=0.1)
    with pytest.raises(ValueError, match="2 parameter groups, found 1"):
        beside(two, cfg).load_state_dict(state)


def test_errors_of_schedules():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for settings, error in (
        (dict(LR_SCHEDULER="cosin"), ValueError),
        (dict(LR_SCHEDULER="cosine", WARMUP_EPOCH=1, WARMUP_TYPE="const"), ValueError),
        (dict(LR_SCHEDULER="single_step", STEPSIZE=(1.5,)), TypeError),
        (dict(LR_SCHEDULER="multi_step", STEPSIZE=3), TypeError),
    ):
        with pytest.raises(error):
            build_lr_scheduler(optimizer, optim_cfg(**settings))


def test_optimisers_and_their_settings():
    model = torch.nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    kinds = dict(sgd="SGD", adam="Adam", amsgrad="Adam", adamw="AdamW", radam="RAdam", rmsprop="RMSprop")
    for name, kind in kinds.items():
        optimizer = build_optimizer(model, optim_cfg(NAME=name, LR=0.5, SGD_DAMPNING=0.25, RMSPROP_ALPHA=0.5))
        (group,) = optimizer.param_groups
        assert type(optimizer).__name__ == kind and len(group["params"]) == 2  # the frozen bias too
        assert (group["lr"], group["weight_decay"]) == (0.5, 5e-4)
        if name == "sgd":
            assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.9, 0.25, False)
        elif name == "rmsprop":
            assert (group["momentum"], group["alpha"]) == (0.9, 0.5)
        else:
            assert tuple(group["betas"]) == (0.9, 0.999) and group.get("amsgrad", False) == (name == "amsgrad")
    with pytest.raises(ValueError, match="sgd"):
        build_optimizer(model, optim_cfg(NAME="sdg"))


def test_parameter_groups_iterables_and_staged_rates():
    model = torch.nn.Sequential()
    model.add_module("old", torch.nn.Linear(2, 2))
    model.add_module("new", torch.nn.Linear(2, 1))
    assert len(build_optimizer(model.parameters(), optim_cfg()).param_groups[0]["params"]) == 4
    groups = [{"params": model.old.parameters(), "lr": 0.1}, {"params": model.new.parameters()}]
    staged = optim_cfg(STAGED_LR=True, NEW_LAYERS="new")
    with pytest.warns(UserWarning, match="STAGED_LR"):
        assert [g["lr"] for g in build_optimizer(model, staged, groups).param_groups] == [0.1, 0.002]
    old, new = build_optimizer(model, staged).param_groups
    assert (old["lr"], new["lr"]) == (pytest.approx(0.0002), 0.002) and new["params"][0] is model.new.weight
    with pytest.raises(TypeError, match="STAGED_LR"):
        build_optimizer(model.parameters(), staged)
