"""A fork server that is a fork of this process, so that distributed is imported once for all.

The standard library's fork server is a fresh interpreter: each job would import distributed twice,
which is most of the time between a job's start and its worker.
"""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing import connection, forkserver

from dask_site.upstream.processes import use_fork_server


def start() -> None:
    """Fork the server that `multiprocessing` will ask for new processes.

    Call it while this process has one thread and no event loop: its children start as copies of
    what it is at that moment.
    """
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]  # in no stub
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        alive_read, alive_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(alive_write)
            _serve(listener.detach(), alive_read)
    os.close(alive_read)
    use_fork_server(address, alive_write, pid)


def _serve(listener: int, alive: int) -> None:
    try:
        forkserver.main(listener, alive, [])
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)
