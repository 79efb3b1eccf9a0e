#!/usr/bin/env python3
"""Real clients against a real pinhook: mosquitto_pub and mosquitto_sub, paho-mqtt, and npm's mqtt.

    tests/clients/run.py [BINARY [WORD]]

BINARY is target/debug/pinhook unless given; with WORD only the cases whose name contains it run.
Needs Debian's mosquitto-clients, openssl and nodejs, the Python package paho-mqtt, and the npm package
mqtt in target/clients-npm; tests/run provides them.
"""

import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True  # the checkout stays as it was

from cases import CASES
from daemon import Daemon, hash_password
from service import Service
from waiting import DEADLINE


TOP = Path(__file__).resolve().parents[2]


def node_modules():
    """Where tests/run has put the npm package."""
    return (TOP / os.environ.get("CARGO_TARGET_DIR", "target") / "clients-npm" / "node_modules").resolve()


class World:
    """What a case gets: the service, a running pinhook, and a way to start one more."""

    def __init__(self, binary):
        self._binary = binary
        self._password_hash = hash_password(binary)
        self.node_modules = node_modules()
        self.service = Service()
        self.daemon = self.start()

    def start(self):
        """Another pinhook with the same configuration; the caller ends it."""
        return Daemon(self._binary, self.service.url, self._password_hash)

    def check(self, config):
        """What `pinhook check` says to `config`: its exit status and what it printed."""
        run = subprocess.run([self._binary, "check", config], capture_output=True, text=True, timeout=DEADLINE)
        return run.returncode, run.stdout + run.stderr

    def close(self):
        self.daemon.kill()
        self.service.close()


def run_case(world, name, body):
    """Runs one case and prints its result; returns whether it passed."""
    if not world.daemon.is_running():
        world.daemon.kill()
        world.daemon = world.start()
    log_start = world.daemon.log_length()
    begin = time.monotonic()
    try:
        body(world)
        if not world.daemon.is_running():
            raise AssertionError(f"pinhook has ended, exit status {world.daemon.exit_status()}")
    except Exception as problem:
        print(f"FAILED {name}: {problem}")
        if not isinstance(problem, AssertionError):
            traceback.print_exc(file=sys.stdout)
        print(f"pinhook's log during this case:\n{world.daemon.log(log_start) or '  (nothing)'}", flush=True)
        return False
    print(f"passed {name} ({time.monotonic() - begin:.1f} s)", flush=True)
    return True


def main(arguments):
    binary = Path(arguments[0] if arguments else TOP / "target/debug/pinhook").resolve()
    word = arguments[1] if len(arguments) > 1 else ""
    if not binary.is_file():
        return f"no binary at {binary}; build it with: cargo build --locked"
    for program in ("mosquitto_pub", "mosquitto_sub", "stdbuf", "openssl", "node"):
        if shutil.which(program) is None:
            return f"{program} is missing (Debian packages mosquitto-clients, coreutils, openssl and nodejs)"
    if not (node_modules() / "mqtt").is_dir():
        return f"the npm package mqtt is missing in {node_modules()}; tests/run puts it there"
    cases = [(name, body) for name, body in CASES if word in name]
    if not cases:
        return f"no case has {word!r} in its name"

    try:
        world = World(binary)
    except AssertionError as problem:
        return f"pinhook did not start: {problem}"
    try:
        passed = sum(run_case(world, name, body) for name, body in cases)
        failed = len(cases) - passed
        world.daemon.terminate()
        status = world.daemon.wait(DEADLINE)
        if status != 0:
            print(f"FAILED the end: exit status {status} after SIGTERM, expected 0; log:\n{world.daemon.log()}")
            failed += 1
    finally:
        world.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
