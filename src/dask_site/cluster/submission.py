"""One submission to the resource manager: a job or an array, and why it was refused."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dask_site.cluster.errors import ClusterError
from dask_site.cluster.hints import submission_hint

if TYPE_CHECKING:
    from dask_site.cluster.jobs import JobFactory
    from dask_site.site import Pool

# What Slurm says of an array that is larger than its MaxArraySize, or of any where that is 0.
_NO_SUCH_ARRAY = "invalid job array specification"
# Seconds after which a submission that has not been answered counts as refused; sbatch itself
# tries for two minutes while its controller is away.
_PATIENCE = 180


@dataclass(frozen=True)
class Refusal:
    """Why a submission was refused, and what to do about it."""

    what: str
    advice: str

    @property
    def of_array(self) -> bool:
        """Whether smaller arrays may be taken: the site's MaxArraySize is less than ours."""
        return _NO_SUCH_ARRAY in self.what.lower()


async def submit(factory: JobFactory, pool: Pool, numbers: Sequence[int]) -> str | Refusal:
    """Submit the job of one worker of a pool, or an array for several.

    Parameters
    ----------
    factory : JobFactory
        Makes the job.
    pool : Pool
        The pool that it belongs to.
    numbers : sequence of int
        Numbers of the workers within the pool, rising.

    Returns
    -------
    str or Refusal
        The resource manager's number of the job, or why there is none.
    """
    try:
        job = factory.make(pool, *numbers)
        async with asyncio.timeout(_PATIENCE):
            await job.start()
    except ClusterError as error:
        return Refusal(str(error), "")
    except TimeoutError:
        words = f"got no answer from the resource manager in {_PATIENCE} s"
        return Refusal(words, submission_hint("unable to contact"))
    except Exception as error:  # whatever it was, the job must not stay "submitting"
        words = words_of(error)
        return Refusal(f"was refused: {words}", submission_hint(words))
    return str(job.job_id)


def words_of(error: Exception) -> str:
    """Return the resource manager's own words out of dask-jobqueue's report of a failed command."""
    text = str(error)
    if "Command exited with non-zero exit code" not in text:
        return text
    spoken = re.search(r"stderr:\n(.*)", text, re.DOTALL)
    return (spoken.group(1).strip() if spoken else "") or text.strip()
