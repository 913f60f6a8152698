"""`python -m mocoop <command>`, and `python <checkout> <command>` where nothing is installed."""

import runpy
import sys
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # train.py's guard of the import path
    runpy.run_path(str(Path(__file__).resolve().parent / "train.py"), run_name="__mp_main__")

from mocoop.commands.main import main  # noqa: E402 (after the guard)

if __name__ == "__main__":
    sys.exit(main())
