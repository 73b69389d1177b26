"""Dashboards as they are without this project: each attack that is tried has to work here.

An nginx as its manual shows it, on a login node, in front of a plain Dask dashboard and of a
dashboard that attacks its visitors; one that trusts headers; one that looks at the path as it was
sent and leaves it to another to make sense of it; one that goes wherever it is told; and a proxy
that looks at the first request of a connection alone.
"""

import base64

from attacked import OPEN, ended_by, started

from nodes import node, until, variables

EVERYTHING, TRUSTING, RAW, ANYWHERE, FIRST = 9443, 9444, 9445, 9446, 9447
_BEHIND, DASK, HOSTILE = 9470, 9471, 9472
KEPT_INSIDE, OTHERS_FILE = "kept inside the proxy", "the file of another"
FOLDER = "/run/naive"
#: Headers by which this or that proxy tells who somebody is.
NAMES = (
    "X-Dask-View",
    "X-Dask-Cluster",
    "X-Dask-Upstream",
    "X-Dask-User",
    "X-Original-URI",
    "X-Forwarded-User",
    "X-Remote-User",
    "Remote-User",
    "X-Real-IP",
    "X-Forwarded-For",
    "Authorization",
)
_CLAIMED = "".join("$http_" + name.lower().replace("-", "_") for name in NAMES)
_PASSED = """
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $upgraded;
    proxy_set_header Origin $http_origin;
    proxy_read_timeout 3600s;
"""
NGINX = f"""
worker_processes 1;
error_log stderr;
pid {FOLDER}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {FOLDER}/body; proxy_temp_path {FOLDER}/proxy;
  fastcgi_temp_path {FOLDER}/a; uwsgi_temp_path {FOLDER}/b; scgi_temp_path {FOLDER}/c;
  ssl_certificate {{keys}}/web.pem;
  ssl_certificate_key {{keys}}/web.key;
  map $http_upgrade $upgraded {{ default $http_connection; websocket upgrade; }}
  map "{_CLAIMED}" $claimed {{ default 1; "" 0; }}
  map "$arg_by" $by {{ default http; tls https; }}
  server {{
    listen {EVERYTHING} ssl http2;
    location / {{ proxy_pass http://127.0.0.1:{DASK}; {_PASSED} }}
    location /hostile/ {{ proxy_pass http://127.0.0.1:{HOSTILE}/; {_PASSED} }}
    location /static {{ alias {FOLDER}/public/; }}
    location /go {{ return 302 https://$http_host/status?from=$uri; }}
    location /internal/ {{ internal; return 200 "{KEPT_INSIDE}"; }}
  }}
  server {{
    listen {TRUSTING} ssl http2;
    location / {{ if ($claimed = 0) {{ return 403; }} proxy_pass http://127.0.0.1:{DASK}; }}
  }}
  server {{
    listen {RAW} ssl http2;
    location / {{
      if ($request_uri !~ ^/c/bob/) {{ return 403; }}
      proxy_pass http://127.0.0.1:{_BEHIND};
    }}
  }}
  server {{
    listen 127.0.0.1:{_BEHIND};
    location /c/alice/ {{ proxy_pass http://127.0.0.1:{DASK}/; }}
    location /c/bob/ {{ return 200 "bob's own"; }}
  }}
  server {{
    listen {ANYWHERE} ssl http2;
    location / {{ proxy_pass $by://$arg_to; proxy_set_header Cookie $http_cookie; }}
  }}
}}
"""
# It lets pass /health, and then all that comes on the same connection.
FIRST_ONLY = f"""
import asyncio

async def pass_on(source, sink):
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()

async def serve(reader, writer):
    head = await reader.readuntil(b"\\n")
    if not head.startswith(b"GET /health "):
        writer.write(b"HTTP/1.1 403 Forbidden\\r\\nContent-Length: 0\\r\\n\\r\\n")
        writer.close()
        return
    back, forth = await asyncio.open_connection("127.0.0.1", {DASK})
    forth.write(head)
    await asyncio.gather(pass_on(reader, forth), pass_on(back, writer), return_exceptions=True)

async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", {FIRST})
    await server.serve_forever()

asyncio.run(main())
"""
PLAIN = f"""
{OPEN}
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1,
                           dashboard_address="127.0.0.1:{DASK}")
    tell(port=cluster.scheduler.http_server.port)
    time.sleep(3600)
"""


def begin():
    """Start all of it, but for the dashboard that attacks."""
    end()
    host, state = node("login1"), variables()["site"]["dashboards"]["state"]
    told = started("carol", PLAIN, "plain")
    assert told["port"] == DASK, told
    host.check_output(
        f"install -d {FOLDER} {FOLDER}/public && echo '{OTHERS_FILE}' > {FOLDER}/another.txt"
    )
    for name, text in (
        ("nginx.conf", NGINX.replace("{keys}", f"{state}/proxy")),
        ("first.py", FIRST_ONLY),
    ):
        word = base64.b64encode(text.encode()).decode()
        host.check_output(f"echo {word} | base64 -d > {FOLDER}/{name}")
    for name, command in (
        ("nginx", f"/usr/sbin/nginx -c {FOLDER}/nginx.conf -g 'daemon off;'"),
        ("first", f"/usr/bin/python3 {FOLDER}/first.py"),
    ):
        host.check_output(f"systemd-run --unit naive-{name} {command}")
    for port in (EVERYTHING, TRUSTING, RAW, ANYWHERE, FIRST):
        assert until(lambda port=port: f":{port} " in host.run("ss -Hltn").stdout), host.run(
            "journalctl --no-pager -u naive-nginx -u naive-first"
        ).stdout


def end():
    """End it."""
    ended_by("carol", "plain")
    node("login1").run(
        "systemctl stop naive-nginx naive-first 2>/dev/null; "
        f"systemctl reset-failed naive-nginx naive-first 2>/dev/null; rm -rf {FOLDER}"
    )
