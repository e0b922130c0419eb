"""The peers' own virtual environment: made on first use, made anew when its requirements change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

from tests.bench.figures import say

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".venv" / "peers"


def python() -> str:
    """The interpreter that has the peers. Takes a minute the first time; raises CalledProcessError."""
    stamp = FOLDER / ".requirements"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing the other engines into {FOLDER}")
        shutil.rmtree(FOLDER, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
        subprocess.run(
            [FOLDER / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", REQUIREMENTS],
            check=True,
            stdout=sys.stderr,
        )
        stamp.write_text(wanted)
    return str(FOLDER / "bin" / "python")


def versions() -> dict[str, str]:
    """What is installed there, of what matters."""
    folder = next((FOLDER / "lib").glob("python*/site-packages"))
    names = {"quixstreams", "faust-streaming", "river", "confluent-kafka", "aiokafka", "rocksdict"}
    return {
        d.metadata["Name"]: d.version
        for d in distributions(path=[str(folder)])
        if d.metadata["Name"] in names
    }
