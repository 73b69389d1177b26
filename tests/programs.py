"""Programs of this repository that are no modules of the package, for tests of what is in them."""

import importlib.util
import sys


def load(path):
    """Load a program as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module
