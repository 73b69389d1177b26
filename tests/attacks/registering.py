"""How schedulers are registered that are not what they say."""

import json

from nodes import node

ASKED = """
from dask_site.dashboards import asking, keys
from dask_site.dashboards.places import Places
where = asking.places()

def ask(**question):
    try:
        return asking.ask_elsewhere(where, question)[0]
    except asking.DashboardError as error:
        return {"error": str(error)}

def near(**question):
    connection = asking.connect(where, question)
    return json.loads(connection.recv(65536) or b"{}")
"""


def known(cluster):
    """Return what a broker has written down of a cluster."""
    for host in ("login1", "login2"):
        path = f"/home/dask-site/dashboards/secret/nodes/{host}.json"
        said = json.loads(node("login1").check_output(f"cat {path}"))
        for one in said["clusters"]:
            if one["id"] == cluster:
                return one
    return None
