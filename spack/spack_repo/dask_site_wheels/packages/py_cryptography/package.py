from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyCryptography(PythonPackage):
    """Cryptography for Python, as its developers build it for Linux on x86_64.

    From source it takes Rust, with that LLVM, and fetches crates while it builds. The wheel has
    its own OpenSSL: a fault there is mended by a new version of this package.
    """

    homepage = "https://github.com/pyca/cryptography"
    url = "https://files.pythonhosted.org/packages/2d/cf/054b9d8220f81509939599c8bdbc0c408dbd2bdd41688616a20731371fe0/cryptography-46.0.7-cp311-abi3-manylinux_2_28_x86_64.whl"

    license("Apache-2.0 OR BSD-3-Clause")

    version(
        "46.0.7",
        sha256="420b1e4109cc95f0e5700eed79908cef9268265c773d3a66f7af1eef53d409ef",
        expand=False,
    )

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-cffi@2:", type=("build", "run"))

    requires("platform=linux target=x86_64:", msg="elsewhere use builtin.py-cryptography")
