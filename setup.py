"""Builds the package as pyproject.toml says, with the experiments of configs/ inside it as jaxhand/configs/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Copies configs/ into a wheel; an editable install reads the folder where it is."""

    def run(self):
        """Build the package, then add the experiments."""
        super().run()
        if not self.editable_mode:
            packaged = Path(self.build_lib, "jaxhand", "configs")
            shutil.copytree("configs", packaged, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildPy})
