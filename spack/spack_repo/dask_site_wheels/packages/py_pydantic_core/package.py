from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *

PLACE = "https://files.pythonhosted.org/packages/"
BUILT = "manylinux_2_17_x86_64.manylinux2014_x86_64.whl"


class PyPydanticCore(PythonPackage):
    """The core of pydantic, as its developers build it for Linux on x86_64.

    From source it takes Rust, with that LLVM, and fetches crates while it builds. A wheel is for
    one version of Python, which is the last part of the version here.
    """

    homepage = "https://github.com/pydantic/pydantic-core"
    url = f"{PLACE}c8/be/8fed28dd0a180dca19e72c233cbf58efa36df055e5b9d90d64fd1740b828/pydantic_core-2.41.5-cp311-cp311-{BUILT}"

    license("MIT")

    version(
        "2.41.5-cp313",
        sha256="406bf18d345822d6c21366031003612b9c77b3e29ffdb0f612367352aab7d586",
        url=f"{PLACE}cf/4e/35a80cae583a37cf15604b44240e45c05e04e86f9cfd766623149297e971/pydantic_core-2.41.5-cp313-cp313-{BUILT}",
        expand=False,
    )
    version(
        "2.41.5-cp312",
        sha256="eceb81a8d74f9267ef4081e246ffd6d129da5d87e37a77c9bde550cb04870c1c",
        url=f"{PLACE}0d/76/941cc9f73529988688a665a5c0ecff1112b3d95ab48f81db5f7606f522d3/pydantic_core-2.41.5-cp312-cp312-{BUILT}",
        expand=False,
    )
    version(
        "2.41.5-cp311",
        sha256="f31d95a179f8d64d90f6831d71fa93290893a33148d890ba15de25642c5d075b",
        url=f"{PLACE}c8/be/8fed28dd0a180dca19e72c233cbf58efa36df055e5b9d90d64fd1740b828/pydantic_core-2.41.5-cp311-cp311-{BUILT}",
        expand=False,
    )

    depends_on("python@3.13", when="@2.41.5-cp313", type=("build", "run"))
    depends_on("python@3.12", when="@2.41.5-cp312", type=("build", "run"))
    depends_on("python@3.11", when="@2.41.5-cp311", type=("build", "run"))
    depends_on("py-typing-extensions@4.14.1:", type=("build", "run"))

    requires("platform=linux target=x86_64:", msg="elsewhere use builtin.py-pydantic-core")
