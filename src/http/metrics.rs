//! `/metrics`: numbers for those who watch over pinhook, in Prometheus's text format
//! (version 0.0.4, <https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Display, Write as _};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use futures_util::stream;
use tokio::time::Instant;

use super::audience::{Foreign, foreign};
use super::{Audience, sentence, unknown};
use crate::model::metric::{Kind, Metric, Sample, Value};

/// What the text is, as scrapers want to be told.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long a text is as good as new: it is made once for all who ask.
const FRESH: Duration = Duration::from_secs(1);

/// So many texts are kept at most for who still reads one, and hence as many seconds at
/// least.
const KEPT: usize = 5;

/// What goes to a reader at a time, in bytes.
const CHUNK: usize = 16 * 1024;

/// Tells all numbers there are, as they are now. It may wait for locks.
pub type Source = Box<dyn Fn() -> Vec<Metric> + Send + Sync>;

/// The numbers, and for whom they are.
pub struct Metrics {
    source: Source,
    audience: Audience,
    /// Locked while a text is made: however many ask, that costs no more than one at a
    /// time. The newest is the last.
    kept: Arc<tokio::sync::Mutex<VecDeque<Made>>>,
}

/// A text, and since when there is it.
struct Made {
    at: Instant,
    text: Arc<Text>,
}

impl Metrics {
    /// What `source` tells, for `audience`.
    pub fn new(source: Source, audience: Audience) -> Metrics {
        Metrics {
            source,
            audience,
            kept: Arc::default(),
        }
    }
}

/// A text that is read by many, and is gone when it is too old: who reads it slowly must
/// not keep the memory.
struct Text {
    length: usize,
    bytes: Mutex<Option<String>>,
}

impl Text {
    fn new(text: String) -> Text {
        Text {
            length: text.len(),
            bytes: Mutex::new(Some(text)),
        }
    }

    /// A copy of what begins at `start`, or an error if the text is gone.
    fn chunk(&self, start: usize) -> io::Result<Bytes> {
        let bytes = self.lock();
        let bytes = bytes.as_ref().map(String::as_bytes);
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))?;
        let end = self.length.min(start + CHUNK);
        Ok(Bytes::copy_from_slice(&bytes[start..end]))
    }

    fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.bytes.lock().expect("no panic under this lock")
    }
}

/// All numbers as text, or why not. `own` is what the front end itself has to tell.
pub(super) async fn answer(
    metrics: Arc<Metrics>,
    own: impl FnOnce() -> Vec<Metric> + Send + 'static,
    request: Request,
) -> Response {
    let refused = match metrics.audience {
        Audience::Public => None,
        Audience::Local => foreign(&request),
        Audience::Off => return unknown(),
    };
    if let Some(why) = refused {
        return sentence(StatusCode::FORBIDDEN, refusal(why, &request));
    }
    let text = newest(metrics, own).await;
    let length = text.length;
    let chunks = (0..length).step_by(CHUNK);
    let chunks = stream::iter(chunks.map(move |start| text.chunk(start)));
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Why a request is refused, and what to do about it.
fn refusal(why: Foreign, request: &Request) -> String {
    let (why, cure) = match why {
        Foreign::Listener => (
            "this listener is not bound to loopback",
            "add an address to `listen.http` that is, as in `[8080, '127.0.0.1:9464']`, and ask \
             there"
                .to_owned(),
        ),
        Foreign::Proxy => (
            "this request came through a proxy",
            "ask pinhook itself".to_owned(),
        ),
        Foreign::Host => {
            let host = request.headers().get(HOST);
            let host = host.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
            let port = host.and_then(|host| host.port_u16());
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            (
                "the `Host` of this request is no name of loopback",
                format!("ask for `localhost{port}/metrics`"),
            )
        }
    };
    format!(
        "metrics are for local requests only, and {why}: {cure}; to show them to everybody who \
         can connect, add this line to the configuration:\nmetrics: public"
    )
}

/// A text that is not older than [`FRESH`].
async fn newest(
    metrics: Arc<Metrics>,
    own: impl FnOnce() -> Vec<Metric> + Send + 'static,
) -> Arc<Text> {
    let mut kept = Arc::clone(&metrics.kept).lock_owned().await;
    if let Some(last) = kept.back()
        && last.at.elapsed() < FRESH
    {
        return Arc::clone(&last.text);
    }
    // On another thread: what waits for a lock here would stop everything.
    let making = tokio::task::spawn_blocking(move || {
        let mut all = (metrics.source)();
        all.extend(own());
        let text = Arc::new(Text::new(text(all)));
        let is_read = |made: &Made| Arc::strong_count(&made.text) > 1;
        kept.retain(is_read);
        if kept.len() == KEPT
            && let Some(oldest) = kept.pop_front()
        {
            oldest.text.forget();
        }
        kept.push_back(Made {
            at: Instant::now(),
            text: Arc::clone(&text),
        });
        text
    });
    making.await.expect("no panic where numbers are told")
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
    use std::sync::atomic::{AtomicU64, Ordering};

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

    async fn respond(metrics: &Arc<Metrics>, host: &str) -> Response {
        let own = || vec![Metric::connections("http", 3_u64)];
        let request = Request::builder().uri("/metrics").header("host", host);
        let request = request.extension(OnLoopback(true)).body(Body::empty());
        answer(Arc::clone(metrics), own, request.unwrap()).await
    }

    async fn asked(metrics: Arc<Metrics>, host: &str) -> (StatusCode, String) {
        let response = respond(&metrics, host).await;
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
                "there is nothing at this path\n",
            ),
        ] {
            let blynk = || vec![Metric::connections("blynk", 2_u64)];
            let metrics = Metrics::new(Box::new(blynk), audience);

            let (found, body) = asked(Arc::new(metrics), host).await;

            assert_eq!(found, status, "{audience:?} {host}");
            assert!(body.ends_with(end), "{audience:?} {host}: {body}");
        }
    }

    /// Numbers that say how often they were told, in more than one chunk.
    fn counted() -> Arc<Metrics> {
        let told = AtomicU64::new(0);
        let source = move || {
            let told = told.fetch_add(1, Ordering::Relaxed) + 1;
            let mut all = Metric::gauge("pinhook_told", "How often.");
            for n in 0..3000 {
                all.push([("n", n.to_string().as_str())], told);
            }
            vec![all]
        };
        Arc::new(Metrics::new(Box::new(source), Audience::Public))
    }

    async fn read(response: Response) -> Result<String, axum::Error> {
        let length = response.headers()[CONTENT_LENGTH].clone();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await?;
        assert_eq!(length, HeaderValue::from(bytes.len()));
        assert!(bytes.len() > 2 * CHUNK);
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_is_made_once_a_second_however_many_ask() {
        let metrics = counted();

        let asking = (0..8).map(|_| respond(&metrics, "pi.local"));
        let responses = futures_util::future::join_all(asking).await;
        tokio::time::advance(FRESH - Duration::from_millis(1)).await;
        let late = respond(&metrics, "pi.local").await;
        tokio::time::advance(Duration::from_millis(1)).await;
        let next = respond(&metrics, "pi.local").await;

        for response in responses.into_iter().chain([late]) {
            assert!(read(response).await.unwrap().contains("{n=\"2999\"} 1\n"));
        }
        assert!(read(next).await.unwrap().contains("{n=\"2999\"} 2\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_texts_that_nobody_reads_few_are_kept() {
        let metrics = counted();
        let mut unread = Vec::new();
        for _ in 0..3 * KEPT {
            unread.push(respond(&metrics, "pi.local").await);
            tokio::time::advance(FRESH).await;
        }

        let mut whole = 0;
        for (index, response) in unread.into_iter().enumerate() {
            if let Ok(text) = read(response).await {
                assert!(text.contains(&format!("{{n=\"2999\"}} {}\n", index + 1)));
                whole += 1;
            }
        }
        assert_eq!(whole, KEPT);
        drop(respond(&metrics, "pi.local").await);
        let kept = metrics.kept.lock().await;
        assert_eq!(kept.len(), 1);
    }

    #[test]
    fn each_reason_of_a_refusal_has_its_cure() {
        for (why, host, cure) in [
            (
                Foreign::Listener,
                "pi.local",
                "add an address to `listen.http` that is, as in `[8080, '127.0.0.1:9464']`",
            ),
            (Foreign::Proxy, "localhost", "ask pinhook itself"),
            (
                Foreign::Host,
                "pi.local:81",
                "ask for `localhost:81/metrics`",
            ),
            (Foreign::Host, "pi.local", "ask for `localhost/metrics`"),
        ] {
            let request = Request::builder().header(HOST, host).body(Body::empty());
            let says = refusal(why, &request.unwrap());
            assert!(says.contains(cure), "{says}");
            assert!(says.ends_with(":\nmetrics: public"), "{says}");
        }
    }
}
