#!/usr/bin/env python3
"""Real clients against a real pinhook: mosquitto_pub and mosquitto_sub, paho-mqtt, npm's mqtt, and Blynk's
libraries: blynklib and blynk-library-python of PyPI, blynk-library of npm.

    tests/clients/run.py [BINARY [WORD]]

BINARY is target/debug/pinhook unless given; with WORD only the cases whose name contains it run.
Needs Debian's mosquitto-clients, openssl and nodejs, the Python packages named, and the npm packages in
target/clients-npm; tests/run provides them.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.dont_write_bytecode = True  # the checkout stays as it was

from cases import CASES
from daemon import CONFIG, PORCH_TOKEN, SHED_TOKEN, SKETCHES_CONFIG, Daemon, hash_password
from service import Service
from sketch_cases import SKETCH_CASES
from waiting import DEADLINE


# Cases that run at a time where each has a pinhook of its own.
SIDE_BY_SIDE = 5

TOP = Path(__file__).resolve().parents[2]


def node_modules():
    """Where tests/run has put the npm package."""
    return (TOP / os.environ.get("CARGO_TARGET_DIR", "target") / "clients-npm" / "node_modules").resolve()


class World:
    """What a case gets: the service, a running pinhook, and a way to start one more."""

    def __init__(self, binary, service, password_hash):
        self._binary = binary
        self._password_hash = password_hash
        self.node_modules = node_modules()
        self.service = service
        self.daemon = self.start()

    def start(self):
        """Another pinhook with the same configuration; the caller ends it."""
        return self._start(CONFIG, {"PORCH_TOKEN": PORCH_TOKEN, "SHED_TOKEN": SHED_TOKEN})

    def _start(self, config, tokens):
        config %= {"service": self.service.url, "hash": self._password_hash}
        return Daemon(self._binary, config, tokens)

    def check(self, config):
        """What `pinhook check` says to `config`: its exit status and what it printed."""
        run = subprocess.run([self._binary, "check", config], capture_output=True, text=True, timeout=DEADLINE)
        return run.returncode, run.stdout + run.stderr

    def close(self):
        self.daemon.kill()


class SketchWorld(World):
    """What a case with sketches gets: a pinhook for itself, whose devices have tokens of their own."""

    def start(self):
        self.porch_token, self.shed_token = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        return self._start(SKETCHES_CONFIG, {"PORCH_TOKEN": self.porch_token, "SHED_TOKEN": self.shed_token})


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
        told = f"FAILED {name}: {problem}\n"
        if not isinstance(problem, AssertionError):
            told += traceback.format_exc()
        # At once, since cases may run side by side.
        print(f"{told}pinhook's log during this case:\n{world.daemon.log(log_start) or '  (nothing)'}", flush=True)
        return False
    print(f"passed {name} ({time.monotonic() - begin:.1f} s)", flush=True)
    return True


def run_one_by_one(world, cases):
    """Runs the cases against one pinhook, which is then told to end; returns how many passed and failed."""
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
    return passed, failed


def run_side_by_side(start, cases):
    """Runs the cases, which mostly wait, together, each in a world that `start` makes; returns how many
    passed and failed."""

    def run(case):
        world = start()
        try:
            return run_case(world, *case)
        finally:
            world.close()

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = list(pool.map(run, cases))
    return results.count(True), results.count(False)


def main(arguments):
    binary = Path(arguments[0] if arguments else TOP / "target/debug/pinhook").resolve()
    word = arguments[1] if len(arguments) > 1 else ""
    if not binary.is_file():
        return f"no binary at {binary}; build it with: cargo build --locked"
    for program in ("mosquitto_pub", "mosquitto_sub", "stdbuf", "openssl", "node"):
        if shutil.which(program) is None:
            return f"{program} is missing (Debian packages mosquitto-clients, coreutils, openssl and nodejs)"
    for package in ("mqtt", "blynk-library"):
        if not (node_modules() / package).is_dir():
            return f"the npm package {package} is missing in {node_modules()}; tests/run puts it there"
    cases = [case for case in CASES if word in case[0]]
    sketch_cases = [case for case in SKETCH_CASES if word in case[0]]
    if not cases and not sketch_cases:
        return f"no case has {word!r} in its name"

    service = Service()
    passed = failed = 0
    try:
        password_hash = hash_password(binary)
        if cases:
            passed, failed = run_one_by_one(World(binary, service, password_hash), cases)
        if sketch_cases:
            more = run_side_by_side(lambda: SketchWorld(binary, service, password_hash), sketch_cases)
            passed, failed = passed + more[0], failed + more[1]
    except AssertionError as problem:
        return f"pinhook did not start: {problem}"
    finally:
        service.close()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
