"""A sketch with blynklib of PyPI, steered by sketch.py, which says what goes in and out.

    sketch_blynklib.py '{"token": …, "port": …, "heartbeat": …, "ca": …, "pins": …}'

With `ca`, a file, it connects through TLS. The library connects again by itself.
"""

import json
import sys

import blynklib

from sketch_steps import Steps, tell

asked = json.loads(sys.argv[1])


def log(text):
    print(text, flush=True)
    # Nothing else of the library shows an answer.
    head, _, code = str(text).partition("Response status: ")
    if code and not head:
        tell("status", code=int(code))


blynk = blynklib.Blynk(
    asked["token"],
    server="127.0.0.1",
    port=asked["port"],
    heartbeat=asked["heartbeat"],
    ssl_cert=asked["ca"],
    log=log,
)
blynk.handle_event("connect")(lambda: tell("connect"))
blynk.handle_event("disconnect")(lambda: tell("disconnect"))
blynk.handle_event("internal_rtc")(lambda values: tell("rtc", values=values))
# One by one: the library's `write V*` ends at V32.
for number in range(asked["pins"]):
    blynk.handle_event(f"write V{number}")(lambda pin, values: tell("write", pin=pin, values=values))

steps = Steps(
    write=blynk.virtual_write,
    sync=blynk.virtual_sync,
    property=blynk.set_property,
    rtc=lambda: blynk.internal("rtc", "sync"),
    notify=blynk.notify,
    tweet=blynk.tweet,
    email=blynk.email,
)
while steps.take():
    blynk.run()
