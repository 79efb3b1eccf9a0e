// A sketch with the npm package `blynk-library`, steered by sketch.py, which says what goes in and out.
//
//   NODE_PATH=.../node_modules node sketch_npm.cjs '{"token": …, "port": …, "heartbeat": …, "ca": …, "pins": …}'
//
// With `ca`, a file, it connects through TLS. The library connects again by itself.
const readline = require("readline");
const { Blynk, SslClient, TcpClient } = require("blynk-library");

const { token, port, heartbeat, ca, pins } = JSON.parse(process.argv[2]);

function tell(event, about) {
    console.log("EVENT " + JSON.stringify({ event, ...about }));
}

const connector = ca
    ? new SslClient({ addr: "localhost", port, ca: [ca] })
    : new TcpClient({ addr: "127.0.0.1", port });
const blynk = new Blynk(token, { connector, heartbeat: heartbeat * 1000 });

// The library shows no answer to anybody, so they are read on their way in.
let incoming = "";
const receive = blynk.onReceive;
blynk.onReceive = (data) => {
    incoming += data;
    while (incoming.length >= 5) {
        const bytes = Buffer.from(incoming, "latin1");
        const isAnswer = bytes[0] === 0;
        const length = isAnswer ? 5 : 5 + bytes.readUInt16BE(3);
        if (bytes.length < length) break;
        if (isAnswer) tell("status", { code: bytes.readUInt16BE(3) });
        incoming = incoming.slice(length);
    }
    receive.call(blynk, data);
};

blynk.on("connect", () => tell("connect"));
blynk.on("disconnect", () => {
    incoming = "";
    tell("disconnect");
});
blynk.on("error", (problem) => console.log("error", problem));
for (let pin = 0; pin < pins; pin++) {
    new blynk.VirtualPin(pin).on("write", (values) => tell("write", { pin, values }));
}

const bridges = {};
const steps = {
    write: (pin, ...values) => blynk.virtualWrite(pin, values),
    // It takes one pin at a time.
    sync: (...pins) => pins.forEach((pin) => blynk.syncVirtual(pin)),
    sync_all: () => blynk.syncAll(),
    property: (pin, name, value) => blynk.setProperty(pin, name, value),
    notify: (text) => blynk.notify(text),
    tweet: (text) => blynk.tweet(text),
    email: (to, subject, text) => blynk.email(to, subject, text),
    event: (code, text) => blynk.eventLog(code, text),
    bridge: (number, token) => {
        bridges[number] = new blynk.WidgetBridge(number);
        bridges[number].setAuthToken(token);
    },
    bridge_write: (number, pin, ...values) => bridges[number].virtualWrite(pin, values),
};
readline
    .createInterface({ input: process.stdin })
    .on("line", (line) => {
        const [name, ...values] = JSON.parse(line);
        steps[name](...values);
    })
    .on("close", () => process.exit(0));
