"""mocoop: the mixture of prompts (MoCoOp) for CLIP, with its baselines, as a plugin of the Dassl/CoOp toolbox.

Importing this package makes `dassl` importable and registers what the host lacks; see `mocoop.plugin`.
"""

from .plugin import extend_cfg, provide_dassl, register

__version__ = "0.1.0"
__all__ = ["extend_cfg", "register", "__version__"]

provide_dassl()
register()
