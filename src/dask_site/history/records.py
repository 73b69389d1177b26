"""What a scheduler writes down about its cluster, and what may be read back of it.

Each record is cumulative: it says all that is known so far of what it names, and a later one (by
its number `q`) stands for the earlier ones. So a record that is lost is made good by the next,
and one that is read twice changes nothing.

What is read was written by a user, who may have written anything: all of it has bounds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

#: Of the protocol; written into each record.
VERSION = 1
#: The longest line that is read, in bytes.
MOST_BYTES = 256 * 1024
_YEAR_10000 = 253402300800.0

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@+-]{1,128}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Moment = Annotated[float, Field(ge=0, lt=_YEAR_10000, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0, le=2**53)]
Short = Annotated[str, Field(max_length=100)]
Amounts = Annotated[dict[Short, Amount], Field(max_length=100)]


class Record(BaseModel):
    """What all records have.

    Attributes
    ----------
    v : int
        Version of the protocol.
    c : str
        The cluster.
    q : int
        Ascending within the cluster.
    t : float
        When it was written, in seconds since 1970 by the clock of the scheduler's host.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    v: Literal[1]
    c: Id
    q: Number
    t: Moment


class ClusterRecord(Record):
    """A scheduler, as it started.

    Attributes
    ----------
    kind : str
        The class of the cluster (``Cluster``, ``SLURMCluster``, ``LocalCluster``), or
        ``scheduler`` where it was started by itself.
    user : str
        As it says; the owner of the spool file is who counts.
    job : str or None
        The resource manager's id of the job in which the scheduler runs.
    program : str
        What was run: the script's name without its folder.
    versions : dict
        Of python, dask, distributed and dask_site.
    interval : float
        Seconds from one record to the next while it is young and busy.
    dashboard : str or None
        A link.
    label : str
        What the resource manager shows in the names of its jobs: ``dask-<label>-<pool>``; empty
        where nothing of the kind is.
    """

    k: Literal["cluster"]
    started: Moment
    kind: Name = "scheduler"
    name: Annotated[str, Field(max_length=200)] | None = None
    user: Annotated[str, Field(max_length=200)] = ""
    host: Annotated[str, Field(max_length=255)] = ""
    pid: Number = 0
    site: Annotated[str, Field(max_length=200)] | None = None
    job: Id | None = None
    program: Annotated[str, Field(max_length=200)] = ""
    versions: Annotated[dict[Short, Short], Field(max_length=20)] = {}
    interval: Amount = 5.0
    dashboard: Annotated[str, Field(max_length=500)] | None = None
    label: Annotated[str, Field(pattern=r"^([0-9a-f]{8})?$")] = ""


class WorkerRecord(Record):
    """A worker: from when it joined to when it was last seen.

    Attributes
    ----------
    id : str
        One worker process; a restarted one is another.
    threads : int
        Tasks that run at once.
    memory : int
        Bytes that it may use.
    job : str or None
        The resource manager's id of its job.
    started, seen : float
        When it joined; when the scheduler heard of it last.
    ended : float or None
        When it left.
    expected : bool
        Whether it was asked to leave, or left in order.
    lost_tasks : int
        Tasks that it was given and had not finished when it left unexpectedly.
    lost_seconds : float
        Thread-seconds for which those had run.
    again_tasks : int
        Tasks done before whose results left with it, and were still needed.
    again_seconds : float
        About how many thread-seconds these had taken, by what tasks of their prefix take.
    busy : float
        Thread-seconds in which it ran tasks.
    """

    k: Literal["worker"]
    id: Id
    name: Name
    started: Moment
    seen: Moment
    threads: Annotated[int, Field(ge=0, le=100_000)]
    memory: Number = 0
    gpus: Annotated[int, Field(ge=0, le=10_000)] = 0
    host: Annotated[str, Field(max_length=255)] = ""
    pool: Name | None = None
    job: Id | None = None
    ended: Moment | None = None
    expected: bool = True
    lost_tasks: Number = 0
    lost_seconds: Amount = 0.0
    again_tasks: Number = 0
    again_seconds: Amount = 0.0
    busy: Amount = 0.0


#: Of the seconds of tasks: those of `compute` for what had been computed before and let go.
AGAIN = "compute again"


class Tasks(BaseModel):
    """The tasks of one key prefix within a span.

    Attributes
    ----------
    states : dict of str to int
        How many are, or ended, in each of distributed's states; and ``dropped``: forgotten before
        they ran.
    seconds : dict of str to float
        ``compute``, ``transfer``, ``disk-read`` ..., as distributed measures them: thread-seconds;
        and `AGAIN`, about how much of ``compute``, by a sample of the keys.
    nbytes : int
        Of their results.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    states: Annotated[dict[Short, Number], Field(max_length=20)] = {}
    seconds: Amounts = {}
    nbytes: Number = 0


class SpanRecord(Record):
    """A named part of a computation.

    Attributes
    ----------
    name : tuple of str
        From the outermost to its own.
    start, stop : float
        Of its first and last task; 0 before that.
    tasks : dict of str to Tasks
        By key prefix. Of very many prefixes the smaller ones are together under ``(others)``.
    execute : dict of str to float
        Thread-seconds by what they went into: ``thread-cpu``, ``thread-noncpu``, ``deserialize``,
        ``serialize``, ``disk-read``, ``disk-write``, ``executor``, ``other``, ``failed``,
        ``cancelled``.
    sizes : dict of str to float
        Bytes, by the same words; ``definitions``, about how much the tasks carry with them, the
        data in their arguments included, by a sample; ``largest definition``, of one of them.
    code : str or None
        The line that submitted it.
    """

    k: Literal["span"]
    id: Id
    name: Annotated[tuple[Name, ...], Field(min_length=1, max_length=20)]
    parent: Id | None = None
    enqueued: Moment
    start: Moment = 0.0
    stop: Moment = 0.0
    done: bool = False
    tasks: Annotated[dict[Name, Tasks], Field(max_length=300)] = {}
    execute: Amounts = {}
    sizes: Amounts = {}
    code: Text | None = None


class JobRecord(Record):
    """A job that the cluster asked the resource manager for, whether or not it ever started.

    Attributes
    ----------
    name : str
        The cluster's name for it.
    pool : str or None
        None in a cluster without pools.
    id : str or None
        The resource manager's, once there is one.
    state : str
        As the cluster sees it.
    cores, memory, gpus : int
        Asked for; memory in bytes.
    walltime : float or None
        Asked for, in seconds.
    script : str or None
        Which `ScriptRecord` was submitted.
    arguments : str
        What stands in that for `OWN`, of this job alone.
    """

    k: Literal["job"]
    name: Id
    pool: Name | None = None
    id: Id | None = None
    state: Name
    reason: Text = ""
    submitted: Moment
    started: Moment | None = None
    ended: Moment | None = None
    node: Annotated[str, Field(max_length=255)] = ""
    exit_code: Annotated[str, Field(max_length=20)] = ""
    workers: Number = 1
    cores: Number = 0
    memory: Number = 0
    gpus: Number = 0
    walltime: Amount | None = None
    script: Id | None = None
    arguments: Annotated[str, Field(max_length=1000)] = ""


#: Stands in a script for what differs from job to job.
OWN = "@arguments@"
#: The longest script that is kept, in characters; of a longer one it is the beginning.
MOST_SCRIPT = 16_384


class ScriptRecord(Record):
    """What some jobs were submitted with: the same for many.

    Attributes
    ----------
    id : str
        Made of the text.
    text : str
        With `OWN` where each job has its own.
    """

    k: Literal["script"]
    id: Id
    text: Annotated[str, Field(max_length=MOST_SCRIPT)]


#: What the threads of workers do: run tasks, or wait, and for what.
#: ``no work``: nothing was submitted; ``starved``: others have all the work there is;
#: ``transfer``: inputs are on their way; ``paused``: out of memory; ``dispatch``: work is there and
#: has not begun.
BUSY = "busy"
IDLE = ("no work", "starved", "transfer", "paused", "dispatch")


class UsageRecord(Record):
    """A pool at one moment, and what its threads did until then.

    Attributes
    ----------
    pool : str or None
        None for workers without one.
    threads : dict of str to float
        Thread-seconds since the start, by `BUSY` and the words of `IDLE`.
    workers, nthreads : int
        Now.
    processing, queued : int
        Tasks that workers of the pool have; that wait on the scheduler for a worker.
    memory, spilled : int
        Bytes, now.
    peak : int
        Bytes: the most that one worker of the pool was seen to use.
    cpu : float
        Cores busy now.
    limit : int
        Bytes that its workers may use, now.
    """

    k: Literal["usage"]
    pool: Name | None = None
    threads: Amounts
    workers: Number = 0
    nthreads: Number = 0
    processing: Number = 0
    queued: Number = 0
    memory: Number = 0
    spilled: Number = 0
    peak: Number = 0
    cpu: Amount = 0.0
    limit: Number = 0


class TrafficRecord(Record):
    """What the workers moved, since the start: distributed tells it for the whole cluster only.

    Attributes
    ----------
    seconds, sizes : dict of str to float
        By ``get-data``, ``gather-dep``, ``memory-monitor`` and what they did: seconds, and bytes.
    """

    k: Literal["traffic"]
    seconds: Amounts = {}
    sizes: Amounts = {}


class ErrorRecord(Record):
    """Tasks that failed in the same way.

    Attributes
    ----------
    prefix : str
        Of their keys.
    exception : str
        Its class.
    message : str
        Of the first of them.
    count : int
        How many.
    """

    k: Literal["error"]
    prefix: Name
    exception: Name
    message: Text = ""
    count: Number = 1
    span: Id | None = None


class EndRecord(Record):
    """The end, where the scheduler could still write it down.

    Attributes
    ----------
    how : str
        ``closed``, the name of a signal, or what whoever found it silent made of it.
    """

    k: Literal["end"]
    how: Name


AnyRecord = Annotated[
    ClusterRecord
    | WorkerRecord
    | SpanRecord
    | JobRecord
    | ScriptRecord
    | UsageRecord
    | TrafficRecord
    | ErrorRecord
    | EndRecord,
    Field(discriminator="k"),
]
_adapter: TypeAdapter[Any] = TypeAdapter(AnyRecord)


def parse(values: object) -> Record:
    """Return the record that some JSON says.

    Raises
    ------
    pydantic.ValidationError
        If it is none, or beyond the bounds.
    """
    record: Record = _adapter.validate_python(values)
    return record
