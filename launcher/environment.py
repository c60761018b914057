"""What a run was started with: interpreter, packages, machine, commit. No variables: no secrets."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from distrain.runs.records import utc_now


def describe_environment() -> dict[str, Any]:
    """Return the record of this environment."""
    packages = {
        str(distribution.metadata["Name"]): distribution.version
        for distribution in importlib.metadata.distributions()
    }
    return {
        "time": utc_now(),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "hostname": socket.gethostname(),
        "cpus": available_cpus(),
        "gpus": gpu_names(),
        "git": git_state(Path(__file__).resolve().parent.parent),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether files differ from it; ``None`` outside a checkout."""
    if not (folder / ".git").exists():
        return None
    commit = _output(["git", "-C", str(folder), "rev-parse", "HEAD"])
    if commit is None:
        return None
    changes = _output(["git", "-C", str(folder), "status", "--porcelain"])
    return {"commit": commit.strip(), "dirty": bool(changes)}


def available_cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def gpu_names() -> list[str]:
    """Return the names of the GPUs that a process started here would see; asks the driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip(" -1"):
        return []
    listing = _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    names = [line.strip() for line in (listing or "").splitlines() if line.strip()]
    if visible:
        return names[: len(visible.split(","))]
    return names


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
