"""What jobs print, found in the cluster's folder."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path


def read(folder: Path, job_id: str) -> str:
    """Return what a job printed so far into a folder, standard output first."""
    if not job_id:
        return ""
    # As a word of its own (job-12.out), or as SGE and PBS write it (job.o12).
    number = re.escape(job_id)
    mine = re.compile(rf"(?:(?<![0-9a-z_])|(?<=\.[oe])){number}(?![0-9a-z_])")
    files = [path for path in folder.iterdir() if mine.search(path.name)]
    return "".join(_text(path) for path in sorted(files, key=_errors_last))


def tail(text: str, lines: int = 12) -> str:
    """Return the last lines that are not empty, indented."""
    kept = deque((line for line in text.splitlines() if line.strip()), lines)
    return "\n".join(f"    {line}" for line in kept)


def _errors_last(path: Path) -> tuple[bool, str]:
    return path.suffix == ".err", path.name


def _text(path: Path, limit: int = 1_000_000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
