"""``python -m sfpose`` is the ``sfpose`` command."""

import sys

from sfpose.cli import main

if __name__ == "__main__":
    sys.exit(main())
