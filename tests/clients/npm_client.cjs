// One turn of the ring with the npm package `mqtt`, the client of Node-RED and of most programs in Node:
// subscribe to the downlink of V0, write V0, print what came back as one line of JSON.
//
//   NODE_PATH=.../node_modules node npm_client.cjs '{"url": …, "user": …, "password": …, "version": 4, …}'
//
// Ends with 1 and a sentence if anything goes wrong; run.py sets the time limit.
const fs = require("fs");
const mqtt = require("mqtt");

const { url, user, password, version, ca, value, qos } = JSON.parse(process.argv[2]);

function fail(why) {
    console.error(String(why));
    process.exit(1);
}

const client = mqtt.connect(url, {
    username: user,
    password,
    protocolVersion: version,
    ca: ca && fs.readFileSync(ca),
    reconnectPeriod: 0,
    connectTimeout: 5000,
});
client.on("error", fail);
client.on("close", () => fail("the connection was closed"));
client.on("message", (topic, payload, packet) => {
    client.removeAllListeners("close");
    client.end(false, {}, () => {
        console.log(JSON.stringify({ topic, payload: payload.toString(), qos: packet.qos }));
    });
});
client.on("connect", () => {
    client.subscribe("downlink/ds/V0", { qos }, (error, granted) => {
        if (error) fail(error);
        if (granted[0].qos !== qos) fail(`asked for QoS ${qos}, granted ${granted[0].qos}`);
        client.publish("ds/V0", value, { qos }, (error) => error && fail(error));
    });
});
