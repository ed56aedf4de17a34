"""So that tests of this folder can import pods_node."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
