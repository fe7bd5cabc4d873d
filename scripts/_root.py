"""Put the repository on the import path; every script imports this first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before this folder

import lib  # noqa: F401 (before torch: Ctrl-C while it is imported ends by a sentence)
