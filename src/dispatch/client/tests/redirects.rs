//! Redirects, and which addresses they may lead to.

use super::*;

fn header(name: &str, is_private: bool) -> Header {
    Header {
        name: name.to_owned(),
        value: "value".to_owned(),
        is_private,
    }
}

#[tokio::test]
async fn a_redirect_is_followed_with_what_it_may_carry() {
    let mut other = Peer::start(|_| ok("there")).await;
    let there = other.url("/there");
    let mut first = Peer::start(move |head| match head.split(' ').nth(1).unwrap() {
        "/a" => redirect(307, "b?x"),
        _ => redirect(302, &there),
    })
    .await;
    let request = Request {
        headers: vec![
            header("Authorization", true),
            header("Content-Type", false),
            header("X-Plain", false),
        ],
        ..post(&first.url("/a"))
    };

    let received = send(&webhook("redirects: 2"), request).await.unwrap();

    assert_eq!((received.status, received.text().as_str()), (200, "there"));
    let (a, b, c) = (first.head(), first.head(), other.head());
    for (head, line, carried) in [
        (&a, "post /a ", true),
        (&b, "post /b?x ", true),
        (&c, "get /there ", false),
    ] {
        assert!(head.starts_with(line), "{head}");
        assert_eq!(head.contains("authorization: value"), carried, "{head}");
        assert_eq!(head.contains("content-type: value"), carried, "{head}");
        assert_eq!(head.ends_with("\r\n\r\nbody"), carried, "{head}");
        assert!(head.contains("x-plain: value"), "{head}");
        assert!(head.contains("x-pinhook-delivery: id"), "{head}");
        assert!(head.contains("user-agent: pinhook/"), "{head}");
    }
}

#[tokio::test]
async fn more_redirects_than_allowed_are_a_failure_and_end_a_loop() {
    let mut peer = Peer::start(|_| redirect(302, "/again?key=1")).await;

    let error = error(&webhook("redirects: 3"), get(&peer.url("/"))).await;

    let at = peer.address;
    assert_eq!(
        error.to_string(),
        format!("{at} redirects to {at}, which is one more than `redirects: 3` allows")
    );
    assert_eq!(
        (error.failure(), error.status()),
        (Failure::Final, Some(302))
    );
    for _ in 0..4 {
        peer.head();
    }
    assert!(peer.heads.try_recv().is_err());
}

#[tokio::test]
async fn a_redirect_that_is_not_followed_is_judged_by_its_status() {
    let unfollowed = "it redirects to b.test:80, and `redirects` is 0";
    for (redirects, success, location, status, said) in [
        (0, "[302]", Some("/x"), 302, None),
        (0, "[200]", Some("http://b.test/x"), 301, Some(unfollowed)),
        (5, "[302]", None, 302, None),
        (
            5,
            "[200]",
            None,
            302,
            Some("it does not say where to (no `Location`)"),
        ),
        (
            5,
            "[200]",
            Some("ftp://b.test/"),
            302,
            Some("its `Location` is no http or https URL"),
        ),
        (
            5,
            "[200]",
            Some("http://"),
            308,
            Some("its `Location` is no URL"),
        ),
        (5, "[200]", Some("/x"), 304, None),
    ] {
        let peer = Peer::start(move |_| {
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n");
            match location {
                Some(location) => format!("{head}Location: {location}\r\n\r\n").into_bytes(),
                None => format!("{head}\r\n").into_bytes(),
            }
        })
        .await;
        let webhook = webhook(&format!("redirects: {redirects}, success: {success}"));

        let sent = send(&webhook, get(&peer.url("/"))).await;

        let received = match sent {
            Ok(received) => received,
            // It was to be followed, and cannot be: that is no success.
            Err(error) => {
                assert!(redirects > 0 && location.is_some(), "{location:?}: {error}");
                assert!(error.to_string().ends_with(said.unwrap()), "{error}");
                assert_eq!(error.status(), Some(status));
                continue;
            }
        };
        assert!(redirects == 0 || location.is_none() || said.is_none());
        assert_eq!(received.status, status);
        if !webhook.success.have(status) {
            assert_eq!(received.remark.as_deref(), said, "{location:?}");
        }
    }
}

#[tokio::test]
async fn a_public_host_may_not_redirect_to_a_private_address() {
    let inside = Peer::start(|_| ok("secret")).await;
    let port = inside.address.port();
    for (target, may) in [
        (format!("http://127.0.0.1:{port}/"), false),
        (format!("http://0x7f000001:{port}/"), false),
        (format!("http://[::ffff:127.0.0.1]:{port}/"), false),
        (format!("http://private.test:{port}/"), false),
        ("http://nobody.test/".to_owned(), true),
    ] {
        let to = target.clone();
        let outside = Peer::on(PUBLIC, move |_| redirect(302, &to)).await;

        let error = error(&webhook("redirects: 5"), get(&outside.url("/"))).await;

        let said = error.to_string();
        let refused = "which is a private address, which a public host may not redirect to";
        assert_eq!(said.ends_with(refused), !may, "{target}: {said}");
        assert_eq!(error.failure() == Failure::Final, !may, "{target}");
        assert!(!error.is_refused());
    }
    assert_eq!(inside.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn to_go_around_by_another_public_host_does_not_help() {
    let inside = Peer::start(|_| ok("secret")).await;
    let target = inside.url("/");
    let second = Peer::on(PUBLIC, move |_| redirect(302, &target)).await;
    let port = second.address.port();
    let first = Peer::on(PUBLIC, move |_| {
        redirect(302, &format!("http://public.test:{port}/"))
    })
    .await;

    let error = error(&webhook("redirects: 5"), get(&first.url("/"))).await;

    assert!(error.to_string().contains("a private address"), "{error}");
    assert_eq!(second.connections.load(Ordering::SeqCst), 1);
    assert_eq!(inside.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_private_host_may_redirect_to_a_private_and_to_a_public_one() {
    for ip in [LOCAL, PUBLIC] {
        let target = Peer::on(ip, |_| ok("there")).await;
        let to = target.url("/");
        let first = Peer::start(move |_| redirect(302, &to)).await;

        let received = send(&webhook("redirects: 1"), get(&first.url("/"))).await;

        assert_eq!(received.unwrap().text(), "there");
    }
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_the_first_request_is_refused() {
    let outside = Peer::on(PUBLIC, |_| redirect(302, "/again")).await;
    let url = format!("http://rebinding.test:{}/", outside.address.port());

    // The connection to the first address is not used for what has other rules.
    let error = error(&webhook("redirects: 5"), get(&url)).await;

    assert!(error.to_string().contains("a private address"), "{error}");
    assert_eq!(outside.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_redirects_to_pinhooks_own_port() {
    let own = Peer::start(|_| ok("own")).await;
    let other = Peer::start(|_| ok("other")).await;
    for (to, name, is_own) in [
        (own.address.port(), "127.0.0.1", true),
        (own.address.port(), "0.0.0.0", true),
        (own.address.port(), "private.test", true),
        (other.address.port(), "127.0.0.1", false),
    ] {
        let target = format!("http://{name}:{to}/");
        let first = Peer::start(move |_| redirect(302, &target)).await;
        let webhook = webhook("redirects: 1");
        let mut clients = clients();
        let client = clients.get(&webhook.transport).unwrap();
        clients.listens_on([own.address]);

        let sent = client.send(get(&first.url("/")), "id", &webhook).await;

        match sent {
            Ok(received) => assert_eq!((received.text().as_str(), is_own), ("other", false)),
            Err(error) => {
                let from = first.address;
                let said = format!("{from} redirects to {name}:{to}, which is pinhook's own port");
                assert_eq!((error.to_string(), is_own), (said, true));
                assert_eq!(error.failure(), Failure::Final);
            }
        }
        // The owner's own URL may be pinhook's.
        let direct = client.send(get(&own.url("/")), "id", &webhook).await;
        assert_eq!(direct.unwrap().text(), "own");
    }
}

#[tokio::test]
async fn where_a_value_chooses_the_host_every_hop_is_checked() {
    let peer = Peer::start(|head| match head.split(' ').nth(1).unwrap() {
        "/out" => redirect(302, "http://elsewhere.test/"),
        "/meta" => redirect(302, "http://metadata.test/"),
        _ => ok("fine"),
    })
    .await;
    let port = peer.address.port();
    let webhook = webhook(&format!(
        "redirects: 1, allow_hosts: ['127.0.0.1:{port}', 'private.test:1', 169.254.0.0/16, \
         metadata.test, nobody.test, a.test]"
    ));
    let own = SocketAddr::from((LOCAL, 1));
    let refused = "the request was not sent: ";
    let metadata = "is a link-local or cloud metadata address, which is never allowed";

    for (url, begin, end, is_refused) in [
        (format!("http://127.0.0.1:{port}/"), "", "", false),
        (
            format!("http://127.0.0.2:{port}/"),
            "the request was not sent: `allow_hosts` does not list 127.0.0.2:",
            "",
            true,
        ),
        (
            "http://169.254.169.254/latest".to_owned(),
            refused,
            metadata,
            true,
        ),
        ("http://metadata.test/".to_owned(), refused, metadata, true),
        (
            "http://private.test:1/".to_owned(),
            refused,
            "private.test:1 is pinhook's own port",
            true,
        ),
        (
            "http://nobody.test/".to_owned(),
            "cannot connect to nobody.test:80: ",
            "there is no host `nobody.test`",
            false,
        ),
        (
            format!("http://127.0.0.1:{port}/out"),
            "127.0.0.1",
            "redirects to elsewhere.test:80, which `allow_hosts` does not list",
            false,
        ),
        (
            format!("http://127.0.0.1:{port}/meta"),
            "127.0.0.1",
            metadata,
            false,
        ),
    ] {
        let mut clients = clients();
        clients.listens_on([own]);
        let client = clients.get(&webhook.transport).unwrap();

        let sent = client.send(get(&url), "id", &webhook).await;

        match sent {
            Ok(received) => assert_eq!((received.text().as_str(), begin), ("fine", "")),
            Err(error) => {
                let said = error.to_string();
                assert!(
                    !begin.is_empty() && said.starts_with(begin),
                    "{url}: {said}"
                );
                assert!(said.ends_with(end), "{url}: {said}");
                assert_eq!(error.is_refused(), is_refused, "{url}");
            }
        }
    }
}

#[tokio::test]
async fn the_time_limit_is_for_all_hops_together() {
    // Each hop alone would be in time, and there is no end of them.
    let (_, seen) = mpsc::unbounded_channel();
    let peer = Peer::accept(LOCAL, seen, |mut stream| async move {
        while stream.read(&mut [0; 5000]).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = stream.write_all(&redirect(302, "/next")).await;
        }
    })
    .await;
    let endless = webhook("redirects: 20, timeout: 300ms");

    let error = error(&endless, get(&peer.url("/"))).await;

    let expected = format!("no response from {} within 300ms", peer.address);
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.failure(), Failure::Broken);
}

#[tokio::test]
async fn a_redirect_to_nobody_does_not_count_as_not_sent() {
    let peer = Peer::start(|_| redirect(307, "http://nobody.test/")).await;

    let redirected = error(&webhook("redirects: 1"), post(&peer.url("/"))).await;
    let direct = error(&webhook("redirects: 1"), post("http://nobody.test/")).await;

    assert_eq!(redirected.failure(), Failure::Broken);
    assert_eq!(direct.failure(), Failure::NotSent);
}
