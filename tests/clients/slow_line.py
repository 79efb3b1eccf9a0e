"""A slow line between a sketch and pinhook, such as a bad Wi-Fi is."""

import socket
import threading
import time
from contextlib import suppress


class SlowLine:
    """Passes on what comes to `port`, with a delay towards pinhook and none back; use it in a `with`."""

    def __init__(self, to, delay):
        self._to = to
        self._delay = delay
        self._sockets = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sketch, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            pinhook = socket.create_connection(("127.0.0.1", self._to))
            pinhook.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [sketch, pinhook]
            for source, sink, delay in ((sketch, pinhook, self._delay), (pinhook, sketch, 0)):
                threading.Thread(target=self._pass_on, args=(source, sink, delay), daemon=True).start()

    def _pass_on(self, source, sink, delay):
        # What goes wrong at one end, the other is to see.
        with suppress(OSError):
            while some := source.recv(65536):
                time.sleep(delay)
                sink.sendall(some)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        # Wakes the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            each.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
