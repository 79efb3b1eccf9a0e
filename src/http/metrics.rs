//! `/metrics`: numbers for those who watch over pinhook, in Prometheus's text format
//! (version 0.0.4, <https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::audience::foreign;
use super::{Audience, sentence, unknown};
use crate::model::metric::{Kind, Metric, Sample, Value};

/// What the text is, as scrapers want to be told.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Tells all numbers there are, as they are now. It may wait for locks.
pub type Source = Box<dyn Fn() -> Vec<Metric> + Send + Sync>;

/// The numbers, and for whom they are.
pub struct Metrics {
    source: Source,
    audience: Audience,
    /// Held by the request whose text is made: however many ask, they cost no more than
    /// one text at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Metrics {
    /// What `source` tells, for `audience`.
    pub fn new(source: Source, audience: Audience) -> Metrics {
        Metrics {
            source,
            audience,
            turn: Arc::default(),
        }
    }
}

/// All numbers as text, or why not. `own` is what the front end itself has to tell.
pub(super) async fn answer(
    metrics: Arc<Metrics>,
    own: impl FnOnce() -> Metric + Send + 'static,
    request: Request,
) -> Response {
    let refused = match metrics.audience {
        Audience::Public => None,
        Audience::Local => foreign(&request),
        Audience::Off => return unknown(),
    };
    if let Some(why) = refused {
        let says = format!(
            "metrics are for local requests only, and {why}; to show them to everybody who can \
             connect, add this line to the configuration:\nmetrics: public"
        );
        return sentence(StatusCode::FORBIDDEN, says);
    }
    let turn = Arc::clone(&metrics.turn).lock_owned().await;
    // On another thread: what waits for a lock here would stop everything.
    let text = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut all = (metrics.source)();
        all.push(own());
        text(all)
    });
    let text = text.await.expect("no panic where numbers are told");
    let format = HeaderValue::from_static(FORMAT);
    ([(CONTENT_TYPE, format)], text).into_response()
}

/// Metrics by name, those of one name together, as the format wants it.
fn text(metrics: Vec<Metric>) -> String {
    let mut families: BTreeMap<&str, Metric> = BTreeMap::new();
    for mut metric in metrics {
        match families.get_mut(metric.name) {
            Some(family) => family.samples.append(&mut metric.samples),
            None => drop(families.insert(metric.name, metric)),
        }
    }
    let mut text = String::new();
    for (name, metric) in &families {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        put(&mut text, format_args!("# HELP {name} {}", metric.help));
        put(&mut text, format_args!("# TYPE {name} {kind}"));
        for Sample { labels, value } in &metric.samples {
            let histogram = match value {
                Value::Number(number) => {
                    put_sample(&mut text, name, labels, None, number);
                    continue;
                }
                Value::Histogram(histogram) => histogram,
            };
            for (bound, count) in histogram.buckets() {
                let le = bound.map_or("+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
                let bucket = format_args!("{name}_bucket");
                put_sample(&mut text, bucket, labels, Some(le), count);
            }
            let sum = histogram.sum().as_secs_f64();
            put_sample(&mut text, format_args!("{name}_sum"), labels, None, sum);
            let count = histogram.count();
            put_sample(&mut text, format_args!("{name}_count"), labels, None, count);
        }
    }
    text
}

/// One line; `le` is the bound of a bucket.
fn put_sample(
    text: &mut String,
    name: impl Display,
    labels: &[(&str, String)],
    le: Option<String>,
    value: impl Display,
) {
    let le = le.map(|bound| ("le", bound));
    let labels = labels.iter().chain(&le);
    let labels: Vec<_> = labels
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    match labels.is_empty() {
        true => put(text, format_args!("{name} {value}")),
        false => put(text, format_args!("{name}{{{}}} {value}", labels.join(","))),
    }
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a text grows");
}

/// The value of a label as it stands between quotes.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\");
    value.replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;

    use super::super::audience::OnLoopback;
    use super::*;
    use crate::model::metric::Histogram;

    #[test]
    fn a_text_has_each_name_once_with_all_its_samples() {
        let mut histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_millis(250));
        histogram.observe(Duration::from_secs(90));
        let waits = Metric::histogram("pinhook_wait_seconds", "Waiting.");
        let text = text(vec![
            waits.with([("webhook", "ask")], histogram),
            Metric::gauge("pinhook_b", "B.").with([], 1_u64),
            Metric::counter("pinhook_a_total", "A.").by_reason([("one", 1)]),
            Metric::gauge("pinhook_empty", "Nothing."),
            Metric::counter("pinhook_a_total", "A.").with([("reason", "a\\b\"c\nd")], 2_u64),
        ]);

        let expected = r#"# HELP pinhook_a_total A.
# TYPE pinhook_a_total counter
pinhook_a_total{reason="one"} 1
pinhook_a_total{reason="a\\b\"c\nd"} 2
# HELP pinhook_b B.
# TYPE pinhook_b gauge
pinhook_b 1
# HELP pinhook_empty Nothing.
# TYPE pinhook_empty gauge
# HELP pinhook_wait_seconds Waiting.
# TYPE pinhook_wait_seconds histogram
pinhook_wait_seconds_bucket{webhook="ask",le="0.001"} 0
pinhook_wait_seconds_bucket{webhook="ask",le="0.003"} 1
pinhook_wait_seconds_bucket{webhook="ask",le="0.01"} 1
pinhook_wait_seconds_bucket{webhook="ask",le="0.03"} 1
pinhook_wait_seconds_bucket{webhook="ask",le="0.1"} 1
pinhook_wait_seconds_bucket{webhook="ask",le="0.3"} 2
pinhook_wait_seconds_bucket{webhook="ask",le="1"} 2
pinhook_wait_seconds_bucket{webhook="ask",le="3"} 2
pinhook_wait_seconds_bucket{webhook="ask",le="10"} 2
pinhook_wait_seconds_bucket{webhook="ask",le="30"} 2
pinhook_wait_seconds_bucket{webhook="ask",le="60"} 2
pinhook_wait_seconds_bucket{webhook="ask",le="+Inf"} 3
pinhook_wait_seconds_sum{webhook="ask"} 90.252
pinhook_wait_seconds_count{webhook="ask"} 3
"#;
        assert_eq!(text, expected);
    }

    async fn asked(metrics: Arc<Metrics>, host: &str) -> (StatusCode, String) {
        let own = || Metric::connections("http", 3_u64);
        let request = Request::builder().uri("/metrics").header("host", host);
        let request = request.extension(OnLoopback(true)).body(Body::empty());
        let response = answer(metrics, own, request.unwrap()).await;
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 4096).await;
        (status, String::from_utf8(body.unwrap().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_setting_says_who_sees_them() {
        use Audience::*;
        let shown = "pinhook_connections{protocol=\"blynk\"} 2\n\
                     pinhook_connections{protocol=\"http\"} 3\n";
        for (audience, host, status, end) in [
            (Local, "localhost", StatusCode::OK, shown),
            (
                Local,
                "pi.local",
                StatusCode::FORBIDDEN,
                ":\nmetrics: public\n",
            ),
            (Public, "pi.local", StatusCode::OK, shown),
            (
                Off,
                "localhost",
                StatusCode::NOT_FOUND,
                "there is nothing at `/metrics`\n",
            ),
        ] {
            let blynk = || vec![Metric::connections("blynk", 2_u64)];
            let metrics = Metrics::new(Box::new(blynk), audience);

            let (found, body) = asked(Arc::new(metrics), host).await;

            assert_eq!(found, status, "{audience:?} {host}");
            assert!(body.ends_with(end), "{audience:?} {host}: {body}");
        }
    }

    #[tokio::test]
    async fn one_text_is_made_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (inside, highest) = (Arc::clone(&now), Arc::clone(&most));
        let metrics = Metrics::new(
            Box::new(move || {
                let count = inside.fetch_add(1, Ordering::SeqCst) + 1;
                highest.fetch_max(count, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                inside.fetch_sub(1, Ordering::SeqCst);
                Vec::new()
            }),
            Audience::Public,
        );
        let metrics = Arc::new(metrics);

        let asking = (0..8).map(|_| asked(Arc::clone(&metrics), "pi.local"));
        futures_util::future::join_all(asking).await;

        assert_eq!(most.load(Ordering::SeqCst), 1);
    }
}
