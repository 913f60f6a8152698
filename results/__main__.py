"""`python -m mocoop.results`."""

import sys

from ..checkout import bind_package
from .command import main

if __name__ == "__main__":
    bind_package()
    sys.exit(main())
