"""A dashboard of bob's that attacks whom it is shown to.

It is registered like any other, and listens on a port as well, for a proxy that protects nobody.
"""

import base64
import json

from attacked import ended_by, started
from naive import HOSTILE
from visiting import COOKIE

CODE = """
import base64, socket, threading
from dask_site.dashboards import asking
connection = asking.connect(asking.places(), {"op": "register", "name": "evil", "kind": "x"})
data, given, _, _ = socket.recv_fds(connection, 65536, 1)
ANSWERS = json.loads(base64.b64decode("%s"))

def endless(one, part, pause):
    one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\n\\r\\n")
    try:
        while True:
            one.sendall(part)
            time.sleep(pause)
    except OSError:
        pass

def dribble(one):
    try:
        for letter in b"HTTP/1.1 200 OK\\r\\nX-Long: " + b"x" * 100000:
            one.sendall(bytes([letter]))
            time.sleep(0.3)
    except OSError:
        pass

def serve(one):
    asked = one.recv(65536).decode("latin-1")
    path = asked.split(" ")[1]
    if path == "/echo":
        body = asked.encode()
        one.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nConnection: close\\r\\n"
                    b"Content-Length: " + str(len(body)).encode() + b"\\r\\n\\r\\n" + body)
    elif path == "/endless":
        endless(one, b"x" * 65536, 0)
    elif path == "/slow":
        endless(one, b"x", 0.3)
    elif path == "/dribble":
        dribble(one)
    elif path == "/silent":
        time.sleep(3600)
    else:
        one.sendall(ANSWERS.get(path, ANSWERS["/"]).encode("latin-1"))
    one.close()

def listen(listener):
    listener.setblocking(True)
    listener.settimeout(None)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

for one in (socket.socket(fileno=given[0]), socket.create_server(("127.0.0.1", %d))):
    threading.Thread(target=listen, args=(one,), daemon=True).start()
tell(**json.loads(data))
time.sleep(3600)
"""
HEADERS = {
    "Set-Cookie": f"{COOKIE}=tossed; Path=/; Secure",
    "Service-Worker-Allowed": "/",
    "Clear-Site-Data": '"*"',
    "NEL": '{"report_to":"x","max_age":9}',
    "Report-To": '{"group":"x","max_age":9,"endpoints":[{"url":"https://evil.example"}]}',
    "Refresh": "0; url=https://evil.example",
    "Link": "<https://evil.example>; rel=preload",
    "Access-Control-Allow-Origin": "*",
    "Alt-Svc": 'h3="evil.example:443"',
    "Strict-Transport-Security": "max-age=0",
    "Content-Security-Policy": "default-src *",
    "Public-Key-Pins": "x",
    "SourceMap": "https://evil.example",
    "X-Dask-Upstream": "http://evil.example",
}
_OK = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\nConnection: close\r\n"
_MOVED = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
AWAY = ("/absolute", "/relative", "/slashes", "/script")
NO_HTTP = ("/old", "/text")
ANSWERS = {
    "/": _OK + "".join(f"{k}: {v}\r\n" for k, v in HEADERS.items()) + "\r\nok",
    "/inside": f"{_OK}X-Accel-Redirect: /internal/auth\r\n\r\nok",
    "/absolute": f"{_MOVED}https://evil.example/\r\n\r\n",
    "/relative": f"{_MOVED}//evil.example/\r\n\r\n",
    "/slashes": f"{_MOVED}/\\evil.example/\r\n\r\n",
    "/script": f"{_MOVED}javascript:alert(1)\r\n\r\n",
    "/within": f"{_MOVED}/status\r\n\r\n",
    # What an old nginx takes for HTTP/0.9, and passes on as it is
    "/text": "tossed\r\n",
    "/old": f"\nHTTP/1.1 200 OK\r\nSet-Cookie: {COOKIE}=tossed\r\nContent-Length: 2\r\n\r\nok",
    "/split": "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\nmore",
}


def begin(as_user):
    """Start it, and share it with alice; return its id."""
    end()
    code = CODE % (base64.b64encode(json.dumps(ANSWERS).encode()).decode(), HOSTILE)
    name = started("bob", code, "hostile")["id"]
    share = f"module load dask-site && dask-site dashboards share {name} alice --for 1h"
    done = as_user("bob", share)
    assert done.rc == 0, done.stderr
    return name


def end():
    """End it."""
    ended_by("bob", "hostile")
