"""What jobs are submitted with: a script that many share, and what is each job's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

# As in `records`, which schedulers need not import.
OWN = "@arguments@"
MOST_SCRIPT = 16_384
_MOST_ARGUMENTS = 1000
#: Scripts of one cluster; of jobs with others nothing is kept.
MOST_SCRIPTS = 200
# Values that are given to what is named like a secret: `export API_TOKEN=...`, `--password=...`.
_SECRET = re.compile(
    r"""((?:token|secret|passw(?:or)?d|passphrase|credential|api_?key|access_?key)\w*
    \s*(?:=|:\s)\s*)("[^"\n]*"|'[^'\n]*'|[^\s"';&|]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Scripts:
    """The scripts of one cluster.

    Attributes
    ----------
    texts : dict of str to str
        By id.
    """

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self._jobs: dict[str, tuple[str, str]] = {}

    def note(self, job: Any, names: Iterable[str]) -> None:
        """Remember what a dask-jobqueue Job is submitted with; never raises.

        Parameters
        ----------
        job : dask_jobqueue.Job
            Of which `job_script` and `name` are read.
        names : iterable of str
            Of the jobs that it stands for, as `of` is asked for them.
        """
        try:
            arguments = f"--name {job.name}"
            whole = _SECRET.sub(r"\1***", _plain(job.job_script()))
            text = _own(whole, arguments)[:MOST_SCRIPT]
        except Exception:
            return  # a history without it is better than no job
        name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
        if name not in self.texts and len(self.texts) >= MOST_SCRIPTS:
            return
        self.texts.setdefault(name, text)
        self._jobs.update(dict.fromkeys(names, (name, _plain(arguments)[:_MOST_ARGUMENTS])))

    def of(self, name: str) -> dict[str, Any]:
        """Return `script` and `arguments` of a job as its record has them."""
        script, arguments = self._jobs.get(name, (None, ""))
        return {"script": script, "arguments": arguments}


def whole(text: str, arguments: str) -> str:
    """Return the script of one job."""
    return text.replace(OWN, arguments, 1)


def _own(text: str, arguments: str) -> str:
    """Put the word that stands for them in the place of a job's own arguments."""
    return re.sub(rf"{re.escape(arguments)}(?!\S)", lambda _: OWN, text, count=1)


def _plain(text: object) -> str:
    """Return a text that every store takes."""
    return _CONTROL.sub(" ", str(text).encode("utf-8", "replace").decode())
