"""paho-mqtt, the Python client most programs use, with waits that have a deadline."""

import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from waiting import Message, Receiver

VERSIONS = {"3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}


class Paho(Receiver):
    """A client that has its CONNACK when the constructor returns; use it in a `with`.

    `connack` is the reason code as MQTT 5 numbers it (paho translates the codes of 3.1.1),
    `session_present` the flag beside it, and `goodbye`, once the connection has ended, the reason the
    server gave or None. `will` is a topic and a payload, for MQTT 5 published `will_delay` seconds after
    the connection broke. With a `session` id the session is kept, in MQTT 5 for a minute.
    """

    def __init__(self, login, version, will=None, will_delay=0, session=None):
        super().__init__()
        self.connack = None
        self.session_present = None
        self.goodbye = None
        self._ended = False
        self._subacks = {}
        self._acks = {}
        options, connect = {}, {}
        if version == "5":
            properties = Properties(PacketTypes.CONNECT)
            if session:
                properties.SessionExpiryInterval = 60
            connect = {"clean_start": session is None, "properties": properties}
        else:
            options = {"clean_session": session is None}
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=session or f"paho-{uuid.uuid4().hex[:8]}",
            protocol=VERSIONS[version],
            reconnect_on_failure=False,
            **options,
            transport=login.transport,
        )
        if login.transport == "websockets":
            self._client.ws_set_options(path="/mqtt")
        if login.cafile:
            self._client.tls_set(ca_certs=str(login.cafile))
        self._client.username_pw_set(login.user, login.password)
        if will is not None:
            properties = None
            if will_delay:
                properties = Properties(PacketTypes.WILLMESSAGE)
                properties.WillDelayInterval = will_delay
            self._client.will_set(*will, qos=1, properties=properties)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.connect("127.0.0.1", login.port, **connect)
        self._client.loop_start()
        try:
            self._wait_until(lambda: self.connack is not None, lambda: "paho got no CONNACK")
        except BaseException:
            self.close()
            raise

    def _on_connect(self, client, userdata, flags, reason, properties):
        def change():
            self.session_present = flags.session_present
            self.connack = reason.value

        self._note(change)

    def _on_disconnect(self, client, userdata, flags, reason, properties):
        def change():
            self._ended = True
            if flags.is_disconnect_packet_from_server:
                self.goodbye = reason.value

        self._note(change)

    def _on_message(self, client, userdata, message):
        got = Message(message.topic, message.payload, message.qos, message.retain)
        got.expiry = getattr(message.properties, "MessageExpiryInterval", None)
        self._note(lambda: self._messages.append(got))

    def _on_subscribe(self, client, userdata, mid, reasons, properties):
        self._note(lambda: self._subacks.update({mid: reasons[0].value}))

    def _on_publish(self, client, userdata, mid, reason, properties):
        self._note(lambda: self._acks.update({mid: reason.value}))

    def _hopeless(self):
        return self._ended

    def subscribe(self, topic_filter, qos=1):
        """Subscribes and returns the code of the SUBACK."""
        status, mid = self._client.subscribe(topic_filter, qos)
        assert status == mqtt.MQTT_ERR_SUCCESS, f"paho could not send SUBSCRIBE: {mqtt.error_string(status)}"
        self._wait_until(lambda: mid in self._subacks, lambda: f"paho got no SUBACK for {topic_filter}")
        return self._subacks[mid]

    def publish(self, topic, payload, qos=1, retain=False, expiry=None):
        """Publishes, in MQTT 5 with a message expiry in seconds; for QoS 1 waits for the PUBACK and returns
        its reason code, for QoS 2 for the PUBCOMP and returns its (0 under 3.1.1)."""
        properties = None
        if expiry is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = expiry
        info = self._client.publish(topic, payload, qos, retain, properties)
        assert info.rc == mqtt.MQTT_ERR_SUCCESS, f"paho could not send PUBLISH: {mqtt.error_string(info.rc)}"
        self._wait_until(lambda: info.mid in self._acks, lambda: f"paho got no acknowledgement for {topic}")
        return self._acks[info.mid]

    def expect_end(self):
        """Waits until the connection has ended; returns the server's reason, or None without one."""
        self._wait_until(lambda: self._ended, lambda: "the connection did not end")
        return self.goodbye

    def cut(self):
        """Ends the connection with no goodbye (no DISCONNECT on the wire)."""
        self._client.loop_stop()
        self._client.socket().close()

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
