"""`python -m mocoop <command>`, and `python <checkout> <command>` where nothing is installed."""

import runpy
import sys
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # the second is in processes that are spawned
    __spec__ = None  # so that those start with this file, by its path (they leave out a __main__ that has a spec)
    runpy.run_path(str(Path(__file__).resolve().with_name("checkout.py")))["bind_package"]()

if __name__ == "__main__":
    from mocoop.commands.main import main

    sys.exit(main())
