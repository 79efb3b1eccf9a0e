"""The certificate of the pinhook under test, made as the README says."""

import re
import subprocess
from pathlib import Path

from waiting import DEADLINE

README = Path(__file__).resolve().parents[2] / "README.md"


def readme_command():
    """The command of the README, for this machine."""
    found = re.search(r"^ *(openssl req -x509 (?:.*\\\n)*.*)$", README.read_text(), re.MULTILINE)
    if not found:
        raise AssertionError("the README has no command `openssl req -x509`")
    command = found.group(1)
    for name, here in (("pi.local", "localhost"), ("192.168.1.5", "127.0.0.1")):
        if name not in command:
            raise AssertionError(f"the README's command has no {name}: {command}")
        command = command.replace(name, here)
    return command


def make(folder):
    """Makes server.pem and server.key in `folder`."""
    shell(readme_command(), folder)


def shell(command, folder):
    """Runs a command of a user in `folder`."""
    run = subprocess.run(
        ["sh", "-ec", command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )
    if run.returncode != 0:
        raise AssertionError(f"{command}: exit {run.returncode}, printed {run.stdout!r} {run.stderr!r}")
