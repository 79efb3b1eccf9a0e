"""Sketches: programs with a Blynk library, as makers write them, that run beside the tests.

A sketch takes steps on its standard input (`sketch_steps.py`) and prints a line `EVENT {…}` for all that
its library tells it: `connect`, `disconnect`, `write` with `pin` and `values`, `rtc` with `values`, and
`status` with the `code` of an answer. What else it prints is what the library has to say.
"""

import json
import os
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

from waiting import DEADLINE, Watched

FOLDER = Path(__file__).parent

# Seconds between two signs of life. blynklib takes whole seconds and gives up after 1.5 of them, which
# with 1 would leave half a second for an answer.
HEARTBEAT = 2

# Handlers stand at V0 and on, this many.
PINS = 64

# `refused`: what it says to a wrong token. `buffer`: bytes in the longest frame it takes. `takes_all`: whether it takes all frames that come at once;
# blynklib looks at the first of what it has read and forgets the others. `can`: what not all of them can.
Library = namedtuple("Library", "name program refused buffer is_secured takes_all can")

BLYNKLIB = {
    "program": "sketch_blynklib.py",
    "refused": "Invalid Auth Token",
    "buffer": 1024,
    "can": {"email", "rtc"},
}
NPM = {
    "program": "sketch_npm.cjs",
    "refused": "Could not login: INVALID_TOKEN",
    "buffer": 4096,
    "takes_all": True,
    "can": {"bridge", "email", "event", "sync_all"},
}
LIBRARIES = {
    library.name: library
    for library in [
        Library("blynklib", is_secured=False, takes_all=False, **BLYNKLIB),
        # Inside TLS it reads a record at a time, which is one frame.
        Library("blynklib, TLS", is_secured=True, takes_all=True, **BLYNKLIB),
        Library(
            "blynk-library-python",
            program="sketch_blynk_library_python.py",
            refused="Invalid auth token",
            buffer=1024,
            is_secured=False,
            takes_all=True,
            can={"event"},
        ),
        Library("npm", is_secured=False, **NPM),
        Library("npm, TLS", is_secured=True, **NPM),
    ]
}


class Sketch(Watched):
    """A running sketch; use it in a `with`. It is connected when `expect_connects(1)` returns.

    `modules` is the folder that npm has put its package in; `port` another way to the daemon.
    """

    def __init__(self, library, daemon, token, modules, port=None):
        super().__init__()
        self.library = library
        self._events = []
        self._said = []
        self._ended = False
        asked = {
            "token": token,
            "port": port or daemon.ports["https" if library.is_secured else "http"],
            "heartbeat": HEARTBEAT,
            "ca": str(daemon.cafile) if library.is_secured else None,
            "pins": PINS,
        }
        interpreter = "node" if library.program.endswith(".cjs") else sys.executable
        self._process = subprocess.Popen(
            [interpreter, FOLDER / library.program, json.dumps(asked)],
            env=os.environ | {"NODE_PATH": str(modules), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            line = line.rstrip("\n")
            if line.startswith("EVENT "):
                event = json.loads(line.removeprefix("EVENT "))
                self._note(lambda: self._events.append(event))
            else:
                self._note(lambda: self._said.append(line))
        self._note(lambda: setattr(self, "_ended", True))

    def _hopeless(self):
        return self._ended

    def step(self, name, *arguments):
        """Has the sketch call its library."""
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()

    def count(self, event):
        """How often this has happened."""
        with self._changed:
            return sum(e["event"] == event for e in self._events)

    def writes(self, pin):
        """What the handler of V`pin` was called with so far, in order."""
        with self._changed:
            return self._writes(pin)

    def _writes(self, pin):
        return [e["values"] for e in self._events if e["event"] == "write" and e["pin"] == pin]

    def codes(self):
        """The codes of all answers so far."""
        with self._changed:
            return self._codes()

    def _codes(self):
        return [e["code"] for e in self._events if e["event"] == "status"]

    def expect_connects(self, times, seconds=DEADLINE):
        """Waits until the library has told `times` times that it is connected."""
        self._expect(
            lambda: sum(e["event"] == "connect" for e in self._events) >= times, f"connect number {times}", seconds
        )

    def expect_write(self, pin, *values, times=1):
        """Waits until the handler of V`pin` was called with these values, this many times."""
        self._expect(lambda: self._writes(pin).count(list(values)) >= times, f"V{pin} {list(values)} ({times} times)")

    def expect_newest(self, newest, seconds=DEADLINE):
        """Waits until the handler of each pin of `newest` was last called with its value there."""
        self._expect(
            lambda: all(self._writes(pin)[-1:] == [[value]] for pin, value in newest.items()),
            f"{newest} as the newest of their pins",
            seconds,
        )

    def expect_code(self, code, after):
        """Waits for an answer with this code among those that follow the first `after`."""
        self._expect(lambda: code in self._codes()[after:], f"answer {code}")

    def expect_codes(self, count, seconds):
        """Waits until there were `count` answers."""
        self._expect(lambda: len(self._codes()) >= count, f"answer number {count}", seconds)

    def expect_rtc(self):
        """Waits for the time and returns it."""
        event = self._expect(lambda: next((e for e in self._events if e["event"] == "rtc"), None), "time")
        return event["values"]

    def expect_said(self, words):
        """Waits until the library has said `words`."""
        self._expect(lambda: any(words in line for line in self._said), f"word of {words!r}")

    def _expect(self, holds, what, seconds=DEADLINE):
        return self._wait_until(
            holds,
            lambda: (
                f"the sketch with {self.library.name} got no {what}; it got {self._events[-40:]}, "
                f"exit status {self._process.poll()}, and said:\n" + "\n".join(self._said[-40:])
            ),
            seconds,
        )

    def is_running(self):
        return self._process.poll() is None

    def close(self):
        """Ends the sketch as a power cut does."""
        self._process.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
