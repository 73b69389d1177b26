"""The parts of a description: the pools, and what a site says once."""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dask_site.sitefile import fields


class Part(BaseModel):
    """What all parts of the description share: nothing unknown in them, and they never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Cost(Part):
    """What an hour of the pool costs, in the currency of the site."""

    core_hour: fields.Price = Field(
        default=0.0, ge=0, description="Price of one core for one hour.", examples=[0.01]
    )
    gpu_hour: fields.Price = Field(
        default=0.0, ge=0, description="Price of one GPU for one hour.", examples=[0.8]
    )
    gib_hour: fields.Price = Field(
        default=0.0, ge=0, description="Price of one GiB of memory for one hour.", examples=[0.002]
    )
    billing_hour: fields.Price = Field(
        default=0.0,
        ge=0,
        description="Price of one billing unit of the resource manager for one hour.",
        examples=[0.01],
    )


class SchedulerOptions(Part):
    """Where the Dask scheduler listens."""

    interface: fields.Token | None = Field(
        default=None, description="Network interface that compute nodes reach.", examples=["ib0"]
    )
    port: fields.Port = Field(
        default=0, description="Port of the scheduler; 0 takes any free one.", examples=[0, 8786]
    )


class Retention(Part):
    """How long the history is kept, since a cluster was last heard of."""

    samples: fields.Age = Field(
        default=timedelta(days=14),
        description="What was measured from minute to minute.",
        examples=["14d"],
    )
    clusters: fields.Age = Field(
        default=timedelta(days=180),
        description="Clusters with their ledger, spans and workers; sums by day stay.",
        examples=["180d"],
    )


class History(Part):
    """What is kept of computations after they are done."""

    enabled: fields.Flag = Field(
        default=False,
        description="Whether every scheduler of the release records what its computations cost.",
        examples=[True],
    )
    spool: fields.Folder = Field(
        default="~/.local/state/dask-site/spool",
        description="Each user's folder for records, on the machine where schedulers run.",
        examples=["/var/spool/dask-site/$USER"],
    )
    records: Annotated[Literal["spool", "http"], fields.choice("spool", "http")] = Field(
        default="spool",
        description="How records reach the service first: spool, by files, or http, sent to it "
        "with munge. Where that way fails, the other one is taken.",
        examples=["http"],
    )
    interval: Annotated[int, fields.whole(1, 3600)] = Field(
        default=5,
        description="Seconds from one record to the next while a cluster is young; twice that "
        "after ten minutes, and up to 30 s later.",
        examples=[5],
    )
    state: fields.Folder = Field(
        default="/var/lib/dask-site",
        description="The service's folder, shared by the nodes on which it may run.",
        examples=["/var/lib/dask-site"],
    )
    store: fields.StoreUrl = Field(
        default="sqlite",
        description="Where the history is kept: sqlite stands for a file in the service's folder; "
        "or the URL of a PostgreSQL database, without a password.",
        examples=["sqlite", "postgresql+psycopg://dask@db.example.org/history"],
    )
    journal: Annotated[Literal["auto", "wal", "delete"], fields.choice("auto", "wal", "delete")] = (
        Field(
            default="auto",
            description="How SQLite writes: auto takes wal, or delete where the service's folder "
            "is on a network file system, on which wal can't be used.",
            examples=["auto"],
        )
    )
    socket: fields.Folder = Field(
        default="/run/dask-history/history.sock",
        description="Unix socket of the service, on each node on which it runs.",
        examples=["/run/dask-history/history.sock"],
    )
    port: Annotated[int, fields.whole(1, 65535)] = Field(
        default=8791, description="Port of the service, with TLS.", examples=[8791]
    )
    hosts: list[fields.Token] = Field(
        default=[],
        description="Further names by which browsers call the service, beside those of its nodes.",
        examples=[["dask.example.org"]],
    )
    certificate: fields.Folder | None = Field(
        default=None,
        description="Certificate of the service, PEM; left out, one is made.",
        examples=["/etc/dask-site/history.pem"],
    )
    key: fields.Folder | None = Field(
        default=None,
        description="Key of that certificate, PEM.",
        examples=["/etc/dask-site/history.key"],
    )
    admins: list[fields.Principal] = Field(
        default=[],
        description="Users, and groups as @group, who see everything; their looks are noted.",
        examples=[["root", "@hpc-staff"]],
    )
    coordinators: dict[str, list[fields.Principal]] = Field(
        default={},
        description="By account the users, and groups as @group, who see sums of its charges.",
        examples=[{"climate": ["alice", "@climate-leads"]}],
    )
    retention: Retention = Field(
        default=Retention(),
        description="How long the history is kept.",
        examples=[{"samples": "14d", "clusters": "180d"}],
    )
    metrics_from: list[fields.Network] = Field(
        default=[],
        description="Addresses and networks that may read /metrics, for Prometheus.",
        examples=[["10.1.0.5", "10.2.0.0/16"]],
    )


class Oidc(Part):
    """A provider of OpenID Connect by which users log in to their dashboards."""

    issuer: fields.HttpsUrl = Field(
        description="The provider, as it names itself.",
        examples=["https://sso.example.org/realms/hpc"],
    )
    client: fields.Token = Field(
        description="Under which the provider knows the dashboards.", examples=["dask-dashboards"]
    )
    secret: fields.Folder = Field(
        description="File with the client's secret, read by the broker's account alone.",
        examples=["/etc/dask-site/oidc.secret"],
    )
    claim: fields.Token = Field(
        default="preferred_username",
        description="Which of the provider's claims is the user's name on the login nodes. It must "
        "be one that users can't choose for themselves.",
        examples=["preferred_username"],
    )


class Portal(Part):
    """A portal that knows who its users are: Open OnDemand, JupyterHub."""

    secret: fields.Folder | None = Field(
        default=None,
        description="File with the word by which the portal proves itself, 32 characters or more, "
        "which the broker's account reads; left out, the broker makes one, as secret/portal in its "
        "folder.",
        examples=["/etc/dask-site/portal.secret"],
    )
    header: fields.Header = Field(
        default="X-Remote-User",
        description="Header in which the portal says the user's name.",
        examples=["X-Remote-User"],
    )


class Dashboards(Part):
    """How users reach the dashboards of their clusters, and nobody else does."""

    enabled: fields.Flag = Field(
        default=False,
        description="Whether dashboards are reached through the proxy on login nodes alone.",
        examples=[True],
    )
    domain: fields.Domain | None = Field(
        default=None,
        description="Name by which browsers reach the login nodes; each cluster has a name of its "
        "own in front of it, so *.<domain> has to lead there too.",
        examples=["dask.example.org"],
    )
    paths: fields.Flag = Field(
        default=False,
        description="Whether clusters have paths below the domain instead of names in front of it, "
        "where the DNS has no wildcard. Dashboards are not kept from each other by the browser "
        "then, so they can't be shared.",
        examples=[True],
    )
    port: Annotated[int, fields.whole(1, 65535)] = Field(
        default=443, description="Port of the proxy, with TLS.", examples=[443, 8443]
    )
    state: fields.Folder = Field(
        default="/var/lib/dask-dashboards",
        description="The broker's folder, shared by all login nodes and read by compute nodes.",
        examples=["/apps/dask-site/dashboards"],
    )
    certificate: fields.Folder | None = Field(
        default=None,
        description="Certificate for the domain and *.<domain>, PEM with its chain; left out, an "
        "authority of the site's own issues one.",
        examples=["/etc/ssl/dask.example.org.pem"],
    )
    key: fields.Folder | None = Field(
        default=None,
        description="Key of that certificate, PEM.",
        examples=["/etc/ssl/dask.example.org.key"],
    )
    session: fields.Age = Field(
        default=timedelta(hours=12), description="How long a login lasts.", examples=["12h"]
    )
    oidc: Oidc | None = Field(
        default=None,
        description="A provider of OpenID Connect, beside the links that the command line prints.",
        examples=[
            {
                "issuer": "https://sso.example.org/realms/hpc",
                "client": "dask-dashboards",
                "secret": "/etc/dask-site/oidc.secret",
            }
        ],
    )
    portal: Portal | None = Field(
        default=None,
        description="A portal whose word on who somebody is is taken.",
        examples=[{"header": "X-Remote-User"}],
    )


class Environment(Part):
    """Where the software of the site comes from."""

    provider: Annotated[Literal["wheels", "spack"], fields.choice("wheels", "spack")] = Field(
        default="wheels", description="How the environment is installed.", examples=["wheels"]
    )


class Pool(Part):
    """One kind of job in which workers run.

    Made by `Site.from_mapping` and its like, which also apply the rules between values; a pool
    that is built directly has only its own values checked.

    Attributes
    ----------
    name : str
        The key of the pool in the site file.
    memory : int
        Bytes per job.
    walltime : datetime.timedelta or None
        How long a job may run; None only where the resource manager is ``local``.
    """

    name: str = Field(exclude=True)
    queue: fields.Token | None = Field(
        default=None,
        description="Queue or partition; left out, the resource manager's default.",
        examples=["standard"],
    )
    cores: Annotated[int, fields.whole(1)] = Field(
        ge=1, description="CPU cores of one job.", examples=[64]
    )
    memory: fields.Memory = Field(
        description="Memory of one job, with its unit.", examples=["240GiB", "256GB"]
    )
    walltime: fields.Walltime | None = Field(
        default=None,
        description="How long one job may run; required unless the resource manager is local.",
        examples=["4h", "90m", "1d", "12:00:00", "1-12:00:00"],
    )
    processes: Annotated[int, fields.whole(1)] = Field(
        default=1, ge=1, description="Worker processes per job.", examples=[1, 4]
    )
    gpus: Annotated[int, fields.whole(0)] = Field(
        default=0, ge=0, description="GPUs of one job, shared evenly by processes.", examples=[4]
    )
    max_jobs: Annotated[int, fields.whole(1)] | None = Field(
        default=None, ge=1, description="Most jobs at once in one cluster.", examples=[50]
    )
    backlog: Annotated[int, fields.whole(1)] | None = Field(
        default=None,
        ge=1,
        description="Most jobs that wait in the queue at once where the pool follows demand; 10.",
        examples=[4],
    )
    submit: Annotated[Literal["single", "array"], fields.choice("single", "array")] = Field(
        default="single",
        description="Whether jobs that are asked for together are submitted one by one or as one "
        "job array; arrays with Slurm only.",
        examples=["array"],
    )
    exclusive: fields.Flag = Field(
        default=False,
        description="Whether only work that names the pool runs there.",
        examples=[True],
    )
    cost: Cost | None = Field(
        default=None,
        description="What an hour costs; left out, nothing is charged.",
        examples=[{"core_hour": 0.01}],
    )
    account: fields.Token | None = Field(
        default=None,
        description="Account or project; left out, that of the site.",
        examples=["climate"],
    )
    qos: fields.Token | None = Field(
        default=None, description="Quality of service; Slurm only.", examples=["normal"]
    )
    constraint: fields.Constraint | None = Field(
        default=None, description="Node features; Slurm only.", examples=["icelake"]
    )
    reservation: fields.Token | None = Field(
        default=None, description="Reservation; Slurm only.", examples=["course"]
    )
    interface: fields.Token | None = Field(
        default=None, description="Network interface of the workers.", examples=["ib0"]
    )
    scratch: fields.Folder | None = Field(
        default=None,
        description="Folder on the node's own disk, where workers spill.",
        examples=["$TMPDIR", "/scratch"],
    )
    directives: list[fields.Directive] = Field(
        default=[],
        description="Further lines for the resource manager, without #SBATCH or its like.",
        examples=[["--hint=nomultithread"]],
    )
    prologue: list[fields.ShellLine] = Field(
        default=[],
        description="Shell lines that each job runs before its workers, after those of the site.",
        examples=[["module load cuda"]],
    )
    description: fields.Prose = Field(
        default="", description="A sentence for users.", examples=["Nodes with four GPUs"]
    )
