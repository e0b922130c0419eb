"""A virtual environment as a user has it: the product is there, and pip installs packages of his own beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[3]


class Environment:
    """An empty environment that also sees what this one has; pip needs no registry for it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        venv.create(folder, with_pip=False, symlinks=True)
        site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
        (site / "product.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
        (self.bin / "ruff").symlink_to(Path(sysconfig.get_path("scripts")) / "ruff")
        for name, module in (("headwater", "streams"), *((m, m) for m in ("pip", "pytest", "mypy"))):
            script = self.bin / name
            script.write_text(f'#!/bin/sh\nexec "{self.bin / "python"}" -m {module} "$@"\n')
            script.chmod(0o755)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
        self.variables = inherited | {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "VIRTUAL_ENV": str(folder),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as `--no-build-isolation`
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "packages"),  # the product itself is the most of it
            "COLUMNS": "200",
        }

    def run(
        self, *command: str, cwd: Path, check: bool = True, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        run = subprocess.run(
            command, cwd=cwd, env=self.variables, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert run.returncode == 0 or not check, f"{command}: {run.stdout}\n{run.stderr}"
        return run
