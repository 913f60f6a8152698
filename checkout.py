"""What every file that is started does first: `mocoop` means this very checkout, and hides nobody's packages.

Run by its path from the files that are started by theirs, before there is a package to import anything from.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def bind_package() -> None:
    """Make `mocoop` mean this very checkout, installed or not, and keep its folders from hiding others' packages.

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
