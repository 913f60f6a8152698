"""What every file that can be started does first: make `mocoop` mean this checkout, without hiding other packages.

Such files run this one by its path, since there is no package yet to import anything from.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def bind_package() -> None:
    """Make `mocoop` mean this checkout, installed or not, and keep its folders from hiding other packages.

    Python puts a script's folder (or, with -m, the working directory) on the path, where our `clip` and `datasets`
    would be found instead of the packages of these names that other libraries look for.
    """
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
    if "mocoop" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "mocoop", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        sys.modules["mocoop"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["mocoop"])
