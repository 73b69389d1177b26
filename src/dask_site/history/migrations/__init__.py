"""The steps from one form of the store to the next, and back."""

from pathlib import Path

#: The newest: what this release reads and writes. Versions ascend.
HEAD = "0003"
#: Where the steps are.
FOLDERS = [Path(__file__).parent / "versions"]
