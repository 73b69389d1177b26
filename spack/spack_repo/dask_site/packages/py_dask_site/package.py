from pathlib import Path

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyDaskSite(PythonPackage):
    """Dask for HPC centres: heterogeneous pools of workers in one cluster, from one site file.

    The sources are the checkout that this recipe lies in.
    """

    homepage = "https://distributed.dask.org"
    git = Path(__file__).resolve().parents[5].as_uri()

    license("BSD-3-Clause")

    version("main", branch="main")

    variant("postgresql", default=False, description="A history in PostgreSQL")
    variant("oidc", default=False, description="Logging in to dashboards by OpenID Connect")

    depends_on("py-hatchling@1.27:", type="build")

    with default_args(type=("build", "run")):
        depends_on("python@3.11:3.13")
        depends_on("py-alembic@1.14:")
        depends_on("py-click@8.1:")
        depends_on("py-cryptography@42:")
        depends_on("py-dask@2026.1.2:")
        depends_on("py-dask-jobqueue@0.9")
        depends_on("py-distributed@2026.1.2:")
        depends_on("py-jinja2@3.1:")
        depends_on("py-psutil@5.9:")
        depends_on("py-pydantic@2.10:")
        depends_on("py-pyyaml@6:")
        depends_on("py-sqlalchemy@2.0.36:")
        depends_on("py-tornado@6.4:")

        depends_on("py-psycopg@3.2:", when="+postgresql")

        with when("+oidc"):
            depends_on("py-authlib@1.6:")
            depends_on("py-requests@2.32:")
