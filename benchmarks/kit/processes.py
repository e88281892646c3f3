"""Measuring in a process of its own, which has nothing left of what ran before; its memory."""

import json
import subprocess
import sys
from pathlib import Path


def measured_apart(script: str, *arguments: str) -> dict:
    """Runs a script; the last line that it prints is its result, in JSON."""
    command = [sys.executable, script, *arguments]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def memory(field: str, process: int | str = "self") -> int:
    """Resident bytes of a process: `"VmRSS"` now, `"VmHWM"` the most since it was reset.

    Needs Linux. 0 for a process that has ended.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)
