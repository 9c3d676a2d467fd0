"""A network between a client and a server, for tests: it can be cut, and swallow everything."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Network:
    """Forwards connections to (host, port), as long as it `carries`."""

    def __init__(self, host, port):
        self._server = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ends = []
        self.carries = threading.Event()
        self.carries.set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def cut(self):
        """Break what is connected; whoever connects from now on is broken off, too."""
        self.carries.clear()
        for end in self._ends:
            end.close()
        self._ends.clear()

    def close(self):
        self.cut()
        self._listening.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if not self.carries.is_set():
                client.close()
                continue
            server = socket.create_connection(self._server)
            self._ends += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_forward, args=(source, target), daemon=True).start()


def _forward(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@contextmanager
def network_to(address: str) -> Iterator[Network]:
    host, _, port = address.removeprefix("http://").rpartition(":")
    network = Network(host, int(port))
    try:
        yield network
    finally:
        network.close()
