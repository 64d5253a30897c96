"""The tests in the folders below can import the helpers beside this file, such as `oracle` and `cases`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
