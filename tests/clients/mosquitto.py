"""mosquitto_pub and mosquitto_sub as programs, the way a maker calls them."""

import signal
import subprocess
import threading
import uuid

from waiting import DEADLINE, Message, Receiver


def _arguments(program, login, version):
    trusted = ["--cafile", str(login.cafile)] if login.cafile else []
    return [
        # mosquitto_sub writes to a pipe in blocks otherwise, and a line would come too late.
        "stdbuf", "-oL", program, "-V", version, "-h", "127.0.0.1", "-p", str(login.port),
        "-u", login.user, "-P", login.password, "-i", f"{program}-{uuid.uuid4().hex[:8]}", *trusted,
    ]  # fmt: skip


def publish(login, version, topic, payload, qos=1, retain=False):
    """Runs mosquitto_pub; returns its exit status and what it printed. The payload goes by standard
    input, so it may hold a NUL; an empty one is sent as an empty message."""
    command = _arguments("mosquitto_pub", login, version) + ["-t", topic, "-q", str(qos)]
    command += ["-s"] if payload else ["-n"]
    command += ["-r"] if retain else []
    run = subprocess.run(command, input=payload, capture_output=True, timeout=DEADLINE)
    return run.returncode, (run.stdout + run.stderr).decode(errors="replace").strip()


def publish_ok(login, version, topic, payload, qos=1, retain=False):
    """Runs mosquitto_pub and expects it to succeed without a word."""
    status, printed = publish(login, version, topic, payload, qos, retain)
    assert (status, printed) == (0, ""), f"mosquitto_pub -t {topic}: exit {status}, printed {printed!r}"


class Subscriber(Receiver):
    """A running mosquitto_sub that has its SUBACK when the constructor returns; use it in a `with`.

    `granted` holds the SUBACK's code for each filter. `will` is a topic and a payload.
    """

    def __init__(self, login, version, *filters, qos=1, will=None):
        super().__init__()
        command = _arguments("mosquitto_sub", login, version) + ["-d", "-q", str(qos), "-F", "MESSAGE %r %q %t %x"]
        for each in filters:
            command += ["-t", each]
        if will is not None:
            command += ["--will-topic", will[0], "--will-payload", will[1], "--will-qos", "1"]
        self.granted = None
        self._ended = False
        self._lines = []
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._wait_until(lambda: self.granted, lambda: f"mosquitto_sub got no SUBACK; it printed {self._lines}")
        except BaseException:
            self.cut()
            raise

    def _read(self):
        for line in self._process.stdout:
            line = line.rstrip("\n")
            self._note(lambda: self._take(line))
        self._note(lambda: setattr(self, "_ended", True))

    def _take(self, line):
        self._lines.append(line)
        if line.startswith("MESSAGE "):
            _, retained, qos, rest = line.split(" ", 3)
            topic, _, payload = rest.rpartition(" ")
            self._messages.append(Message(topic, bytes.fromhex(payload), int(qos), retained == "1"))
        elif line.startswith("Subscribed (mid: "):
            self.granted = [int(code) for code in line.split(": ")[-1].split(", ")]

    def _hopeless(self):
        return self._ended

    def cut(self):
        """Ends the program with no chance to say goodbye (no DISCONNECT on the wire)."""
        self._process.kill()
        self._process.wait()

    def close(self):
        """Ends the program as Ctrl-C does: it sends DISCONNECT, under MQTT 5 with the reason 0x04, which
        asks for the will (MQTT-3.14.4-3)."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.cut()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
