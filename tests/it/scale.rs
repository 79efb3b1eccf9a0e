//! Many webhooks, and one third party that hangs: what the others notice of it, and what it takes.
//!
//! Times are only compared with times of the same run.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pinhook::hub::Counts;
use pinhook::model::Outcome;
use tokio::task::JoinSet;

use crate::support::child::Process;
use crate::support::daemon::Daemon;
use crate::support::raw::{Hello, Raw, V};
use crate::support::service::{Answer, Gate, Service};
use crate::support::{token, until};

/// Requests in flight of the webhook that hangs.
const CONCURRENCY: usize = 4;

/// Its devices: more than it may have requests.
const HANGING: usize = 2 * CONCURRENCY;

/// A configuration with `healthy` webhooks of a device each, and one webhook with the further
/// [`HANGING`] devices; `rest` is what else is said of that one.
fn one_among(
    healthy: usize,
    in_flight: usize,
    service: &Service,
    hung: &Service,
    rest: &str,
) -> String {
    let mut yaml = format!("limits: {{in_flight: {in_flight}, writes_per_second: 0}}\n");
    yaml += "defaults: {every: 0}\n";
    yaml += &devices(healthy + HANGING);
    yaml += &webhooks(healthy, service);
    let names: Vec<_> = (healthy..healthy + HANGING).map(name).collect();
    let (names, host) = (names.join(", "), hung.host());
    yaml + &format!(
        "  hanging: {{device: [{names}], pin: V1, url: 'http://{host}/%s', concurrency: {CONCURRENCY}, stop_after: 0, {rest}}}\n"
    )
}

fn devices(count: usize) -> String {
    let mut yaml = "devices:\n".to_owned();
    for name in (0..count).map(name) {
        writeln!(yaml, "  {name}: {{token: {}}}", token(&name)).expect("a text grows");
    }
    yaml
}

/// A webhook for each of the first devices.
fn webhooks(count: usize, service: &Service) -> String {
    let mut yaml = "webhooks:\n".to_owned();
    let host = service.host();
    for index in 0..count {
        let name = name(index);
        writeln!(
            yaml,
            "  w{index}: {{device: {name}, pin: V1, url: 'http://{host}/%s'}}"
        )
        .expect("a text grows");
    }
    yaml
}

fn name(index: usize) -> String {
    format!("d{index}")
}

/// A device that hears its responses and nothing else.
async fn device(address: SocketAddr, index: usize) -> Raw {
    let mut device = Raw::log_in(address, Hello::mounted(V::V311, &name(index))).await;
    assert_eq!(device.subscribe(&[("downlink/ds/#", 1)]).await, [1]);
    device
}

async fn devices_of(daemon: &Daemon, indices: std::ops::Range<usize>) -> Vec<Raw> {
    let mut devices = Vec::new();
    for index in indices {
        devices.push(device(daemon.address, index).await);
    }
    devices
}

/// Each device writes and hears the response to just that; how long each took.
async fn turns(devices: &mut [Raw], round: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for (index, device) in devices.iter_mut().enumerate() {
        let value = format!("{round}-{index}");
        let start = Instant::now();
        device.publish("ds/V1", &value).await;
        let response = device.message_on("downlink/ds/V1").await;
        took.push(start.elapsed());
        assert_eq!(response.text(), format!("/{value}"));
    }
    took
}

fn assert_adds_up(counts: &Counts) {
    let open = (counts.waiting + counts.in_flight) as u64;
    assert_eq!(counts.triggered, counts.outcomes.sum() + open, "{counts:?}");
}

#[tokio::test]
async fn one_that_hangs_changes_nothing_for_a_hundred_others() {
    const HEALTHY: usize = 100;
    const ROUNDS: usize = 3;
    /// Both are medians of hundreds of turns that alternate, so a busy machine slows both.
    const BOUND: u32 = 3;
    let service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let gate = Gate::new();
    let held = gate.clone();
    let mut hung = Service::start(move |seen| Answer::ok(seen.target.clone()).when(&held)).await;
    // One place more than the one that hangs may take.
    let yaml = one_among(HEALTHY, CONCURRENCY + 1, &service, &hung, "timeout: 10m");
    let daemon = Daemon::start(&yaml).await;
    let mut healthy = devices_of(&daemon, 0..HEALTHY).await;
    let mut hanging = devices_of(&daemon, HEALTHY..HEALTHY + HANGING).await;
    turns(&mut healthy, 0).await;

    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        without.extend(turns(&mut healthy, 2 * round).await);

        for device in &mut hanging {
            device.publish("ds/V1", format!("{round}-old")).await;
        }
        for _ in 0..CONCURRENCY {
            hung.request().await;
        }
        for device in &mut hanging {
            device.publish("ds/V1", format!("{round}-new")).await;
        }
        with.extend(turns(&mut healthy, 2 * round + 1).await);

        let counts = daemon.counts("hanging");
        assert_adds_up(&counts);
        assert_eq!((counts.in_flight, counts.waiting), (CONCURRENCY, HANGING));
        assert!(hung.request_now().is_none(), "concurrency is {CONCURRENCY}");
        // What is in flight, and the newest of each device.
        gate.open(CONCURRENCY + HANGING);
        for device in &mut hanging {
            let newest = format!("/{round}-new");
            while device.message_on("downlink/ds/V1").await.text() != newest {}
        }
        for _ in 0..HANGING {
            hung.request().await;
        }
    }

    let median = |mut took: Vec<Duration>| {
        took.sort_unstable();
        took[took.len() / 2]
    };
    let (without, with) = (median(without), median(with));
    assert!(with <= BOUND * without, "{with:?}, without it {without:?}");
    for index in 0..HEALTHY {
        let counts = daemon.counts(&format!("w{index}"));
        let all = 1 + 2 * ROUNDS as u64;
        assert_eq!(counts.triggered, all);
        assert_eq!(counts.outcomes.get(Outcome::Ok), all, "{counts:?}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn one_that_hangs_has_never_more_places_than_its_own_and_gives_each_back() {
    const HEALTHY: usize = 3;
    /// So many that places which do not come back would be gone long before.
    const TIMED_OUT: u64 = 10 * CONCURRENCY as u64;
    let service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let hung = Service::start(|_| Answer::never()).await;
    // A POST that may have arrived is not sent again.
    let rest = "timeout: 30ms, method: POST";
    let yaml = one_among(HEALTHY, CONCURRENCY + 1, &service, &hung, rest);
    let daemon = Daemon::start(&yaml).await;
    let mut healthy = devices_of(&daemon, 0..HEALTHY).await;
    let mut hanging = devices_of(&daemon, HEALTHY..HEALTHY + HANGING).await;

    let (mut most, mut round) = (0, 0);
    loop {
        for device in &mut hanging {
            device.publish("ds/V1", "1").await;
            let counts = daemon.counts("hanging");
            assert_adds_up(&counts);
            most = most.max(counts.in_flight);
        }
        turns(&mut healthy, round).await;
        round += 1;
        let counts = daemon.counts("hanging");
        if counts.outcomes.get(Outcome::Failed) >= TIMED_OUT {
            break;
        }
    }
    until("the end of what hangs", || {
        let counts = daemon.counts("hanging");
        assert_adds_up(&counts);
        most = most.max(counts.in_flight);
        counts.in_flight + counts.waiting == 0
    })
    .await;

    assert_eq!(most, CONCURRENCY);
    let counts = daemon.counts("hanging");
    let failed = counts.outcomes.get(Outcome::Failed);
    let superseded = counts.outcomes.get(Outcome::Superseded);
    assert_eq!(counts.triggered, failed + superseded, "{counts:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_thousand_webhooks_on_a_thousand_devices_fire_once_each_and_share_what_they_need() {
    const MANY: usize = 1000;
    /// Devices that are connected at a time.
    const AT_ONCE: usize = 50;
    /// Requests in flight, and so connections to the third party: the default.
    const IN_FLIGHT: usize = 64;
    /// Connections that have ended and are not closed yet, on either side.
    const SLACK: usize = 10;
    /// KiB for a webhook and its device that have fired. An HTTP client of its own alone
    /// would take several times as much.
    const EACH: u64 = 48;
    let mut service = Service::start(|seen| Answer::ok(seen.target.clone())).await;
    let few = Process::start(&(devices(1) + &webhooks(1, &service))).await;
    let mut pinhook = Process::start(&(devices(MANY) + &webhooks(MANY, &service))).await;
    until(
        "as many threads and open sockets as with one webhook",
        || {
            let (many, one) = (&pinhook, &few);
            many.threads() == one.threads() && many.descriptors() == one.descriptors()
        },
    )
    .await;
    let (threads, idle) = (pinhook.threads(), pinhook.descriptors());

    let address = pinhook.address;
    let (mut running, mut most) = (JoinSet::new(), 0);
    let mut left = 0..MANY;
    loop {
        while running.len() < AT_ONCE
            && let Some(index) = left.next()
        {
            running.spawn(async move {
                let mut device = device(address, index).await;
                device.publish("ds/V1", index.to_string()).await;
                let response = device.message_on("downlink/ds/V1").await;
                assert_eq!(response.text(), format!("/{index}"));
                device.goodbye().await;
            });
        }
        match running.join_next().await {
            Some(ended) => ended.expect("a device has no fault"),
            None => break,
        }
        most = most.max(pinhook.descriptors());
    }

    let requests = std::iter::from_fn(|| service.request_now());
    let targets: Vec<_> = requests.map(|seen| seen.target).collect();
    let distinct: HashSet<_> = targets.iter().collect();
    assert_eq!((targets.len(), distinct.len()), (MANY, MANY));
    assert!(
        most <= idle + AT_ONCE + IN_FLIGHT + SLACK,
        "{most}, idle {idle}"
    );
    until("the devices' sockets are closed", || {
        pinhook.descriptors() <= idle + IN_FLIGHT
    })
    .await;
    assert!(
        pinhook.threads() <= threads,
        "{} threads",
        pinhook.threads()
    );
    let each = pinhook.resident().saturating_sub(few.resident()) / MANY as u64;
    assert!(each <= EACH, "{each} KiB for each webhook and device");
    pinhook.assert_unharmed();
}
