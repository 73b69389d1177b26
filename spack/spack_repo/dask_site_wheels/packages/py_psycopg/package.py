from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyPsycopg(PythonPackage):
    """PostgreSQL for Python, which the history of dask-site can be kept in."""

    homepage = "https://www.psycopg.org"
    url = "https://files.pythonhosted.org/packages/52/5d/a7957d1b5484f8e5094a15b1a400929324f978b670bd4a95179e1a012ec2/psycopg-3.3.9-py3-none-any.whl"

    license("LGPL-3.0-or-later")

    version(
        "3.3.9",
        sha256="d2d7d04a1ce6dab4f5b27316bea3b52585cafa2f2d631e5b09dd69823f5c26f6",
        expand=False,
    )

    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-psycopg-binary@3.3.9", type="run")
    depends_on("py-typing-extensions@4.6:", type=("build", "run"))
