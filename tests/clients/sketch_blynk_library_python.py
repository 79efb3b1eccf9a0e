"""A sketch with blynk-library-python of PyPI, steered by sketch.py, which says what goes in and out.

    sketch_blynk_library_python.py '{"token": …, "port": …, "heartbeat": …, "pins": …}'

The library does not connect again by itself; the sketch does.
"""

import json
import sys
import time

import BlynkLib

from sketch_steps import Steps, tell

asked = json.loads(sys.argv[1])


def log(*words):
    # `>`, command, message id, `|`, status: the only sign of an answer.
    if words[:2] == (">", BlynkLib.MSG_RSP):
        tell("status", code=words[4])


blynk = BlynkLib.Blynk(
    asked["token"], server="127.0.0.1", port=asked["port"], heartbeat=asked["heartbeat"], log=log
)
blynk.on("connected", lambda ping: tell("connect"))
blynk.on("disconnected", lambda: tell("disconnect"))
for number in range(asked["pins"]):
    blynk.on(f"V{number}", lambda values, pin=number: tell("write", pin=pin, values=values))

steps = Steps(
    write=blynk.virtual_write,
    sync=blynk.sync_virtual,
    property=blynk.set_property,
    notify=blynk.notify,
    tweet=blynk.tweet,
    event=blynk.log_event,
)
while steps.take():
    try:
        blynk.run()
    except OSError as problem:
        # Its ping has found nobody there.
        print(problem, flush=True)
        blynk.disconnect()
    if blynk.state == BlynkLib.DISCONNECTED:
        time.sleep(0.5)
        try:
            blynk.connect()
        except ValueError as problem:
            print(problem, flush=True)
