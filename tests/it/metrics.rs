//! `/metrics` (product.md §7): the numbers add up at every moment, what is refused is
//! counted, and who may see it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::child::Process;
use crate::support::http::{Request, start};
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Service};
use crate::support::{PATIENCE, password_hash, token, until, within};

/// What comes back on `stream` for a request with these headers, as head and body.
async fn asked(mut stream: TcpStream, line: &str, headers: &str) -> (String, String) {
    let request = format!("{line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    let read = stream.read_to_string(&mut response);
    within("a response and its end", read).await.expect("text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

async fn connect(address: SocketAddr) -> TcpStream {
    let connected = within("a connection", TcpStream::connect(address)).await;
    connected.expect("a connection")
}

/// The numbers of one moment, as `name{labels}`.
#[derive(Debug)]
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(http: SocketAddr) -> Scrape {
        let headers = "Host: localhost\r\n";
        let (head, body) = asked(connect(http).await, "GET /metrics", headers).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}\n{body}");
        let format = "content-type: text/plain; version=0.0.4; charset=utf-8";
        assert!(head.contains(format), "{head}");
        Scrape::read(&body)
    }

    /// Reads the text, and sees to it that it keeps to the format.
    fn read(text: &str) -> Scrape {
        let (mut samples, mut names) = (BTreeMap::new(), BTreeSet::new());
        let (mut name, mut kind) = ("", "");
        assert!(text.ends_with('\n'), "the last line is not ended");
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (of, sentence) = help.split_once(' ').expect("a text");
                assert!(sentence.ends_with('.'), "{line}");
                assert!(names.insert(of), "{of} comes twice");
                let next = lines.next().unwrap_or_default();
                let next = next.strip_prefix(&format!("# TYPE {of} "));
                (name, kind) = (of, next.expect("its type on the next line"));
                assert!(name.starts_with("pinhook_"), "{name}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let of = series.split('{').next().unwrap_or_default();
            let suffixes = match kind {
                "histogram" => &["_bucket", "_sum", "_count"][..],
                _ => &[""][..],
            };
            let fits = |suffix: &&str| of.strip_suffix(*suffix) == Some(name);
            assert!(suffixes.iter().any(fits), "{line} below {name}");
            let value = value.parse().expect("a number");
            let before = samples.insert(series.to_owned(), value);
            assert_eq!(before, None, "{series} comes twice");
        }
        Scrape(samples)
    }

    fn get(&self, series: &str) -> f64 {
        let value = self.0.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.0))
    }

    /// The webhooks that are told of.
    fn webhooks(&self) -> Vec<&str> {
        let begins = "pinhook_webhook_triggered_total{webhook=\"";
        let of_webhook = self
            .0
            .keys()
            .filter_map(|series| series.strip_prefix(begins));
        let names = of_webhook.filter_map(|rest| rest.strip_suffix("\"}"));
        names.collect()
    }

    fn of_webhook(&self, name: &str, webhook: &str) -> f64 {
        self.get(&format!("pinhook_webhook_{name}{{webhook=\"{webhook}\"}}"))
    }

    fn outcome(&self, webhook: &str, outcome: &str) -> f64 {
        let labels = format!("webhook=\"{webhook}\",outcome=\"{outcome}\"");
        self.get(&format!("pinhook_webhook_outcomes_total{{{labels}}}"))
    }

    fn open(&self, webhook: &str) -> f64 {
        self.of_webhook("waiting", webhook) + self.of_webhook("in_flight", webhook)
    }

    /// Expects that of every webhook all that triggered it is somewhere, and that
    /// every histogram is one.
    fn assert_adds_up(&self) {
        for webhook in self.webhooks() {
            let begins = format!("pinhook_webhook_outcomes_total{{webhook=\"{webhook}\",");
            let outcomes = self
                .0
                .iter()
                .filter(|(series, _)| series.starts_with(&begins));
            let outcomes: Vec<_> = outcomes.map(|(_, count)| *count).collect();
            assert_eq!(outcomes.len(), 12, "{webhook}");
            let ended: f64 = outcomes.iter().sum();
            let triggered = self.of_webhook("triggered_total", webhook);
            let open = self.open(webhook);
            assert_eq!(
                triggered,
                ended + open,
                "{webhook}: {outcomes:?} and {open} open"
            );
            for histogram in ["wait_seconds", "request_seconds"] {
                let bounds = "0.001 0.003 0.01 0.03 0.1 0.3 1 3 10 30 60 +Inf";
                let counts = bounds.split(' ').map(|bound| {
                    let labels = format!("webhook=\"{webhook}\",le=\"{bound}\"");
                    self.get(&format!("pinhook_webhook_{histogram}_bucket{{{labels}}}"))
                });
                let counts: Vec<_> = counts.collect();
                assert!(counts.is_sorted(), "{webhook} {histogram}: {counts:?}");
                let count = self.of_webhook(&format!("{histogram}_count"), webhook);
                assert_eq!(counts.last(), Some(&count), "{webhook} {histogram}");
            }
        }
    }
}

const DEVICES: usize = 8;
const WRITES: usize = 300;

/// Between two writes of a device, so that they go on for several scrapes: for a second
/// all get the same.
const PACE: Duration = Duration::from_millis(15);

/// One configuration of many: devices, and these webhooks.
fn config(webhooks: &[(&str, &str)], host: SocketAddr) -> String {
    let device = |n| format!("  d{n}: {{token: {}}}\n", token(&format!("d{n}")));
    let devices: String = (0..DEVICES).map(device).collect();
    let webhook = |(name, rest): &(&str, &str)| {
        format!("  {name}: {{device: '*', pin: V0, url: 'http://{host}/{rest}}}\n")
    };
    let webhooks: String = webhooks.iter().map(webhook).collect();
    format!(
        "listen: {{mqtt: '127.0.0.1:0', http: '127.0.0.1:0'}}\n\
         limits: {{writes_per_second: 0}}\ndevices:\n{devices}webhooks:\n{webhooks}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_add_up_in_every_scrape_under_load_and_over_reloads() {
    let service = Service::start(|request| match request.target.as_str() {
        "/fails" => Answer::status(500),
        "/slow" => Answer::ok("at last").after(Duration::from_millis(15)),
        _ => Answer::ok("yes"),
    })
    .await;
    let all = [
        ("stays", "ok', every: 0, excess: queue, queue: 10000"),
        ("changes", "slow', every: 0, concurrency: 2"),
        (
            "fails",
            "fails', every: 0, retry: 1, stop_after: 3, probe: 1s",
        ),
        ("drops", "ok', every: 20ms, excess: drop"),
        (
            "overflows",
            "slow', every: 0, excess: queue, queue: 1, concurrency: 1",
        ),
    ];
    let changed = [
        all[0],
        (
            "changes",
            "ok', every: 10ms, excess: queue, queue: 3, per: webhook",
        ),
        all[3],
        ("comes", "slow', every: 0"),
    ];
    let configs = [&all[..], &changed[..]];
    let folder = tempfile::tempdir().expect("a folder");
    let first = config(configs[0], service.host());
    let mut pinhook = Process::start_in(folder, &first, &[]).await;
    let http = pinhook.listens("http").await;

    let is_over = Arc::new(AtomicBool::new(false));
    let mut scraping = JoinSet::new();
    for _ in 0..2 {
        let is_over = Arc::clone(&is_over);
        scraping.spawn(async move {
            let (mut different, mut busy, mut last) = (0, 0, 0.0);
            while !is_over.load(Ordering::Relaxed) {
                let scrape = Scrape::of(http).await;
                scrape.assert_adds_up();
                let triggered = scrape.of_webhook("triggered_total", "stays");
                // Every write triggers all of these: the moment is between two writes.
                for webhook in ["changes", "drops"] {
                    assert_eq!(scrape.of_webhook("triggered_total", webhook), triggered);
                }
                assert!(triggered >= last, "{triggered} after {last}");
                different += usize::from(triggered > last);
                last = triggered;
                let webhooks = scrape.webhooks();
                busy += usize::from(webhooks.iter().any(|webhook| scrape.open(webhook) > 0.0));
            }
            (different, busy)
        });
    }
    let mut writing = JoinSet::new();
    for number in 0..DEVICES {
        let hello = Hello::mounted(V::V5, &format!("d{number}"));
        let mut device = Raw::log_in(pinhook.address, hello).await;
        writing.spawn(async move {
            for value in 0..WRITES {
                device.publish("ds/V0", value.to_string()).await;
                tokio::time::sleep(PACE).await;
            }
        });
    }
    // As long as anybody writes, and then once more, so that all are there at the end.
    let mut reloads = 0;
    while !writing.is_empty() || reloads % configs.len() != 0 || reloads < 4 {
        reloads += 1;
        let webhooks = configs[reloads % configs.len()];
        let file = pinhook.folder.path().join("config.yaml");
        std::fs::write(file, config(webhooks, service.host())).expect("a written file");
        let count = || pinhook.said().matches("configuration reloaded: ").count();
        let before = count();
        pinhook.signal("HUP").await;
        until("the reload", || count() > before).await;

        let mut names: Vec<_> = webhooks.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        let begun = std::time::Instant::now();
        loop {
            let scrape = Scrape::of(http).await;
            scrape.assert_adds_up();
            if scrape.webhooks() == names {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}", scrape.webhooks());
        }
        while let Some(ended) = writing.try_join_next() {
            ended.expect("all is acknowledged");
        }
    }
    is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = scraping.join_next().await {
        let (different, busy) = ended.expect("it adds up");
        // Else nothing was seen under load.
        assert!(
            different >= 3 && busy >= 1,
            "{busy} busy, {different} different"
        );
    }

    let end = std::time::Instant::now() + PATIENCE;
    let scrape = loop {
        let scrape = Scrape::of(http).await;
        scrape.assert_adds_up();
        if scrape
            .webhooks()
            .iter()
            .all(|webhook| scrape.open(webhook) == 0.0)
        {
            break scrape;
        }
        assert!(
            std::time::Instant::now() < end,
            "something is left: {scrape:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let writes = (DEVICES * WRITES) as f64;
    for webhook in ["stays", "changes", "drops"] {
        assert_eq!(
            scrape.of_webhook("triggered_total", webhook),
            writes,
            "{webhook}"
        );
    }
    assert_eq!(scrape.outcome("stays", "ok"), writes, "{scrape:#?}");
    assert_eq!(scrape.of_webhook("wait_seconds_count", "stays"), writes);
    assert_eq!(scrape.of_webhook("request_seconds_count", "stays"), writes);
    assert!(scrape.outcome("changes", "superseded") > 0.0, "{scrape:#?}");
    assert!(scrape.outcome("drops", "limited") > 0.0, "{scrape:#?}");
    pinhook.assert_unharmed();
}

#[tokio::test]
async fn what_is_refused_dropped_and_kept_is_counted_by_reason() {
    let service = Service::start(|_| Answer::status(500)).await;
    let rest = format!(
        "users: {{root: {{password: '{}', publish: ['chat/#'], subscribe: ['chat/#']}}}}\n\
         limits: {{writes_per_second: 1, connections_per_address: 3}}\n\
         webhooks: {{ask: {{device: porch, pin: V0, url: 'http://{}/', retry: 0, stop_after: 1}}}}\n",
        password_hash(),
        service.host(),
    );
    let (pinhook, http) = start(&rest).await;
    Raw::refused(
        pinhook.address,
        &Hello::user(V::V5, "root").login("root", "wrong"),
    )
    .await;
    let mut device = Raw::log_in(pinhook.address, Hello::mounted(V::V5, "porch")).await;
    let away = Hello::user(V::V5, "root").id("away").kept();
    let mut kept = Raw::log_in(pinhook.address, away).await;
    kept.subscribe(&[("chat/a", 1)]).await;
    kept.goodbye().await;
    let mut root = Raw::log_in(pinhook.address, Hello::user(V::V5, "root")).await;
    for text in ["1", "2", "3"] {
        root.publish("chat/a", text).await;
    }
    root.subscribe(&[("chat/b", 0)]).await;
    root.publish("chat/b", "4").await;
    root.message_on("chat/b").await;
    assert_eq!(root.subscribe(&[("other/#", 0)]).await, [0x87]);
    assert_eq!(root.publish("other/a", "1").await, 0x87);
    // The first two of a burst, and no third.
    assert_eq!(device.publish("ds/V0", "1").await, 0);
    assert_eq!(device.publish("ds/V1", "1").await, 0);
    while device.publish("ds/V1", "1").await == 0 {}
    // The third place is taken by who asks, and there is no fourth.
    let asking = connect(http).await;
    let mut surplus = connect(http).await;
    let ended = within("the end of a surplus connection", surplus.read(&mut [0; 8])).await;
    assert!(!matches!(ended, Ok(1..)));

    let mut body = asked(asking, "GET /metrics", "Host: localhost\r\n").await.1;
    let end = std::time::Instant::now() + PATIENCE;
    while !body.contains("pinhook_webhook_stopped{webhook=\"ask\"} 1\n") {
        assert!(std::time::Instant::now() < end, "not stopped: {body}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Its place may not be free yet.
        let mut stream = connect(http).await;
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let _ = stream.write_all(request.as_bytes()).await;
        body.clear();
        let _ = within("an end", stream.read_to_string(&mut body)).await;
    }

    let body = body
        .split_once("\r\n\r\n")
        .map_or(body.as_str(), |(_, body)| body);
    let scrape = Scrape::read(body);
    scrape.assert_adds_up();
    for (series, expected) in [
        ("build_info{version=\"0.1.0\"}", 1.0),
        ("devices", 1.0),
        ("devices_online", 1.0),
        ("connections{protocol=\"mqtt\"}", 2.0),
        ("mqtt_clients_refused_total{reason=\"login\"}", 1.0),
        ("mqtt_clients_refused_total{reason=\"stalled\"}", 0.0),
        ("mqtt_sessions", 3.0),
        ("mqtt_sessions_away", 1.0),
        ("mqtt_queued_messages", 3.0),
        (
            "mqtt_subscriptions_refused_total{reason=\"not_allowed\"}",
            1.0,
        ),
        ("mqtt_messages_refused_total{reason=\"not_allowed\"}", 1.0),
        ("mqtt_messages_refused_total{reason=\"rate\"}", 1.0),
        (
            "mqtt_messages_dropped_total{reason=\"queue_full_qos0\"}",
            0.0,
        ),
        ("webhook_failures_in_a_row{webhook=\"ask\"}", 1.0),
        (
            "webhook_outcomes_total{webhook=\"ask\",outcome=\"failed\"}",
            1.0,
        ),
        ("webhook_request_seconds_count{webhook=\"ask\"}", 1.0),
    ] {
        assert_eq!(
            scrape.get(&format!("pinhook_{series}")),
            expected,
            "{series}"
        );
    }
    for series in [
        "connections_refused_total{reason=\"connections_per_address\"}",
        "connections{protocol=\"http\"}",
        "start_time_seconds",
        "mqtt_queued_bytes",
        "mqtt_retained_messages",
        "mqtt_messages_received_total",
        "mqtt_messages_sent_total",
    ] {
        assert!(scrape.get(&format!("pinhook_{series}")) > 0.0, "{series}");
    }
    for secret in [token("porch"), "correct horse".to_owned()] {
        assert!(!body.contains(&secret), "{secret}");
    }
}

#[tokio::test]
async fn only_local_requests_see_them_unless_the_setting_says_otherwise() {
    let local = "Host: localhost:8080\r\n";
    let named = "Host: pi.local:8080\r\n";
    let forwarded = "Host: localhost\r\nX-Forwarded-For: 192.0.2.1\r\n";
    for (setting, headers, status, says) in [
        ("", local, "200 OK", "pinhook_devices 1\n"),
        (
            "",
            named,
            "403 Forbidden",
            "ask for `localhost:8080/metrics`",
        ),
        ("", forwarded, "403 Forbidden", "ask pinhook itself"),
        (
            "metrics: local\n",
            named,
            "403 Forbidden",
            ":\nmetrics: public\n",
        ),
        ("metrics: public\n", named, "200 OK", "pinhook_devices 1\n"),
        (
            "metrics: public\n",
            forwarded,
            "200 OK",
            "pinhook_devices 1\n",
        ),
        (
            "metrics: off\n",
            local,
            "404 Not Found",
            "there is nothing at this path\n",
        ),
    ] {
        let (_pinhook, http) = start(setting).await;

        let (head, body) = asked(connect(http).await, "GET /metrics", headers).await;

        let first = format!("HTTP/1.1 {status}\r\n");
        assert!(head.starts_with(&first), "{setting}{headers}{head}");
        assert!(body.contains(says), "{setting}{headers}{body}");
        assert_eq!(body.contains("# HELP"), status == "200 OK", "{body}");
    }
}

#[tokio::test]
async fn a_head_is_enough_and_another_method_is_none() {
    let (_pinhook, http) = start("").await;
    for (line, status) in [
        ("HEAD /metrics", "200 OK"),
        ("POST /metrics", "405 Method Not Allowed"),
        ("GET /metrics/", "404 Not Found"),
    ] {
        let (head, body) = asked(connect(http).await, line, "Host: localhost\r\n").await;

        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{line}: {head}"
        );
        assert!(!body.contains("# HELP"), "{line}: {body}");
    }
}

/// Who asks and does not read shares a text with all who do the same.
#[tokio::test]
async fn who_does_not_read_them_takes_no_memory() {
    let nowhere = ([127, 0, 0, 1], 9).into();
    let names: Vec<_> = (0..200).map(|n| format!("webhook-{n}")).collect();
    let webhooks: Vec<_> = names.iter().map(|name| (name.as_str(), "'")).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let pinhook = Process::start_in(folder, &config(&webhooks, nowhere), &[]).await;
    let http = pinhook.listens("http").await;
    Scrape::of(http).await;
    let before = pinhook.resident();
    let mut idle = Vec::new();
    for _ in 0..100 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = within("a connection", socket.connect(http)).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        within("a response", stream.readable()).await.unwrap();
        idle.push(stream);
    }

    Scrape::of(http).await;

    let grown = pinhook.resident().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
}

/// The first cells of the table are the names, and none is missing or invented.
#[tokio::test]
async fn the_readme_has_every_name() {
    let (_pinhook, http) = start("").await;
    let (_, body) = asked(connect(http).await, "GET /metrics", "Host: localhost\r\n").await;
    let names = body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE pinhook_"));
    let shown: BTreeSet<_> = names.filter_map(|line| line.split(' ').next()).collect();

    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("### `/metrics`\n").expect("a section");
    let (section, _) = section.split_once("\n## ").expect("its end");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split(", "));
    let told: BTreeSet<_> = names.map(|name| name.trim_matches('`')).collect();

    assert!(told.len() > 20, "{told:?}");
    assert_eq!(told, shown);
}

#[tokio::test]
async fn requests_of_the_http_apis_are_counted_and_what_is_refused_by_reason() {
    let (_pinhook, http) = start("limits: {writes_per_second: 1, value: 9B}\n").await;
    let long = "x".repeat(600_000);
    let requests = [
        Request::new("GET /TOKEN/update/V1?value=1234567890"),
        Request::new("GET /wrong-token-of-somebody/get/V1"),
        Request::new("GET /TOKEN/get/x"),
        Request::new("GET /TOKEN/nowhere"),
        Request::new("PUT /TOKEN/pin/V1").json(long),
        Request::new("GET /TOKEN/rtc"),
        Request::new("GET /external/api/get?token=wrong-token-of-somebody&V1"),
        Request::new("GET /external/api/nowhere"),
        Request::new("POST /external/api/update"),
        Request::new("GET /external/api/isHardwareConnected?token=TOKEN"),
        // Of none of them.
        Request::new("GET /healthz"),
        Request::new("GET /favicon.ico"),
    ];
    for request in requests {
        request.ask(http).await;
    }
    let mut writes = 0.0;
    loop {
        writes += 1.0;
        let write = Request::new("GET /TOKEN/update/V1?value=1");
        if write.ask(http).await.status == 429 {
            break;
        }
    }

    let scrape = Scrape::of(http).await;

    for (series, expected) in [
        ("requests_total{api=\"legacy\"}", 6.0 + writes),
        ("requests_total{api=\"cloud\"}", 4.0),
        ("refused_total{reason=\"login\"}", 2.0),
        ("refused_total{reason=\"rate\"}", 1.0),
        ("refused_total{reason=\"value_too_long\"}", 1.0),
        ("refused_total{reason=\"too_large\"}", 1.0),
        ("refused_total{reason=\"request\"}", 4.0),
        ("refused_total{reason=\"properties\"}", 0.0),
        ("refused_total{reason=\"timeout\"}", 0.0),
        ("refused_total{reason=\"stopping\"}", 0.0),
    ] {
        let series = format!("pinhook_http_{series}");
        assert_eq!(scrape.get(&series), expected, "{series}");
    }
}
