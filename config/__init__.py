"""How a config is declared (`keys`), merged (`merge`) and checked (`checks`). Imports no torch and knows no method."""

from .checks import CONFIGS, check, check_frozen, check_input, fill_input, of_dataset, views_need_a_frozen_tower
from .keys import KEYS, Key, extend_cfg
from .merge import ConfigError, compose, flatten, merge, nearest, parse_opts, read_yaml

__all__ = [
    "CONFIGS",
    "KEYS",
    "ConfigError",
    "Key",
    "check",
    "check_frozen",
    "check_input",
    "compose",
    "extend_cfg",
    "fill_input",
    "flatten",
    "merge",
    "nearest",
    "of_dataset",
    "parse_opts",
    "read_yaml",
    "views_need_a_frozen_tower",
]
