"""The npm package `mqtt`, in a Node of its own for each turn of the ring."""

import json
import os
import subprocess
from pathlib import Path

from waiting import DEADLINE

PROGRAM = Path(__file__).with_name("npm_client.cjs")
VERSIONS = {"3.1.1": 4, "5": 5}


def ring(url, login, version, value, qos, modules):
    """Writes `value` to V0 through `url` and returns what came back on the downlink: a dictionary of
    topic, payload and qos. `modules` is the folder that npm has put the package in."""
    asked = {
        "url": url,
        "user": login.user,
        "password": login.password,
        "version": VERSIONS[version],
        "ca": str(login.cafile) if login.cafile else None,
        "value": value,
        "qos": qos,
    }
    run = subprocess.run(
        ["node", PROGRAM, json.dumps(asked)],
        env=os.environ | {"NODE_PATH": str(modules)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    if run.returncode != 0:
        raise AssertionError(f"node: exit {run.returncode}, printed {run.stdout!r} {run.stderr!r}")
    return json.loads(run.stdout)
