"""The part of Dassl's API that a CoOp-family plugin uses, for machines without Dassl.

Written from a description of Dassl 0.6.3's behaviour; it keeps what plugins, caches and log parsers rely on (import
paths, config keys, order of random draws, learning-rate formulae, checkpoint tree, log lines) and repairs what is
broken on current torch. No backbones, no domain-adaptation trainers. Importing it is light: torch comes with the first
name that needs it.
"""

__version__ = "0.6.3+mocoop"
