//! What was said before the end counts: packets before a goodbye or a broken connection, messages
//! that wait for a slow reader, wills; and nothing is confirmed that was not done.

use crate::support::broker::{Broker, root};
use crate::support::raw::{Message, Raw, V, kind};

/// Reads and acknowledges until nothing comes that was on its way: a message on `fence` is the last.
async fn texts_until_fence(reader: &mut Raw, version: V) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let packet = reader.packet().await;
        if packet.kind() != kind::PUBLISH {
            continue;
        }
        let message = Message::parse(version, &packet);
        if message.id != 0 {
            reader.take(message.id).await;
        }
        if message.topic == "fence" {
            return texts;
        }
        texts.push(message.text());
    }
}

/// The client does not read its acknowledgements, so that the kernel answers them with a reset, and
/// what it has said is still to be read.
#[tokio::test]
async fn all_that_came_before_a_goodbye_is_published_and_the_will_is_void() {
    const MESSAGES: u16 = 2000;
    let broker = Broker::with("session_queue: 100000").await;
    let mut witness = broker.client(V::V5, "witness").await;
    witness
        .subscribe(&[("t", 0), ("last", 0), ("fence", 0)])
        .await;
    for round in 0..5 {
        let hello = root(V::V311, "brief").will(Message::new("last", "will"));
        let mut brief = broker.join(hello).await;
        brief.subscribe(&[("brief/is/here", 0)]).await;
        let messages = (1..=MESSAGES).map(|id| Message::new("t", "x").qos(1).id(id));
        let mut bytes: Vec<u8> = messages.flat_map(|m| m.bytes(V::V311)).collect();
        bytes.extend([0xE0, 0]);
        brief.send(&bytes).await;
        drop(brief);

        broker.until_unheard("brief/is/here").await;
        let mut after = broker.client(V::V5, "after").await;
        after.publish("fence", "").await;
        let heard = texts_until_fence(&mut witness, V::V5).await;
        let wills = heard.iter().filter(|text| *text == "will").count();
        assert_eq!(
            (heard.len() - wills, wills),
            (MESSAGES.into(), 0),
            "round {round}"
        );
        after.goodbye().await;
    }
}

/// A client that stalls on its own messages is closed; what stood behind them in the same segment is
/// not confirmed, since nobody has got it.
#[tokio::test]
async fn nothing_is_confirmed_to_a_client_that_was_cut_off_before() {
    let broker = Broker::with("session_queue: 2").await;
    let mut witness = broker.client(V::V5, "witness").await;
    witness.subscribe(&[("other", 2), ("fence", 0)]).await;
    let hello = root(V::V5, "self").kept().receive_maximum(1);
    let mut client = broker.join(hello).await;
    client.subscribe(&[("own", 1)]).await;
    let mut bytes = Vec::new();
    for id in 1..=4 {
        bytes.extend(Message::new("own", "x").qos(1).id(id).bytes(V::V5));
    }
    bytes.extend(Message::new("other", "important").qos(2).id(9).bytes(V::V5));

    client.send(&bytes).await;

    let mut confirmed = 0;
    while let Some(packet) = client.packet_or_end().await {
        let is_success = packet.kind() == kind::PUBREC && packet.reason() < 0x80;
        confirmed += usize::from(is_success);
    }
    broker
        .client(V::V5, "after")
        .await
        .publish("fence", "")
        .await;
    let heard = texts_until_fence(&mut witness, V::V5).await;
    assert_eq!(confirmed, heard.len());
}

#[tokio::test]
async fn a_message_with_qos_2_arrives_although_its_publisher_is_taken_over_while_it_waits() {
    let broker = Broker::with("session_queue: 2").await;
    let mut reader = broker.join(root(V::V5, "reader").receive_maximum(1)).await;
    reader.subscribe(&[("t", 2), ("fence", 0)]).await;
    let publisher = || root(V::V5, "publisher").kept();
    let mut first = broker.join(publisher()).await;
    for id in 1..=4 {
        let message = Message::new("t", id.to_string()).qos(2).id(id);
        first.send(&message.bytes(V::V5)).await;
    }
    for id in 1..=3 {
        first.expect_success(kind::PUBREC, id).await;
    }

    let (mut second, is_present) = broker.resume(publisher()).await;

    assert!(is_present);
    let again = Message::new("t", "4").qos(2).id(4).again();
    second.send(&again.bytes(V::V5)).await;
    second.expect_success(kind::PUBREC, 4).await;
    second.answer(kind::PUBREL, 4).await;
    second.expect_success(kind::PUBCOMP, 4).await;
    // One was sent; of the two that waited the older made room for the newest.
    let mut texts = Vec::new();
    while texts.last().is_none_or(|last| last != "4") {
        let packet = reader.packet().await;
        if packet.kind() == kind::PUBLISH {
            let message = Message::parse(V::V5, &packet);
            texts.push(message.text());
            reader.take(message.id).await;
        }
    }
    assert_eq!(texts, ["1", "3", "4"]);
}

#[tokio::test]
async fn a_will_goes_before_older_messages_to_a_reader_that_is_full() {
    let broker = Broker::with("session_queue: 2").await;
    let mut reader = broker.join(root(V::V5, "reader").receive_maximum(1)).await;
    reader.subscribe(&[("last", 1)]).await;
    let mut witness = broker.client(V::V5, "witness").await;
    witness.subscribe(&[("last", 0)]).await;
    let mut publisher = broker.client(V::V5, "publisher").await;
    for number in 0..3 {
        publisher.publish("last", number.to_string()).await;
    }
    let will = Message::new("last", "will").qos(1);
    broker.join(root(V::V5, "dying").will(will)).await.reset();

    let mut texts = Vec::new();
    while texts.last().is_none_or(|last| last != "will") {
        let packet = reader.packet().await;
        let message = Message::parse(V::V5, &packet);
        texts.push(message.text());
        // The will has come when the others go.
        if texts.len() == 1 {
            while witness.message().await.text() != "will" {}
        }
        reader.acknowledge(message.id).await;
    }
    assert_eq!(texts, ["0", "2", "will"]);
}

#[tokio::test]
async fn what_was_passed_on_and_not_retained_comes_once_with_qos_2() {
    let broker = Broker::with("retained: 1").await;
    let mut reader = broker.client(V::V5, "reader").await;
    reader.subscribe(&[("t", 2), ("fence", 0)]).await;
    let hello = || root(V::V5, "publisher").kept();
    let mut publisher = broker.join(hello()).await;
    let fills = Message::new("full", "x").qos(1).retained();
    publisher.publish_message(fills).await;
    let once = Message::new("t", "once").qos(2).retained().id(7);
    publisher.send(&once.clone().bytes(V::V5)).await;
    publisher.expect_success(kind::PUBREC, 7).await;
    publisher.reset();

    let (mut publisher, _) = broker.resume(hello()).await;
    publisher.send(&once.again().bytes(V::V5)).await;
    publisher.expect_success(kind::PUBREC, 7).await;

    publisher
        .send(&Message::new("fence", "").bytes(V::V5))
        .await;
    assert_eq!(texts_until_fence(&mut reader, V::V5).await, ["once"]);
}

#[tokio::test]
async fn a_client_to_which_no_answer_can_be_told_is_closed() {
    let broker = Broker::start().await;
    let mut tiny = Raw::connect(broker.address, V::V5).await;
    tiny.send(&root(V::V5, "tiny").maximum_packet(10).bytes())
        .await;
    assert!(tiny.packet_or_end().await.is_none(), "no CONNACK fits");

    // 20 is enough for the CONNACK, and not for the answer to thirty filters.
    let mut small = broker.join(root(V::V5, "small").maximum_packet(20)).await;
    let filters: Vec<String> = (0..30).map(|number| format!("a/{number}")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
    let (_, bytes) = small.subscribe_bytes(&filters);
    small.send(&bytes).await;
    let goodbye = small.packet().await;
    assert_eq!((goodbye.kind(), goodbye.reason()), (kind::DISCONNECT, 0x95));
}
