"""Starts and ends the pinhook under test."""

import os
import re
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import certificate
from waiting import DEADLINE, Watched

LISTEN = """\
listen:
  mqtt: 127.0.0.1:0
  mqtts: 127.0.0.1:0
  http: 127.0.0.1:0
  https: 127.0.0.1:0
tls:
  certificate: server.pem
  key: server.key
"""

CONFIG = (
    LISTEN
    + """\
devices:
  porch:
    token: ${PORCH_TOKEN}
    pins:
      V3: { name: lamp }
  shed:
    token: ${SHED_TOKEN}
users:
  anna:
    password: '%(hash)s'
    publish: ["pinhook/porch/set/#", "notes/#"]
    subscribe: ["pinhook/#", "notes/#"]
  guest:
    password: '%(hash)s'
    subscribe: ["pinhook/porch/state/#"]
webhooks:
  echo:
    device: porch
    pin: V0
    every: 0
    url: "%(service)s/echo?v={{ value }}"
  pair:
    device: porch
    pin: V1
    every: 0
    url: "%(service)s/pair"
    json: { first: "{{ values[0] }}", second: "{{ values[1] }}" }
    response:
      value: ["{{ json.second }}", "{{ json.first }}"]
  failing:
    device: porch
    pin: V2
    every: 0
    url: "%(service)s/fail"
  bell:
    device: porch
    event: ring
    when: value_text != "quiet"
    url: "%(service)s/echo?v={{ value }}"
    every: 0
    response: { to: V4 }
  holding:
    device: porch
    pin: V10
    every: 0
    url: "%(service)s/hold?v={{ value }}"
"""
)

# For the cases with Blynk's libraries, each of which has a pinhook of its own.
SKETCHES_CONFIG = (
    LISTEN
    + """\
tz: Asia/Kolkata
devices:
  porch:
    token: ${PORCH_TOKEN}
    bridge_to: [shed]
  shed:
    token: ${SHED_TOKEN}
users:
  anna:
    password: '%(hash)s'
    publish: ["pinhook/+/set/#"]
    subscribe: ["pinhook/#"]
webhooks:
  echo:
    device: "*"
    pin: V1
    every: 0
    url: "%(service)s/echo?v={{ value }}"
  notice:
    device: porch
    event: notify
    every: 0
    url: "%(service)s/echo?v={{ value }}"
    response: { to: none }
  bell:
    device: porch
    event: ring
    every: 0
    url: "%(service)s/echo?v={{ value }}"
    response: { to: V6 }
"""
)

# What the clock of that zone is before UTC, all year.
ZONE_SECONDS = 5.5 * 3600

PORCH_TOKEN = "porch-token-of-the-client-tests"
SHED_TOKEN = "shed-token-of-the-client-tests"
USER_PASSWORD = "correct horse battery staple"


def hash_password(binary):
    """What `pinhook passwd` prints for USER_PASSWORD given on its standard input."""
    run = subprocess.run(
        [binary, "passwd"], input=USER_PASSWORD + "\n", capture_output=True, text=True, timeout=DEADLINE
    )
    lines = run.stdout.split()
    if run.returncode != 0 or len(lines) != 1 or not lines[0].startswith("$argon2id$"):
        raise AssertionError(f"pinhook passwd: exit {run.returncode}, printed {run.stdout!r} {run.stderr!r}")
    return lines[0]


class Daemon(Watched):
    """One pinhook process on free ports, with a directory of its own; `terminate` or `kill` ends it.

    `config` begins with LISTEN, and `secrets` are what its `${NAME}` stand for.
    """

    def __init__(self, binary, config, secrets):
        super().__init__()
        self._binary = binary
        self._secrets = secrets
        self._home = tempfile.TemporaryDirectory(prefix="pinhook-clients-")
        self._config = Path(self._home.name) / "config.yaml"
        self._config.write_text(config)
        certificate.make(self._home.name)
        self.cafile = Path(self._home.name) / "server.pem"
        self._log = []
        self._start()

    def _start(self):
        """Starts a process with the configuration as it is and waits until it listens."""
        start = len(self._log)
        # No proxy of this machine may come between pinhook and the service.
        env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._process = subprocess.Popen(
            [self._binary, "--config", self._config],
            cwd=self._home.name,
            env=env | self._secrets,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._open = {"stdout": self._process.stdout, "stderr": self._process.stderr}
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True) for name, stream in self._open.items()
        ]
        for reader in self._readers:
            reader.start()
        try:
            # It says where it listens in one breath; `https` comes last.
            self.ports = self._wait_until(
                lambda: self._announced_ports(start),
                lambda: (
                    "pinhook did not print 'listening on SCHEME 127.0.0.1:PORT' for mqtt, mqtts, http and https on "
                    f"its standard output (exit status {self._process.poll()}); it printed:\n{self.log(start)}"
                ),
            )
            self.port = self.ports["mqtt"]
        except BaseException:
            self.kill()
            raise

    def restart(self):
        """Ends the process as a power cut does, and starts another on the same ports."""
        self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(DEADLINE)
        text = self._config.read_text()
        for way, port in self.ports.items():
            text = text.replace(f"  {way}: 127.0.0.1:0\n", f"  {way}: 127.0.0.1:{port}\n")
        self._config.write_text(text)
        self._start()

    def _read(self, name, stream):
        for line in stream:
            line = line.rstrip("\n")
            self._note(lambda: self._log.append((name, line)))
        self._note(lambda: self._open.pop(name))

    def _announced_ports(self, start):
        ports = {}
        for name, line in self._log[start:]:
            found = name == "stdout" and re.search(r"listening on (\w+) 127\.0\.0\.1:([1-9][0-9]*)\b", line)
            if found:
                ports[found.group(1)] = int(found.group(2))
        return ports if ports.keys() == {"mqtt", "mqtts", "http", "https"} else None

    def _hopeless(self):
        return not self._open

    def reload(self, change, says):
        """Saves the configuration as `change` makes it of what is there, asks for a reload with SIGHUP, and
        waits until the log says so."""
        self._config.write_text(change(self._config.read_text()))
        start = self.log_length()
        self._process.send_signal(signal.SIGHUP)
        self._wait_until(
            lambda: says in self.log(start), lambda: f"a reload did not say {says!r}; log:\n{self.log(start)}"
        )

    def expect_log(self, says, start=0):
        """Waits until the log says `says`, from line `start` on."""
        self._wait_until(lambda: says in self.log(start), lambda: f"no {says!r} in the log:\n{self.log(start)}")

    def is_running(self):
        return self._process.poll() is None

    def exit_status(self):
        return self._process.poll()

    def log(self, start=0):
        """The lines printed so far, from number `start` on."""
        return "\n".join(f"  {name}: {line}" for name, line in self._log[start:])

    def log_length(self):
        return len(self._log)

    def terminate(self):
        """Sends SIGTERM and returns at once."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds):
        """The exit status, once the process has ended; fails after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"pinhook still runs {seconds} s after SIGTERM") from None

    def kill(self):
        """Ends the process, whatever its state, and removes its directory."""
        if self.is_running():
            self._process.kill()
        self._process.wait()
        self._home.cleanup()
