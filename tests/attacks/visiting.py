"""A browser's part in HTTP, with nothing that a browser would refuse to send."""

import base64
import http.client
import os
import re
import socket
import ssl
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from http2 import Http2

COOKIE = "__Host-dask-site"
PORT = 8443
_SECONDS = 30


class NoAnswerError(Exception):
    """There was none: the proxy reset the request, or ended the connection."""


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def text(self):
        return self.body.decode("utf-8", "replace")

    def header(self, name):
        found = self.headers.get(name.lower(), [])
        return found[0] if found else None


@dataclass
class Visitor:
    """Somebody who calls the proxy of a login node, as one browser.

    Parameters
    ----------
    address : str
        Of the login node, which no DNS knows here.
    authority : path
        The certificate of who vouches for the proxy.
    """

    address: str
    authority: Path
    domain: str
    cookies: dict[str, str] = field(default_factory=dict)
    page_of: dict[str, str] = field(default_factory=dict)
    port: int = PORT

    def origin(self, cluster=""):
        name = f"{cluster}.{self.domain}" if cluster else self.domain
        return f"https://{name}:{self.port}"

    def request(self, url, method="GET", body=None, headers=None, cookie=True, address=None):
        """Send one request; with its cookie, keep one that comes back."""
        parts = urlsplit(url)
        sent = {"Host": parts.netloc, **(headers or {})}
        if cookie and parts.hostname in self.cookies and "Cookie" not in sent:
            sent["Cookie"] = f"{COOKIE}={self.cookies[parts.hostname]}"
        if body is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection = self.connection(parts.hostname, address)
        target = parts.path or "/"
        target += f"?{parts.query}" if parts.query else ""
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            headers_in = {}
            for name, value in answer.getheaders():
                headers_in.setdefault(name.lower(), []).append(value)
            found = Answer(answer.status, headers_in, answer.read())
        finally:
            connection.close()
        if cookie:
            self._keep(parts.hostname, found)
        if b'"token":' in found.body:
            self.page_of[parts.hostname] = found.text
        return found

    def statuses(self, origin, paths, headers, cookie=True):
        """Ask for paths on a connection that is kept; return their statuses."""
        host, found, connection = urlsplit(origin), {}, None
        sent = {"Host": host.netloc, **headers}
        if cookie and host.hostname in self.cookies:
            sent["Cookie"] = f"{COOKIE}={self.cookies[host.hostname]}"
        for path in paths:
            connection = connection or self.connection(host.hostname)
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            answer.read()
            found[path] = answer.status
            if answer.will_close or answer.status == 101:
                connection = connection.close()
        return found

    def connection(self, hostname, address=None):
        """Return a connection on which anything can be sent, that names a host."""
        connection = http.client.HTTPSConnection(hostname, self.port, timeout=_SECONDS)
        connection.sock = self.stream(hostname, address)
        return connection

    def stream(self, hostname, address=None, protocols=(), **files):
        """Return a stream with TLS to the proxy."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        if files:
            context.load_cert_chain(**files)
        plain = socket.create_connection((address or self.address, self.port), _SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return context.wrap_socket(plain, server_hostname=hostname)
        except BaseException:
            plain.close()
            raise

    def raw(self, hostname, data, seconds=2):
        """Send bytes as they are; return all that comes until the end, or nothing more does."""
        came = b""
        with self.stream(hostname) as stream:
            stream.settimeout(seconds)
            stream.sendall(data.encode("latin-1"))
            try:
                while part := stream.recv(65536):
                    came += part
            except OSError:
                pass
        return came

    def http2(self, hostname):
        """Return a connection on which HTTP/2 is spoken, with whatever is in it."""
        return Http2(self.stream(hostname, protocols=["h2"]))

    def asking(self, url, method="GET", cookie=True):
        """Return the headers with which HTTP/2 begins."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        names = (":method", ":scheme", ":authority", ":path")
        headers = list(zip(names, (method, "https", parts.netloc, target), strict=True))
        if cookie and parts.hostname in self.cookies:
            headers.append(("cookie", f"{COOKIE}={self.cookies[parts.hostname]}"))
        return headers

    def log_in(self, link):
        """Use a link of the command line, as its page does."""
        word = urlsplit(link).fragment
        headers = {"Origin": self.origin()}
        body = urlencode({"word": word}).encode()
        return self.request(f"{self.origin()}/login", "POST", body, headers)

    def go(self, url, **more):
        """Open a page as a click does, wherever it leads."""
        for _ in range(8):
            answer = self.request(url, headers=NAVIGATION, **more)
            to = answer.header("location")
            if answer.status not in {301, 302, 303, 307} or not to:
                return answer
            parts = urlsplit(url)
            url = to if to.startswith("https:") else f"{parts.scheme}://{parts.netloc}{to}"
        raise AssertionError(f"it leads in a circle: {url}")

    def websocket(self, cluster, path="/status/ws", origin=None, cookie=None, address=None):
        """Ask for a WebSocket; return (status, stream)."""
        hostname = f"{cluster}.{self.domain}" if cluster else self.domain
        stream = self.stream(hostname, address)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {hostname}:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        ]
        if origin is None:
            origin = self.origin(cluster)
        found = re.search(r'"token":"([^"]+)"', self.page_of.get(hostname, ""))
        if found:
            lines.append(f"Sec-WebSocket-Protocol: bokeh, {found[1]}")
        if origin:
            lines.append(f"Origin: {origin}")
        word = self.cookies.get(hostname) if cookie is None else cookie
        if word:
            lines.append(f"Cookie: {COOKIE}={word}")
        stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            part = stream.recv(4096)
            if not part:
                break
            head += part
        found = re.match(rb"HTTP/1.1 (\d+)", head)
        return (int(found[1]) if found else 0), stream

    def curl(self, url, *arguments, cookie=True):
        """Send a request over HTTP/2; return (status, text).

        Raises
        ------
        NoAnswerError
            If there is none.
        """
        parts = urlsplit(url)
        command = ["curl", "--http2", "--silent", "--show-error", "--include", "--path-as-is"]
        command += ["--max-time", "15", "--cacert", str(self.authority)]
        command += ["--connect-to", f"::{self.address}:"]
        if cookie and parts.hostname in self.cookies:
            command += ["--cookie", f"{COOKIE}={self.cookies[parts.hostname]}"]
        done = subprocess.run([*command, *arguments, url], capture_output=True)
        text = done.stdout.decode("utf-8", "replace")
        found = re.match(r"HTTP/2 (\d+)", text)
        if found is None:
            raise NoAnswerError(done.stderr.decode("utf-8", "replace").strip())
        return int(found[1]), text

    def _keep(self, hostname, answer):
        for line in answer.headers.get("set-cookie", []):
            name, _, rest = line.partition("=")
            value = rest.partition(";")[0]
            if name == COOKIE:
                if value.strip('"'):
                    self.cookies[hostname] = value
                else:
                    self.cookies.pop(hostname, None)


NAVIGATION = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
