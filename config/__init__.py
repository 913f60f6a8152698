"""How a config is declared (`keys`), read (`files`), merged (`merge`) and checked (`checks`).

Imports no torch and knows no method.
"""

from .checks import (
    CONFIGS,
    check,
    check_frozen,
    check_ignored,
    check_input,
    dataset_setting,
    fill_input,
    views_need_a_frozen_tower,
)
from .files import flat, parse_yaml, read_mapping, read_yaml
from .keys import KEYS, Key, extend_cfg
from .merge import ConfigError, compose, flatten, merge, parse_opts

__all__ = [
    "CONFIGS",
    "KEYS",
    "ConfigError",
    "Key",
    "check",
    "check_frozen",
    "check_ignored",
    "check_input",
    "compose",
    "extend_cfg",
    "fill_input",
    "flat",
    "flatten",
    "merge",
    "dataset_setting",
    "parse_opts",
    "parse_yaml",
    "read_mapping",
    "read_yaml",
    "views_need_a_frozen_tower",
]
