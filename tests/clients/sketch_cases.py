"""The cases of sketches with Blynk's libraries: what a maker's device does from morning to night.

Each case has a pinhook of its own, so that whatever it says about connections is about these sketches, and
all of a case happens on one connection: a sketch that pinhook makes connect again has failed.
"""

import secrets
import threading
import time
import urllib.error
import urllib.request

import mosquitto
from cases import MOSQUITTO, anna, check, fresh
from daemon import ZONE_SECONDS
from paho_client import Paho
from sketch import LIBRARIES, Sketch
from slow_line import SlowLine
from waiting import DEADLINE

SKETCH_CASES = []

# Seconds in which a library is back: npm's tries after 5 and, if nobody was there, after 10 more.
BACK = 30


def sketch_case(name, *libraries):
    """Registers a case, once for each of these libraries."""

    def register(body):
        for library in libraries:

            def run(world, chosen=LIBRARIES[library]):
                body(world, chosen)
                check_no_token(world)

            SKETCH_CASES.append((f"{name} [{library}]", run))
        return body

    return register


def porch(world, library, port=None):
    return Sketch(library, world.daemon, world.porch_token, world.node_modules, port)


@sketch_case("a sketch's day", *LIBRARIES)
def day(world, library):
    with Paho(anna(world), "5") as user:
        user.subscribe("pinhook/porch/#")
        stored = {pin: fresh() for pin in range(20, 25)}
        for pin, value in stored.items():
            user.publish(f"pinhook/porch/set/V{pin}", value)
            user.expect(f"pinhook/porch/state/V{pin}", value.encode())
        with porch(world, library) as sketch:
            sketch.expect_connects(1)
            user.expect_latest("pinhook/porch/status", b"online")
            ring(world, sketch, user)
            writes_of_the_app(world, sketch)
            sync(sketch, stored)
            properties(sketch, user)
            notifications(world, sketch)
            if "event" in library.can:
                events(world, sketch)
            if "rtc" in library.can:
                clock(sketch)
            budget(sketch, user)
            burst(sketch, user)
            heartbeats(sketch, 3)
            ring(world, sketch, user)
            check_one_connection(world, sketch, user)

            begin = world.daemon.log_length()
            world.daemon.restart()
            sketch.expect_connects(2, BACK)
            world.daemon.expect_log(LOGIN, begin)
            ring(world, sketch)
            write_by_http(world, sketch, fresh())


def ring(world, sketch, user=None):
    """The sketch writes a pin, the webhook responds, its handler gets the response; a user sees the write."""
    value = fresh()
    sketch.step("write", 1, value)
    world.service.expect("/echo", v=value)
    sketch.expect_write(1, f"echo {value}")
    if user:
        user.expect("pinhook/porch/state/V1", value.encode())


def writes_of_the_app(world, sketch):
    write_by_http(world, sketch, "7")
    write_by_http(world, sketch, fresh(), fresh())
    value = fresh()
    mosquitto.publish_ok(anna(world), MOSQUITTO["3.1.1"], "pinhook/porch/set/V2", value.encode())
    sketch.expect_write(2, value)
    found = http(world, "isHardwareConnected")
    check(found == b"true", f"isHardwareConnected: {found!r}")


def write_by_http(world, sketch, *values):
    found = http(world, "update/V2?" + "&".join(f"value={value}" for value in values))
    check(found == b"", f"update/V2: expected 200 and nothing, found {found!r}")
    sketch.expect_write(2, *values)


def http(world, path):
    """Asks Blynk's HTTP API for something of the porch and returns the answer; it has to be a success."""
    url = f"http://127.0.0.1:{world.daemon.ports['http']}/{world.porch_token}/{path}"
    # No proxy of this machine may come between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=DEADLINE) as response:
            return response.read()
    except urllib.error.HTTPError as problem:
        raise AssertionError(f"GET /TOKEN/{path}: {problem.code} {problem.read()!r}") from None


def sync(sketch, stored):
    first, *others = stored
    sketch.step("sync", first)
    sketch.expect_write(first, stored[first])
    early = [pin for pin in others if sketch.writes(pin)]
    check(not early, f"asked for V{first}, {early} came, too")

    def ask():
        sketch.step("sync", *others)
        return {pin: stored[pin] for pin in others}

    expect_newest_of(sketch, ask)
    if "sync_all" in sketch.library.can:
        sketch.step("sync_all")
        for pin in stored:
            sketch.expect_write(pin, stored[pin], times=2)


def expect_newest_of(sketch, cause):
    """Calls `cause`, and waits for the writes it returns. Of a library that looks at one frame in what it
    has read, a busy machine may cost one although they come one by one: it has three tries."""
    tries, seconds = (1, DEADLINE) if sketch.library.takes_all else (3, 5)
    for left in reversed(range(tries)):
        newest = cause()
        try:
            return sketch.expect_newest(newest, seconds)
        except AssertionError:
            if not left or not sketch.is_running():
                raise


def properties(sketch, user):
    before = len(sketch.codes())
    sketch.step("property", 2, "color", "#ED9D00")
    user.expect("pinhook/porch/prop/V2/color", b"#ED9D00")
    sketch.expect_code(200, before)


def notifications(world, sketch):
    value, before = fresh(), len(sketch.codes())
    sketch.step("notify", value)
    world.service.expect("/echo", v=value)
    sketch.expect_code(200, before)
    # For these there is no webhook.
    sketch.step("tweet", value)
    sketch.expect_code(NOT_AUTHORIZED, before)
    if "email" in sketch.library.can:
        sketch.step("email", "anna@example.org", "subject", value)
        sketch.expect_code(NOT_ALLOWED, before)


NOT_ALLOWED = 6
NOT_AUTHORIZED = 14


def events(world, sketch):
    value = fresh()
    sketch.step("event", "ring", value)
    world.service.expect("/echo", v=value)
    sketch.expect_write(6, f"echo {value}")


def clock(sketch):
    sketch.step("rtc")
    values = sketch.expect_rtc()
    off = int(values[0]) - (time.time() + ZONE_SECONDS)
    check(len(values) == 1 and abs(off) < 60, f"rtc: {values}, which is {off} s off")


def budget(sketch, user):
    """The longest frame that fits the library's buffer arrives; one byte more would end its connection."""
    longest, marker = (sketch.library.buffer - len(b"HHHHHvw\0003\0")) * "x", fresh()
    user.publish("pinhook/porch/set/V3", longest)
    sketch.expect_write(3, longest)
    user.publish("pinhook/porch/set/V3", longest + "y")
    user.publish("pinhook/porch/set/V3", marker)
    sketch.expect_write(3, marker)
    found = [len(values[0]) for values in sketch.writes(3)]
    check(found == [len(longest), len(marker)], f"V3: values of {found} characters")


def burst(sketch, user):
    """Thirty writes of the app side at once, of which each pin gets the newest."""

    def write():
        newest = {}
        for _ in range(3):
            for pin in range(40, 50):
                newest[pin] = fresh()
                user.publish(f"pinhook/porch/set/V{pin}", newest[pin], qos=0)
        return newest

    expect_newest_of(sketch, write)


def heartbeats(sketch, count):
    """While nothing happens, pings are answered."""
    before = len(sketch.codes())
    sketch.expect_codes(before + count, BACK)
    answers = sketch.codes()[before:]
    check(set(answers) == {200}, f"answers to pings: {answers}")


def check_one_connection(world, sketch, user):
    """Since the sketch was started it has connected once and stayed."""
    found = sketch.count("connect"), sketch.count("disconnect")
    check(found == (1, 0), f"the sketch has seen {found} connects and disconnects")
    told = [m.payload for m in user.received() if m.topic == "pinhook/porch/status" and not m.retained]
    check(told == [b"online"], f"a user has seen {told} on status")
    logins = [line for line in world.daemon.log().splitlines() if LOGIN in line]
    check(len(logins) == 1, f"logins in the log: {logins}")


# What the log says when the porch has logged in.
LOGIN = 'with Blynk client="porch"'


@sketch_case("what the app writes waits until a sketch has introduced itself", "blynklib")
def introduction(world, library):
    is_over = threading.Event()

    def write():
        while not is_over.wait(0.03):
            user.publish("pinhook/porch/set/V3", fresh(), qos=0)

    # A quarter of a second between login and introduction, within the second that pinhook waits for it.
    with Paho(anna(world), "5") as user, SlowLine(world.daemon.ports["http"], 0.25) as line:
        writer = threading.Thread(target=write)
        writer.start()
        try:
            with porch(world, library, line.port) as sketch:
                sketch.expect_connects(1)
                is_over.set()
                writer.join()

                def write_last():
                    last = fresh()
                    user.publish("pinhook/porch/set/V3", last)
                    return {3: last}

                expect_newest_of(sketch, write_last)
                found = sketch.count("connect"), sketch.count("disconnect")
                check(found == (1, 0), f"the sketch has seen {found} connects and disconnects")
                check(line.connections == 1, f"the sketch has connected {line.connections} times")
        finally:
            is_over.set()
            writer.join()


@sketch_case("a sketch with a wrong token is told, and the log says it", "blynklib", "blynk-library-python", "npm")
def wrong_token(world, library):
    wrong, begin = secrets.token_urlsafe(24), world.daemon.log_length()
    with Sketch(library, world.daemon, wrong, world.node_modules) as sketch:
        sketch.expect_said(library.refused)
        world.daemon.expect_log("refused: no device has this token", begin)
        with porch(world, library) as honest:
            honest.expect_connects(1)
            ring(world, honest)
        check(sketch.is_running(), "the sketch with the wrong token has ended")
        check(not sketch.count("connect"), "the sketch with the wrong token has connected")
    check(wrong not in world.daemon.log(), f"the wrong token is in the log:\n{world.daemon.log()}")


@sketch_case("a sketch writes another's pins over a bridge", "npm")
def bridge(world, library):
    other = LIBRARIES["blynk-library-python"]
    with (
        Paho(anna(world), "5") as user,
        porch(world, library) as sketch,
        Sketch(other, world.daemon, world.shed_token, world.node_modules) as shed,
    ):
        user.subscribe("pinhook/shed/state/+")
        sketch.expect_connects(1)
        shed.expect_connects(1)
        before = len(sketch.codes())
        sketch.step("bridge", 5, world.shed_token)
        sketch.expect_code(200, before)
        value, rung = fresh(), fresh()
        sketch.step("bridge_write", 5, 7, value)
        shed.expect_write(7, value)
        user.expect("pinhook/shed/state/V7", value.encode())
        # As if the shed had written it: its webhook is triggered and responds to it.
        sketch.step("bridge_write", 5, 1, rung)
        shed.expect_write(1, rung)
        shed.expect_write(1, f"echo {rung}")
        got = sketch.writes(1) + sketch.writes(7)
        check(not got, f"who wrote over the bridge got {got}")
        found = [(each.count("connect"), each.count("disconnect")) for each in (sketch, shed)]
        check(found == [(1, 0), (1, 0)], f"the sketches have seen {found} connects and disconnects")


def check_no_token(world):
    """Nothing that pinhook has said has a token in it."""
    log = world.daemon.log()
    said = [name for name in ("porch", "shed") if getattr(world, f"{name}_token") in log]
    check(not said, f"the tokens of {said} are in the log:\n{log}")
