//! Client ids and logins: taken over, broken off, guessed.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{ELSEWHERE, Scene};
use crate::support::PASSWORD;
use crate::support::raw::{BOTH, Hello, Raw, V, kind};

#[tokio::test]
async fn client_ids_with_every_special_character_twice_over() {
    let mut scene = Scene::new().await;
    for version in BOTH {
        for id in [
            "+",
            "#",
            "$",
            "/",
            "a/+/b",
            "#/$SYS",
            "$share/g/#",
            "é",
            " ",
            "a\tb",
            "../..",
            "%s%n",
            &"x".repeat(256),
        ] {
            let mut first = scene.root(version, id).await;
            first.subscribe(&[("a", 1)]).await;
            let mut second = scene.root(version, id).await;
            first.dismissed(0x8E).await;
            second.publish("a", "x").await;
            second.ping().await;
            scene.is_served().await;
        }
    }
    // The tab of one of them neither ends a line nor stands in it.
    assert_eq!(scene.lines("a\tb"), 0);
    scene.is_open().await;
}

#[tokio::test]
async fn one_client_id_that_connects_and_breaks_off_three_hundred_times() {
    let mut scene = Scene::new().await;
    let start = Instant::now();
    for round in 0..300 {
        let version = BOTH[round % 2];
        let mut client = Raw::try_connect(scene.address(), version, ELSEWHERE)
            .await
            .expect("a connection");
        client
            .send(&Hello::user(version, "root").id("same").bytes())
            .await;
        // Sometimes before the answer, sometimes after.
        if round % 3 == 0 {
            client.packet_or_end().await;
        }
        client.reset();
        if round % 100 == 50 {
            scene.is_served().await;
        }
    }
    // One that broke off before it was looked at may still take this one over.
    scene.root(V::V5, "same").await;
    scene.is_open().await;
    // Ten lines a second and twenty more are said about clients, whatever they do.
    let lines = scene.lines("client=");
    let most = 20 + 10 * (start.elapsed().as_secs() as usize + 2);
    assert!((1..=most).contains(&lines), "{lines} lines, {most} at most");
}

#[tokio::test]
async fn guessing_passwords_next_to_an_honest_login() {
    // From elsewhere, and from the very address of the honest ones.
    for from in [ELSEWHERE, [127, 0, 0, 1]] {
        let mut scene = Scene::new().await;
        let address = scene.address();
        // Known from before: with a password that was never checked, an honest one is one of those
        // who wait for a check.
        scene.root(V::V5, "honest").await.goodbye().await;
        let mut guessers = JoinSet::new();
        for number in 0..50 {
            guessers.spawn(async move {
                let (name, secret) = match number % 2 {
                    0 => ("root", format!("{PASSWORD}{number}")),
                    _ => ("device", format!("token-of-nobody-{number}")),
                };
                let guess = Hello::new(V::V5, "guesser").login(name, &secret);
                let mut client = Raw::try_connect(address, V::V5, from)
                    .await
                    .expect("a connection");
                client.send(&guess.bytes()).await;
                client
            });
        }
        let mut waiting = Vec::new();
        while let Some(client) = guessers.join_next().await {
            waiting.push(client.expect("no panic"));
            scene.root(V::V5, "honest").await.ping().await;
            Raw::log_in(address, Hello::mounted(V::V5, "shed")).await;
            scene.is_served().await;
        }

        // Ten guesses of the address are answered at once, and the others wait.
        let mut answered = 0;
        for client in &mut waiting {
            if let Some(refusal) = client.packet_within(Duration::from_millis(1)).await {
                assert_eq!((refusal.kind(), refusal.body[1]), (kind::CONNACK, 0x86));
                answered += 1;
            }
        }
        assert!((1..50).contains(&answered), "{answered} of 50");
        let said = scene.lines("refused: wrong user name, password or token");
        assert!((1..=50).contains(&said), "{said} lines");
        assert!(!scene.pinhook.said().contains(PASSWORD));
        drop(waiting);
        scene.is_open().await;
    }
}
