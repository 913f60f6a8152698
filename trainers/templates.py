"""The hand-written templates that a config means: those of its data set unless it gives its own."""

from yacs.config import CfgNode

from ..config import dataset_setting

DEFAULT_TEMPLATE = "a photo of a {}."


def dataset_template(cfg: CfgNode) -> str:
    """TRAINER.ZSCLIP.TEMPLATE if given, else what our file of the data set says, else "a photo of a {}."."""
    key = "TRAINER.ZSCLIP.TEMPLATE"
    return cfg.TRAINER.ZSCLIP.TEMPLATE or dataset_setting(cfg.DATASET.NAME, key) or DEFAULT_TEMPLATE


def prompt_groups(cfg: CfgNode) -> list[list[str]]:
    """The template groups of the config's data set: MoCoOp's PROMPT_GROUPS, else the table's, else the general ones.

    Returns:
        G lists of templates with one "{}" each.
    """
    key = "TRAINER.MOCOOP.PROMPT_GROUPS"
    groups = (
        cfg.TRAINER.MOCOOP.PROMPT_GROUPS
        or dataset_setting(cfg.DATASET.NAME, key)
        or dataset_setting("ImageFolder", key)
    )
    return [list(group) for group in groups or []]
