"""What the sketches in Python have in common: steps come in, what happens goes out."""

import json
import queue
import sys
import threading


def tell(event, **about):
    """Says that something has happened."""
    print("EVENT " + json.dumps({"event": event, **about}), flush=True)


class Steps:
    """The steps that standard input asks for, lines of JSON like ["write", 1, "on"], and who does each."""

    def __init__(self, **doers):
        self._doers = doers
        self._lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in sys.stdin:
            self._lines.put(line)
        self._lines.put(None)

    def take(self):
        """Does what was asked for since the last time, between two turns of the sketch's loop; returns
        whether the sketch is to go on."""
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                return False
            name, *arguments = json.loads(line)
            self._doers[name](*arguments)
        return True
