"""Dashboards of Dask for users of a JupyterHub, logged in as themselves at /services/dask/.

dask-site is installed beside JupyterHub, and names of users are the same for both. As the last
line of jupyterhub_config.py, which would lose it where services are set later:

    load_subconfig("/etc/jupyterhub/dask_site_config.py")
"""

import sys

DASHBOARDS = "https://dask.example.org"  # dashboards.domain of the site file
# A file with what the broker has in secret/portal of dashboards.state.
SECRET = "/etc/jupyterhub/dask-portal"  # noqa: S105  # a path

c = get_config()  # noqa: F821  # of JupyterHub
c.JupyterHub.services.append(
    {
        "name": "dask",
        "url": "http://127.0.0.1:10181",
        "command": [sys.executable, "-m", "dask_site.dashboards.hub"],
        "environment": {
            "DASK_SITE_DASHBOARDS": DASHBOARDS,
            "DASK_SITE_PORTAL_SECRET": SECRET,
            # "DASK_SITE_PORTAL_HEADER": portal.header of the site file, where that names another
        },
        "oauth_no_confirm": True,
    }
)
# A hub that has a role "user" of its own takes this scope there, and not this line.
c.JupyterHub.load_roles.append({"name": "user", "scopes": ["self", "access:services!service=dask"]})
