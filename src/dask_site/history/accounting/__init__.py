"""What the resource manager's accounting says of the jobs that clusters asked for, kept here.

Slurm's is read, with sacct. The other managers' (qacct, tracejob, bacct) is not: for these
`Accountant.refresh` says so in its `problem`, and ledgers and bills rest on the records alone.

The service's account has to see all users' jobs: it is an operator of Slurm's accounting, or
``PrivateData`` doesn't hide jobs.
"""

from __future__ import annotations

from dask_site.history.accounting.asking import Ask, AskError, Question, Told, asker
from dask_site.history.accounting.refreshing import Accountant, Refreshed
from dask_site.history.accounting.verdicts import verdict

__all__ = [
    "Accountant",
    "Ask",
    "AskError",
    "Question",
    "Refreshed",
    "Told",
    "asker",
    "verdict",
]
