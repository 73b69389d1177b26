"""HTTP/2 with what no browser sends: any header, any order, bodies that are not what they say."""

import ssl

import h2.config
import h2.connection
import h2.events
import h2.exceptions

_PART = 65536


class RefusedError(Exception):
    """The other end reset the stream, or ended the connection."""


class Http2:
    """A connection to a proxy.

    Parameters
    ----------
    stream : ssl.SSLSocket
        On which HTTP/2 was agreed.
    """

    def __init__(self, stream):
        assert stream.selected_alpn_protocol() == "h2"
        anything = {
            "validate_outbound_headers": False,
            "normalize_outbound_headers": False,
            "validate_inbound_headers": False,
        }
        self._stream = stream
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(**anything))
        self._h2.initiate_connection()
        self._send()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def begin(self, headers, body=b"", ends=True):
        """Send a request; return the number of its stream."""
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, headers, end_stream=ends and not body)
        self._send()
        if body:
            self._h2.send_data(number, body, end_stream=ends)
            self._send()
        return number

    def answer(self, number, most=1 << 20):
        """Return (status, headers, body) of a request.

        Raises
        ------
        RefusedError
            If there is none.
        """
        headers, body = [], b""
        for event in self._events():
            if getattr(event, "stream_id", None) != number:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]
            elif isinstance(event, h2.events.DataReceived):
                body += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, number)
                self._send()
            elif isinstance(event, h2.events.StreamReset):
                raise RefusedError(f"stream reset, {event.error_code!r}")
            if isinstance(event, h2.events.StreamEnded) or len(body) >= most:
                return int(dict(headers)[":status"]), headers, body
        raise RefusedError("the connection ended")

    def ask(self, headers, body=b""):
        """Send a request, and return its answer as `answer` does."""
        return self.answer(self.begin(headers, body))

    def takes_websockets(self):
        """Say whether the other end offers WebSockets over HTTP/2 (RFC 8441)."""
        self.ask([(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/")])
        return bool(self._h2.remote_settings.enable_connect_protocol)

    def _events(self):
        while True:
            try:
                data = self._stream.recv(_PART)
            except (ConnectionError, ssl.SSLError):
                return
            if not data:
                return
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.ProtocolError as error:
                raise RefusedError(str(error)) from error
            self._send()
            for event in events:
                if isinstance(event, h2.events.ConnectionTerminated):
                    return
                yield event

    def _send(self):
        self._stream.sendall(self._h2.data_to_send())
