"""`python -m pyconv` is the command `pyconv`."""

import sys

from pyconv.cli import main

sys.exit(main())
