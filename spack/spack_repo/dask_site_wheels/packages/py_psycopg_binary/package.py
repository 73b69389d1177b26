from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *

PLACE = "https://files.pythonhosted.org/packages/"
BUILT = "manylinux2014_x86_64.manylinux_2_17_x86_64.whl"


class PyPsycopgBinary(PythonPackage):
    """The compiled part of psycopg, with the client library of PostgreSQL in it.

    A wheel is for one version of Python, which is the last part of the version here.
    """

    homepage = "https://www.psycopg.org"
    url = f"{PLACE}2e/1d/76ec39728ef21f21b43a29987790509431393ee69adf5639978363390ca1/psycopg_binary-3.3.9-cp311-cp311-{BUILT}"

    # it cannot be imported but by py-psycopg
    import_modules = []

    license("LGPL-3.0-or-later")

    version(
        "3.3.9-cp313",
        sha256="180e4a99904d7a77f826fbb6dd16834bb3313675d8a6f055e39742fda00c33dc",
        url=f"{PLACE}fc/b4/713b67741a31c3d93028276b2b634157fdfcf00417023f45bb4410de0ab9/psycopg_binary-3.3.9-cp313-cp313-{BUILT}",
        expand=False,
    )
    version(
        "3.3.9-cp312",
        sha256="a99f0b9a19ed7a56bf5d6776456b8f15f5364db8853b0f5d184db394a45c391d",
        url=f"{PLACE}4d/aa/f1b6e1cd71aeafa78ab33875adf0339818fe014cde197a1c0c7c419dd0b0/psycopg_binary-3.3.9-cp312-cp312-{BUILT}",
        expand=False,
    )
    version(
        "3.3.9-cp311",
        sha256="0953c1b94c73f97efce5b8fb1dad85cf5e4085b94902e439e27e6805ebc8be99",
        url=f"{PLACE}2e/1d/76ec39728ef21f21b43a29987790509431393ee69adf5639978363390ca1/psycopg_binary-3.3.9-cp311-cp311-{BUILT}",
        expand=False,
    )

    depends_on("python@3.13", when="@3.3.9-cp313", type=("build", "run"))
    depends_on("python@3.12", when="@3.3.9-cp312", type=("build", "run"))
    depends_on("python@3.11", when="@3.3.9-cp311", type=("build", "run"))

    requires("platform=linux target=x86_64:", msg="there is a wheel for Linux on x86_64 alone")
