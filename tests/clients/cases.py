"""The cases: what a maker does with the clients at hand, and what must come of it.

A case is a function of the `World`; it passes when it returns. Values are unique to their case, so
that nothing an earlier case left behind can be mistaken for a result.
"""

import json
import tempfile
import uuid
from collections import namedtuple
from pathlib import Path

import certificate
import mosquitto
import npm_client
from daemon import PORCH_TOKEN, SHED_TOKEN, USER_PASSWORD
from paho_client import Paho
from waiting import expect_in

CASES = []

# `cafile`: whom to trust, and that there is TLS at all; `transport`: as paho calls it.
Login = namedtuple("Login", "port user password cafile transport", defaults=(None, "tcp"))

# How mosquitto's programs and paho name the versions.
MOSQUITTO = {"3.1.1": "mqttv311", "5": "mqttv5"}
NOT_AUTHORIZED = 0x87
REFUSED_3 = 0x80


def case(name, **variants):
    """Registers a case, once for each combination of the variants given as lists."""

    def register(body):
        combinations = [{}]
        for key, values in variants.items():
            combinations = [{**c, key: value} for c in combinations for value in values]
        for chosen in combinations:
            label = ", ".join(f"{key} {value}" for key, value in chosen.items())
            CASES.append((f"{name} [{label}]" if label else name, lambda world, c=chosen: body(world, **c)))
        return body

    return register


BOTH = ["3.1.1", "5"]


def porch(world):
    return Login(world.daemon.port, "device", PORCH_TOKEN)


# How pinhook and paho name the ways in.
WAYS = {
    "mqtt": ("tcp", False),
    "mqtts": ("tcp", True),
    "http": ("websockets", False),
    "https": ("websockets", True),
}


def porch_by(world, way):
    """The login of the porch through one of the four listeners."""
    transport, is_secured = WAYS[way]
    cafile = world.daemon.cafile if is_secured else None
    return Login(world.daemon.ports[way], "device", PORCH_TOKEN, cafile, transport)


def porch_unmounted(world):
    return Login(world.daemon.port, "porch", PORCH_TOKEN)


def shed(world):
    return Login(world.daemon.port, "device", SHED_TOKEN)


def anna(world):
    return Login(world.daemon.port, "anna", USER_PASSWORD)


def guest(world):
    return Login(world.daemon.port, "guest", USER_PASSWORD)


def fresh():
    """A value that no other case uses."""
    return f"v{uuid.uuid4().hex[:10]}"


def check(holds, message):
    if not holds:
        raise AssertionError(message)


# --- the ring ---------------------------------------------------------------------------------------


@case("ring: mosquitto, mounted", mqtt=BOTH, qos=[0, 1])
def ring_mosquitto(world, mqtt, qos):
    value = fresh()
    with mosquitto.Subscriber(porch(world), MOSQUITTO[mqtt], "downlink/ds/V0", qos=qos) as device:
        check(device.granted == [qos], f"asked for QoS {qos}, granted {device.granted}")
        mosquitto.publish_ok(porch(world), MOSQUITTO[mqtt], "ds/V0", value.encode(), qos)
        request = world.service.expect("/echo", v=value)
        check(request.method == "GET", f"expected GET, found {request.method}")
        agent = request.headers.get("User-Agent", "")
        check(agent.startswith("pinhook/"), f"User-Agent: {agent!r}")
        got = device.expect("downlink/ds/V0", b"echo " + value.encode())
        check(got.qos == qos and not got.retained, f"expected QoS {qos}, not retained, found {got}")


@case("ring: paho, mounted", mqtt=BOTH, qos=[0, 1])
def ring_paho(world, mqtt, qos):
    value = fresh()
    with Paho(porch(world), mqtt) as device:
        check(device.subscribe("downlink/#", qos) == qos, f"QoS {qos} was not granted")
        device.publish("ds/V0", value, qos)
        world.service.expect("/echo", v=value)
        device.expect("downlink/ds/V0", b"echo " + value.encode())


@case("ring: the device's own name, full topics", mqtt=BOTH)
def ring_unmounted(world, mqtt):
    value = fresh()
    with Paho(porch_unmounted(world), mqtt) as device:
        check(device.subscribe("pinhook/porch/downlink/ds/+") == 1, "the device may not subscribe below its name")
        device.publish("pinhook/porch/ds/V0", value)
        device.expect("pinhook/porch/downlink/ds/V0", b"echo " + value.encode())
    with mosquitto.Subscriber(porch_unmounted(world), MOSQUITTO[mqtt], "pinhook/porch/downlink/ds/V0") as device:
        again = fresh()
        mosquitto.publish_ok(porch_unmounted(world), MOSQUITTO[mqtt], "pinhook/porch/ds/V0", again.encode())
        device.expect("pinhook/porch/downlink/ds/V0", b"echo " + again.encode())


@case("ring: a value that needs escaping arrives as it was")
def ring_escaped(world):
    value = f"{fresh()} &v=x#/../%41 ü"
    with Paho(porch(world), "3.1.1") as device:
        device.subscribe("downlink/ds/V0")
        device.publish("ds/V0", value)
        world.service.expect("/echo", v=value)
        device.expect("downlink/ds/V0", b"echo " + value.encode())


@case("several values, separated by a NUL", mqtt=BOTH)
def several_values(world, mqtt):
    first, second = fresh(), fresh()
    joined, turned = f"{first}\0{second}".encode(), f"{second}\0{first}".encode()
    with (
        mosquitto.Subscriber(porch(world), MOSQUITTO[mqtt], "downlink/ds/V1") as device,
        Paho(anna(world), mqtt) as user,
    ):
        user.subscribe("pinhook/porch/state/V1")
        mosquitto.publish_ok(porch(world), MOSQUITTO[mqtt], "ds/V1", joined)
        user.expect("pinhook/porch/state/V1", joined)
        request = world.service.expect_body("/pair", lambda body: first.encode() in body)
        found = json.loads(request.body)
        check(found == {"first": first, "second": second}, f"the request's body is {found}")
        check(request.method == "POST", f"a request with a body: expected POST, found {request.method}")
        device.expect("downlink/ds/V1", turned)


@case("batch_ds: all writes, numbers and lists too", mqtt=BOTH)
def batch(world, mqtt):
    value = fresh()
    with Paho(anna(world), mqtt) as user, Paho(porch(world), mqtt) as device:
        user.subscribe("pinhook/porch/state/+")
        device.subscribe("downlink/ds/#")
        device.publish("batch_ds", json.dumps({"V4": 21.5, "V0": value, "V6": [value, 2], "lamp": value}))
        user.expect("pinhook/porch/state/V4", b"21.5")
        user.expect("pinhook/porch/state/V6", value.encode() + b"\x002")
        user.expect("pinhook/porch/state/V3", value.encode())
        device.expect("downlink/ds/V0", b"echo " + value.encode())


@case("get/ds: the device asks for its values", mqtt=BOTH)
def get(world, mqtt):
    one, two, three = fresh(), fresh(), fresh()
    with Paho(porch(world), mqtt) as device:
        for pin, value in (("V20", one), ("V21", two), ("V22", three)):
            device.publish(f"ds/{pin}", value)
        device.subscribe("downlink/ds/#")
        device.publish("get/ds", "V20,V21")
        device.expect("downlink/ds/V20", one.encode())
        device.expect("downlink/ds/V21", two.encode())
        check(not [m for m in device.received() if m.payload == three.encode()], "V22 came, nobody asked for it")
        device.publish("get/ds/all", "")
        device.expect("downlink/ds/V22", three.encode())


@case("a user's set/ reaches the device and the webhook", mqtt=BOTH)
def user_set(world, mqtt):
    value = fresh()
    with mosquitto.Subscriber(porch(world), MOSQUITTO[mqtt], "downlink/ds/#") as device:
        mosquitto.publish_ok(anna(world), MOSQUITTO[mqtt], "pinhook/porch/set/V0", value.encode())
        device.expect("downlink/ds/V0", value.encode())
        device.expect("downlink/ds/V0", b"echo " + value.encode())
        named = fresh()
        mosquitto.publish_ok(anna(world), MOSQUITTO[mqtt], "pinhook/porch/set/lamp", named.encode())
        device.expect("downlink/ds/V3", named.encode())


@case("an event triggers a webhook, unless `when` says no", mqtt=BOTH)
def event(world, mqtt):
    value = fresh()
    with mosquitto.Subscriber(porch(world), MOSQUITTO[mqtt], "downlink/ds/V4") as device:
        mosquitto.publish_ok(porch(world), MOSQUITTO[mqtt], "event/ring", b"quiet")
        mosquitto.publish_ok(porch(world), MOSQUITTO[mqtt], "event/ring", value.encode())
        device.expect("downlink/ds/V4", b"echo " + value.encode())
    check("quiet" not in world.service.values_of("/echo"), "an event that `when` leaves out was sent")


@case("a response that is too large for the device is not sent, and said", mqtt=BOTH)
def too_large_for_the_device(world, mqtt):
    value = fresh() + 400 * "x"
    with Paho(porch(world), mqtt) as device, Paho(anna(world), mqtt) as user:
        user.subscribe("pinhook/porch/webhook/echo")
        device.subscribe("downlink/#")
        device.publish("info/mcu", '{"rxbuff": 256}')
        device.publish("ds/V0", value)
        device.expect_where("downlink/diag", lambda p: b"does not fit" in p and b"> 256 bytes" in p, "line about it")
        user.expect_where(
            "pinhook/porch/webhook/echo", lambda p: json.loads(p)["outcome"] == "does_not_fit", "such an outcome"
        )
        device.publish("info/mcu", '{"rxbuff": 1024}')
        device.publish("ds/V0", value)
        device.expect("downlink/ds/V0", b"echo " + value.encode())


# --- what observers see -----------------------------------------------------------------------------


@case("state/ is retained for who comes late", mqtt=BOTH)
def state_retained(world, mqtt):
    value = fresh()
    with Paho(anna(world), mqtt) as early:
        early.subscribe("pinhook/porch/state/V0")
        mosquitto.publish_ok(porch(world), MOSQUITTO[mqtt], "ds/V0", value.encode())
        early.expect("pinhook/porch/state/V0", value.encode())
    with mosquitto.Subscriber(guest(world), MOSQUITTO[mqtt], "pinhook/porch/state/V0") as late:
        got = late.expect("pinhook/porch/state/V0", value.encode())
        check(got.retained, f"expected a retained message, found {got}")


@case("status goes online and offline, and is retained", mqtt=BOTH)
def status(world, mqtt):
    topic = "pinhook/shed/status"
    with Paho(anna(world), mqtt) as user:
        user.subscribe(topic)
        with mosquitto.Subscriber(shed(world), MOSQUITTO[mqtt], "status") as device:
            user.expect_latest(topic, b"online")
            # The device itself sees the topic without its prefix.
            device.expect("status", b"online")
            with mosquitto.Subscriber(anna(world), MOSQUITTO[mqtt], topic) as late:
                got = late.expect(topic, b"online")
                check(got.retained, f"expected a retained message, found {got}")
        user.expect_latest(topic, b"offline")
    with mosquitto.Subscriber(anna(world), MOSQUITTO[mqtt], topic) as late:
        got = late.expect(topic, b"offline")
        check(got.retained, f"expected a retained message, found {got}")


@case("webhook/NAME tells each delivery's outcome", mqtt=BOTH)
def outcome(world, mqtt):
    value = fresh()
    with Paho(anna(world), mqtt) as user, Paho(porch(world), mqtt) as device:
        user.subscribe("pinhook/porch/webhook/+")
        device.publish("ds/V0", value)
        request = world.service.expect("/echo", v=value)
        delivery_id = request.headers.get("X-Pinhook-Delivery")
        check(bool(delivery_id), "the request has no X-Pinhook-Delivery header")
        got = user.expect_where(
            "pinhook/porch/webhook/echo", lambda p: json.loads(p)["id"] == delivery_id, f"outcome of {delivery_id}"
        )
        told = json.loads(got.payload)
        expected = {"outcome": "ok", "status": 200, "bytes": len(b"echo " + value.encode()), "pin": "V0", "attempts": 1}
        found = {key: told.get(key) for key in expected}
        check(found == expected, f"expected {expected}, found {told}")
        check(isinstance(told.get("ms"), (int, float)) and told["ms"] >= 0, f"ms is not a time: {told}")
        check(told.get("error") is None, f"an error beside the outcome ok: {told}")
        check(not got.retained, "an outcome is retained")

        device.publish("ds/V2", value)
        told = json.loads(user.expect_where("pinhook/porch/webhook/failing", lambda p: True, "outcome").payload)
        check((told.get("outcome"), told.get("status"), told.get("pin")) == ("failed", 500, "V2"), f"found {told}")
        check(isinstance(told.get("error"), str) and told["error"], f"no readable error: {told}")


@case("bridge/: the daemon and its webhooks, retained", mqtt=BOTH)
def bridge(world, mqtt):
    with mosquitto.Subscriber(
        anna(world), MOSQUITTO[mqtt], "pinhook/bridge/state", "pinhook/bridge/webhooks/echo"
    ) as user:
        check(user.expect("pinhook/bridge/state", b"online").retained, "bridge/state is not retained")
        got = user.expect_where("pinhook/bridge/webhooks/echo", lambda p: True, "state")
        told = json.loads(got.payload)
        check(told.get("state") == "ready" and got.retained, f"expected ready, retained; found {got}")


@case("diag: a device is told what it did wrong", mqtt=BOTH)
def diag(world, mqtt):
    with Paho(porch(world), mqtt) as device:
        device.subscribe("downlink/diag")
        device.publish("ds/V300", "1")
        device.expect_where("downlink/diag", lambda p: b"V300" in p and b"\n" not in p, "line about V300")


# --- who may do what --------------------------------------------------------------------------------


@case("a wrong password is refused", mqtt=BOTH)
def wrong_password(world, mqtt):
    wrong = anna(world)._replace(password="wrong")
    # mosquitto_pub ends with the code of the CONNACK.
    codes = {"3.1.1": (4, 5), "5": (0x86, 0x87)}[mqtt]
    exit_status, printed = mosquitto.publish(wrong, MOSQUITTO[mqtt], "notes/x", b"1")
    check(exit_status in codes, f"mosquitto_pub: exit {exit_status}, expected one of {codes}; it printed {printed!r}")
    with Paho(wrong, mqtt) as client:
        check(client.connack in (0x86, 0x87), f"paho: CONNACK {client.connack:#x}, expected 0x86 or 0x87")
    with Paho(porch(world)._replace(password="wrong-token-of-nobody"), mqtt) as client:
        check(client.connack in (0x86, 0x87), f"paho, token: CONNACK {client.connack:#x}, expected 0x86 or 0x87")


@case("a forbidden publish: MQTT 5 is told so")
def forbidden_publish_5(world):
    value = fresh()
    with Paho(porch(world), "5") as device:
        code = device.publish("set/V0", value)
        check(code == NOT_AUTHORIZED, f"a device on set/: PUBACK {code:#x}, expected 0x87")
        check(device.publish("state/V0", value) == NOT_AUTHORIZED, "a device may write state/")
    with Paho(porch_unmounted(world), "5") as device:
        code = device.publish("pinhook/shed/ds/V0", value)
        check(code == NOT_AUTHORIZED, f"another device's topic: PUBACK {code:#x}, expected 0x87")
    _, printed = mosquitto.publish(guest(world), MOSQUITTO["5"], "pinhook/porch/set/V0", value.encode())
    check("Not authorized" in printed, f"mosquitto_pub as a user without rights printed {printed!r}")
    check_not_sent(world, value)


@case("a forbidden publish: MQTT 3.1.1 is acknowledged, dropped, and told on diag")
def forbidden_publish_3(world):
    value = fresh()
    with Paho(porch(world), "3.1.1") as device:
        device.subscribe("downlink/diag")
        device.publish("set/V0", value)
        device.expect_where("downlink/diag", lambda p: b"set/V0" in p, "line about set/V0")
    mosquitto.publish_ok(guest(world), MOSQUITTO["3.1.1"], "pinhook/porch/set/V0", value.encode())
    check_not_sent(world, value)


def check_not_sent(world, value):
    """The webhook has not seen `value`; a write after it is waited for, so that it had its chance."""
    marker = fresh()
    with Paho(porch(world), "3.1.1") as device:
        device.subscribe("downlink/ds/V0")
        device.publish("ds/V0", marker)
        device.expect("downlink/ds/V0", b"echo " + marker.encode())
    check(value not in world.service.values_of("/echo"), f"{value}: a forbidden publish reached the service")


@case("a forbidden subscribe is refused, filter by filter", mqtt=BOTH)
def forbidden_subscribe(world, mqtt):
    refused = {"3.1.1": REFUSED_3, "5": NOT_AUTHORIZED}[mqtt]
    with Paho(porch_unmounted(world), mqtt) as device:
        for topic_filter in ("pinhook/shed/#", "pinhook/+/state/V0", "#", "pinhook/porch2/#"):
            code = device.subscribe(topic_filter)
            check(code == refused, f"{topic_filter}: SUBACK {code:#x}, expected {refused:#x}")
        check(device.subscribe("pinhook/porch/#") == 1, "the device's own subtree is refused")
    with mosquitto.Subscriber(guest(world), MOSQUITTO[mqtt], "pinhook/shed/#", "pinhook/porch/state/V0") as user:
        check(user.granted == [refused, 1], f"mosquitto_sub was granted {user.granted}, expected {[refused, 1]}")


@case("a mounted device sees its own subtree and nothing else", mqtt=BOTH)
def mounted_view(world, mqtt):
    value = fresh()
    with Paho(shed(world), mqtt) as other:
        check(other.subscribe("#") == 1, "a mounted device may not subscribe to #")
        with Paho(porch(world), mqtt) as device:
            device.subscribe("downlink/ds/V0")
            device.publish("ds/V0", value)
            device.expect("downlink/ds/V0", b"echo " + value.encode())
        other.publish("hello", value)
        other.expect("hello", value.encode())
        foreign = [m for m in other.received() if m.topic != "hello" and value.encode() in m.payload]
        check(not foreign, f"the shed saw the porch's messages: {foreign}")
        prefixed = [m for m in other.received() if m.topic.startswith("pinhook/")]
        check(not prefixed, f"a mounted device saw topics with their prefix: {prefixed}")


# --- an ordinary broker besides ---------------------------------------------------------------------


@case("a will is published when the connection breaks", mqtt=BOTH)
def will(world, mqtt):
    value = fresh()
    with Paho(anna(world), mqtt) as user:
        user.subscribe("pinhook/shed/#")
        device = mosquitto.Subscriber(shed(world), MOSQUITTO[mqtt], "downlink/#", will=("farewell", value))
        user.expect_latest("pinhook/shed/status", b"online")
        device.cut()
        user.expect("pinhook/shed/farewell", value.encode())
        user.expect_latest("pinhook/shed/status", b"offline")

        # A clean end publishes none; the status shows that the connection is over.
        quiet = fresh()
        with Paho(shed(world), mqtt, will=("farewell", quiet)):
            user.expect_latest("pinhook/shed/status", b"online")
        user.expect_latest("pinhook/shed/status", b"offline")
        said = [m for m in user.received() if m.payload == quiet.encode()]
        check(not said, f"a will after a clean end: {said}")


@case("a will is published when MQTT 5 asks for it on leaving")
def will_on_leaving(world):
    value = fresh()
    with Paho(anna(world), "5") as user:
        user.subscribe("pinhook/shed/#")
        mosquitto.Subscriber(shed(world), MOSQUITTO["5"], "downlink/#", will=("farewell", value)).close()
        user.expect("pinhook/shed/farewell", value.encode())


@case("a will on ds/ is a write", mqtt=BOTH)
def will_is_a_write(world, mqtt):
    value = fresh()
    mosquitto.Subscriber(porch(world), MOSQUITTO[mqtt], "downlink/#", will=("ds/V0", value)).cut()
    world.service.expect("/echo", v=value)


@case("a client's retained message waits for later subscribers", mqtt=BOTH)
def retained(world, mqtt):
    value, topic = fresh(), f"notes/{fresh()}"
    mosquitto.publish_ok(anna(world), MOSQUITTO[mqtt], topic, value.encode(), retain=True)
    with Paho(anna(world), mqtt) as late:
        late.subscribe("notes/#")
        got = late.expect(topic, value.encode())
        check(got.retained, f"expected a retained message, found {got}")
    # An empty retained message removes it; the marker shows that nothing else was delivered.
    mosquitto.publish_ok(anna(world), MOSQUITTO[mqtt], topic, b"", retain=True)
    marker = fresh()
    with mosquitto.Subscriber(anna(world), MOSQUITTO[mqtt], "notes/#") as later:
        mosquitto.publish_ok(anna(world), MOSQUITTO[mqtt], "notes/marker", marker.encode())
        later.expect("notes/marker", marker.encode())
        left = [m for m in later.received() if m.topic == topic]
        check(not left, f"the removed message was delivered: {left}")


@case("QoS 2, paho to paho", mqtt=BOTH, subscriber=BOTH)
def qos_2(world, mqtt, subscriber):
    topic, values = f"notes/{fresh()}", [fresh() for _ in range(20)]
    with Paho(anna(world), subscriber) as to, Paho(anna(world), mqtt) as user:
        check(to.subscribe(topic, 2) == 2, "QoS 2 was not granted")
        for value in values:
            user.publish(topic, value, 2)
        user.publish(topic, "end", 2)
        to.expect(topic, b"end")
        check_heard(to, topic, [*values, "end"], {2})


@case("QoS 2, mosquitto_pub and mosquitto_sub", mqtt=BOTH)
def qos_2_mosquitto(world, mqtt):
    topic, value = f"notes/{fresh()}", fresh()
    with mosquitto.Subscriber(anna(world), MOSQUITTO[mqtt], topic, qos=2) as to:
        check(to.granted == [2], f"asked for QoS 2, granted {to.granted}")
        mosquitto.publish_ok(anna(world), MOSQUITTO[mqtt], topic, value.encode(), 2)
        got = to.expect(topic, value.encode())
        check(got.qos == 2, f"expected QoS 2, found {got}")


@case("a kept session: what comes while the client is away waits for it", mqtt=BOTH, qos=[1, 2])
def kept_session(world, mqtt, qos):
    topic, session, values = f"notes/{fresh()}", fresh(), [fresh() for _ in range(6)]
    with Paho(anna(world), mqtt, session=session) as away:
        check(away.session_present is False, "a session was there that nobody began")
        check(away.subscribe(topic, 2) == 2, "QoS 2 was not granted")
    with Paho(anna(world), "5") as user:
        for value in values:
            user.publish(topic, value, qos)
    with Paho(anna(world), mqtt, session=session) as back, Paho(anna(world), mqtt) as user:
        check(back.session_present is True, "the session was not kept")
        user.publish(topic, "live", qos)
        back.expect(topic, b"live")
        check_heard(back, topic, [*values, "live"], {qos})


@case("message expiry: what is too old is not delivered")
def message_expiry(world):
    topic, session, marker = f"notes/{fresh()}", fresh(), f"notes/{fresh()}"
    with Paho(anna(world), "5", session=session) as away:
        away.subscribe(topic)
    with Paho(anna(world), "5") as user:
        user.subscribe(marker)
        user.publish(topic, "short", expiry=1)
        user.publish(topic, "long", expiry=100)
        # A will that waits for two seconds tells that the first is over.
        Paho(anna(world), "5", will=(marker, "over"), will_delay=2, session=fresh()).cut()
        user.expect(marker, b"over")
        with Paho(anna(world), "5", session=session) as back:
            user.publish(topic, "end")
            back.expect(topic, b"end")
            check_heard(back, topic, ["long", "end"], {1})
            left = back.expect(topic, b"long").expiry
            check(left is not None and 50 <= left <= 98, f"of 100 seconds {left} are left")


@case("will delay: who is back in time leaves none")
def will_delay(world):
    topic, session = f"notes/{fresh()}", fresh()
    with Paho(anna(world), "5") as user:
        user.subscribe(topic)
        Paho(anna(world), "5", will=(topic, "unsaid"), will_delay=3, session=session).cut()
        with Paho(anna(world), "5", session=session) as back:
            check(back.session_present is True, "the session was not kept")
            Paho(anna(world), "5", will=(topic, "said"), will_delay=4, session=fresh()).cut()
            user.expect(topic, b"said")
            check_heard(user, topic, ["said"], {1})


@case("a shared subscription: each message goes to one member", mqtt=BOTH)
def shared_subscription(world, mqtt):
    topic, values = f"notes/{fresh()}", [fresh() for _ in range(20)]
    with (
        Paho(anna(world), mqtt) as one,
        mosquitto.Subscriber(anna(world), MOSQUITTO[mqtt], f"$share/crew/{topic}") as two,
        Paho(anna(world), mqtt) as user,
    ):
        check(one.subscribe(f"$share/crew/{topic}") == 1, "a shared subscription was refused")
        for value in values:
            user.publish(topic, value)
        for value in values:
            expect_in((one, two), topic, value.encode())
        shares = [[m.payload.decode() for m in member.received() if m.topic == topic] for member in (one, two)]
        check(sorted(shares[0] + shares[1]) == sorted(values), f"not each once: {shares}")
        check(shares[0] and shares[1], f"one member has nothing to do: {shares}")


def check_heard(client, topic, payloads, qualities):
    """The client got exactly these payloads on the topic, in this order."""
    got = [m for m in client.received() if m.topic == topic]
    heard = [m.payload.decode() for m in got]
    check(heard == payloads, f"{topic}: expected {payloads}, found {heard}")
    found = {m.qos for m in got}
    check(found <= qualities, f"{topic}: expected QoS {qualities}, found {found}")


# --- reload -----------------------------------------------------------------------------------------


@case("SIGHUP: a changed webhook and a removed device; others stay connected", mqtt=BOTH)
def reload(world, mqtt):
    daemon = world.start()
    try:
        with (
            Paho(porch(world)._replace(port=daemon.port), mqtt) as stays,
            Paho(shed(world)._replace(port=daemon.port), mqtt) as goes,
        ):
            stays.subscribe("downlink/ds/#")
            daemon.reload(lambda text: text.replace("pin: V0\n", "pin: V30\n") + "  wrong: {", "stays as it was")
            value = fresh()
            stays.publish("ds/V0", value)
            stays.expect("downlink/ds/V0", b"echo " + value.encode())

            def change(text):
                shed_lines = "  shed:\n    token: ${SHED_TOKEN}\n"
                check(shed_lines in text, "the shed is not in the configuration")
                return text.removesuffix("  wrong: {").replace(shed_lines, "")

            daemon.reload(change, "configuration reloaded")
            goes.expect_end()
            again = fresh()
            stays.publish("ds/V30", again)
            stays.expect("downlink/ds/V30", b"echo " + again.encode())
    finally:
        daemon.kill()


# --- the end ----------------------------------------------------------------------------------------


@case("SIGTERM: offline, goodbye, exit 0 within 5 s")
def sigterm(world):
    daemon = world.start()
    try:
        login = anna(world)._replace(port=daemon.port)
        with Paho(login, "5") as user, mosquitto.Subscriber(login, "mqttv311", "pinhook/bridge/state") as old:
            user.subscribe("pinhook/bridge/state")
            user.expect("pinhook/bridge/state", b"online")
            daemon.terminate()
            status = daemon.wait(5)
            check(status == 0, f"exit status {status}, expected 0; log:\n{daemon.log()}")
            user.expect("pinhook/bridge/state", b"offline")
            old.expect("pinhook/bridge/state", b"offline")
            goodbye = user.expect_end()
            check(goodbye == 0x8B, f"expected DISCONNECT 0x8B (server shutting down), found {goodbye}")
    finally:
        daemon.kill()


@case("SIGTERM: a request in flight still gets its response to the device")
def sigterm_in_flight(world):
    value = fresh()
    daemon = world.start()
    try:
        with Paho(porch(world)._replace(port=daemon.port), "5") as device:
            device.subscribe("downlink/ds/V10")
            device.publish("ds/V10", value)
            world.service.expect("/hold", v=value)
            daemon.terminate()
            world.service.let_go()
            device.expect("downlink/ds/V10", b"held " + value.encode())
            status = daemon.wait(5)
            check(status == 0, f"exit status {status}, expected 0; log:\n{daemon.log()}")
    finally:
        daemon.kill()


# --- TLS and WebSocket ------------------------------------------------------------------------------

# What a program in Node has in its URL.
URLS = {
    "mqtt": "mqtt://127.0.0.1:%d",
    "mqtts": "mqtts://127.0.0.1:%d",
    "http": "ws://127.0.0.1:%d/mqtt",
    "https": "wss://127.0.0.1:%d/mqtt",
}


@case("ring: npm mqtt", mqtt=BOTH, by=list(URLS))
def ring_npm(world, mqtt, by):
    value = fresh()
    login = porch_by(world, by)
    got = npm_client.ring(URLS[by] % login.port, login, mqtt, value, 1, world.node_modules)
    expected = {"topic": "downlink/ds/V0", "payload": f"echo {value}", "qos": 1}
    check(got == expected, f"expected {expected}, found {got}")


@case("ring: paho", mqtt=BOTH, by=["mqtts", "http", "https"])
def ring_paho_by(world, mqtt, by):
    value = fresh()
    with Paho(porch_by(world, by), mqtt) as device:
        check(device.connack == 0, f"CONNACK {device.connack}")
        device.subscribe("downlink/ds/V0")
        device.publish("ds/V0", value)
        device.expect("downlink/ds/V0", f"echo {value}".encode())


@case("WebSocket: paho sends and gets long messages", by=["http", "https"], length=[125, 126, 16_000, 65_000])
def long_message_by_websocket(world, by, length):
    topic, payload = f"notes/{fresh()}", b"x" * length
    login = anna(world)._replace(port=world.daemon.ports[by], transport="websockets")
    if by == "https":
        login = login._replace(cafile=world.daemon.cafile)
    with Paho(login, "5") as client:
        client.subscribe(topic)
        check(client.publish(topic, payload) == 0, "not acknowledged as a success")
        client.expect(topic, payload)


@case("ring: mosquitto with --cafile", mqtt=BOTH)
def ring_mosquitto_tls(world, mqtt):
    value = fresh()
    login = porch_by(world, "mqtts")
    with mosquitto.Subscriber(login, MOSQUITTO[mqtt], "downlink/ds/V0") as device:
        mosquitto.publish_ok(login, MOSQUITTO[mqtt], "ds/V0", value.encode())
        device.expect("downlink/ds/V0", b"echo " + value.encode())


@case("TLS: whoever does not trust the certificate is told, and the log says it")
def distrust(world):
    start = world.daemon.log_length()
    with tempfile.TemporaryDirectory() as folder:
        certificate.make(folder)
        login = porch_by(world, "mqtts")._replace(cafile=Path(folder) / "server.pem")
        status, printed = mosquitto.publish(login, "mqttv5", "ds/V0", b"1")
    check(status != 0, f"mosquitto_pub: exit {status}, printed {printed!r}")
    world.daemon.expect_log("the client does not trust the certificate in `tls.certificate`", start)


@case(
    "TLS: keys as openssl writes them",
    key=[
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out server.key",
        "openssl genrsa -traditional -out server.key 2048",
        "openssl ecparam -name prime256v1 -genkey -out server.key",
        "openssl ecparam -name secp384r1 -genkey -noout -out server.key",
        "openssl genpkey -algorithm ED25519 -out server.key",
    ],
)
def keys_of_openssl(world, key):
    with tempfile.TemporaryDirectory() as folder:
        certificate.shell(key, folder)
        certificate.shell("openssl req -x509 -key server.key -days 2 -subj /CN=localhost -out server.pem", folder)
        config = Path(folder) / "config.yaml"
        config.write_text(
            "listen: {mqtts: 127.0.0.1:8883}\ntls: {certificate: server.pem, key: server.key}\n"
            f"devices: {{porch: {{token: {PORCH_TOKEN}}}}}\n"
        )
        status, printed = world.check(config)
        check(status == 0, f"pinhook check: exit {status}, printed {printed!r}")
