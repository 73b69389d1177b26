"""What a user sees when a task is given up because of what it does to its workers."""

from __future__ import annotations

from typing import Any

from distributed import KilledWorker


class TaskCrashed(KilledWorker):
    """A task whose workers died while they executed it; its text tells the whole story.

    Parameters
    ----------
    task : key
        The task.
    last_worker : distributed.scheduler.WorkerState
        The worker that died last.
    attempts : int
        How many workers were lost.
    story : str
        What was tried where, how it ended, and what may help.
    """

    def __init__(self, task: Any, last_worker: Any, attempts: int, story: str) -> None:
        super().__init__(task, last_worker, attempts - 1)
        # Exceptions are pickled as their class and these.
        self.args = (task, last_worker, attempts, story)

    @property
    def allowed_failures(self) -> int:
        """How many failures there were before the last, as in distributed."""
        return int(self.args[2]) - 1

    @property
    def story(self) -> str:
        """What was tried where, how it ended, and what may help."""
        return str(self.args[3])

    def __str__(self) -> str:
        return self.story


class TaskOutOfMemory(TaskCrashed):
    """A task that needs more memory than any worker has that it may run on."""
