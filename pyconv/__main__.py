"""`python -m pyconv` is the command `pyconv`; --includes and --cmakedir are for build systems."""

import sys

from pyconv import get_cmake_dir, get_include
from pyconv.cli import main

_PATHS = {"--includes": f"-I{get_include()}", "--cmakedir": get_cmake_dir()}

if sys.argv[1:] and all(argument in _PATHS for argument in sys.argv[1:]):
    print(*(_PATHS[argument] for argument in sys.argv[1:]))
else:
    sys.exit(main())
