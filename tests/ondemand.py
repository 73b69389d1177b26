"""The app for Open OnDemand, rendered by Ruby as Open OnDemand does it, for a site of a test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
needs_ruby = pytest.mark.skipif(
    not (shutil.which("ruby") and shutil.which("modulecmd")),
    reason="no Ruby or no Environment Modules here",
)


class App:
    """The app, installed in a folder, with modules of a site.

    Parameters
    ----------
    folder : Path
        Empty.
    site : dict
        What is under ``dask_site`` in its site file.
    """

    def __init__(self, folder, site):
        self.app, self.staged, self.modules = folder / "app", folder / "staged", folder / "modules"
        shutil.copytree(
            ROOT / "integrations" / "ondemand" / "dask-site", self.app
        )  # links followed
        config = folder / "site.yaml"
        config.write_text(yaml.safe_dump({"dask_site": site}, sort_keys=False))
        self.modules.mkdir()
        path = f"prepend-path PATH {Path(sys.executable).parent}"
        for name, more in {"dask-site": f"setenv DASK_CONFIG {config}", "jupyter": ""}.items():
            (self.modules / name).write_text(f"#%Module1.0\n{path}\n{more}\n")
        self.staged.mkdir(0o700)
        # Tests may be root's, which Jupyter would refuse.
        (folder / "jupyter_config.json").write_text('{"ServerApp": {"allow_root": true}}')
        self.environment = {
            **os.environ,
            "MODULEPATH": str(self.modules),
            "JUPYTER_CONFIG_PATH": str(folder),
            "PYTHON": sys.executable,
        }

    def render(self, **given):
        """Render it for what a user has chosen; return the process, which has printed JSON."""
        command = ["ruby", ROOT / "tests" / "ondemand.rb", self.app, self.staged]
        command += [f"{name}={value}" for name, value in given.items()]
        return subprocess.run(command, capture_output=True, text=True, env=self.environment)
