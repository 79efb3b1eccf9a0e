"""Waiting for what other threads see: with a deadline and a message, never by sleeping."""

import threading
import time

# Seconds that anything may take before it counts as not happening. Generous: the machine may be busy,
# and a run in which everything works never waits that long.
DEADLINE = 10


class Watched:
    """Facts that one thread notes and another waits for."""

    def __init__(self):
        self._changed = threading.Condition()

    def _note(self, change):
        """Calls `change` and wakes whoever waits."""
        with self._changed:
            change()
            self._changed.notify_all()

    def _wait_until(self, holds, problem, seconds=DEADLINE):
        """Returns what `holds` returns once that is true; fails with `problem()` after the deadline,
        or at once when `_hopeless` says that nothing more will come."""
        end = time.monotonic() + seconds
        with self._changed:
            while not (found := holds()):
                left = end - time.monotonic()
                if left <= 0 or self._hopeless():
                    raise AssertionError(problem())
                self._changed.wait(left)
            return found

    def _hopeless(self):
        return False


class Message:
    """What a client received: topic, payload in bytes, QoS, the retained flag, and what was left of its
    message expiry in seconds (MQTT 5, and only where the client tells)."""

    def __init__(self, topic, payload, qos, retained):
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retained = retained
        self.expiry = None

    def __repr__(self):
        return f"{self.topic}{' (retained)' if self.retained else ''} QoS {self.qos} {self.payload!r}"


class Receiver(Watched):
    """An MQTT client that keeps every message it received."""

    def __init__(self):
        super().__init__()
        self._messages = []

    def received(self):
        """All messages so far, in order."""
        with self._changed:
            return list(self._messages)

    def expect(self, topic, payload):
        """The first message with this topic and payload; waits for it."""
        return self.expect_where(topic, lambda got: got == payload, repr(payload))

    def expect_latest(self, topic, payload):
        """Waits until the latest message on this topic has this payload, and returns it."""

        def found():
            latest = [m for m in self._messages if m.topic == topic][-1:]
            return latest[0] if latest and latest[0].payload == payload else None

        return self._wait_until(
            found, lambda: f"{type(self).__name__}: {topic} did not become {payload!r}; it got {self._messages}"
        )

    def expect_where(self, topic, accepts, what):
        """The first message on this topic whose payload `accepts` takes; waits for it."""
        return self._wait_until(
            lambda: next((m for m in self._messages if m.topic == topic and accepts(m.payload)), None),
            lambda: f"{type(self).__name__} got no {what} on {topic}; it got {self._messages}",
        )


def expect_in(receivers, topic, payload):
    """Waits until one of the receivers has the message."""
    end = time.monotonic() + DEADLINE
    while not any(m.topic == topic and m.payload == payload for each in receivers for m in each.received()):
        assert time.monotonic() < end, f"nobody got {payload!r} on {topic}"
        time.sleep(0.01)
