"""Dashboards of Dask for users of a JupyterHub, logged in as themselves at /services/dask/.

dask-site is installed beside JupyterHub, and names of users are the same for both. As the last
line of jupyterhub_config.py, since it adds to what stands there:

    load_subconfig("/etc/jupyterhub/dask_site_config.py")
"""

import sys

DASHBOARDS = "https://dask.example.org"  # dashboards.domain of the site file
# A file with what the broker has in secret/portal of dashboards.state.
SECRET = "/etc/jupyterhub/dask-portal"  # noqa: S105

c = get_config()  # noqa: F821
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
_roles = c.JupyterHub.load_roles
_users = [role for role in _roles if role["name"] == "user"] if isinstance(_roles, list) else []
if not _users:
    _users = [{"name": "user", "scopes": ["self"]}]
    _roles.extend(_users)
_users[0]["scopes"].append("access:services!service=dask")
