//! Reads the table and plays it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::PATIENCE;
use crate::support::blynk::{Cut, Ports, Sketch, TOK, Way, bytes, frame, http_get, response};
use crate::support::service::{Answer, Service};

/// Cases that run at once.
const AT_ONCE: usize = 8;

/// A case of the table.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub name: String,
    device: String,
    also: String,
    rest: String,
    steps: Vec<Step>,
}

/// A step, and the connection it is for.
#[derive(Debug, Clone)]
struct Step {
    sketch: char,
    text: String,
}

impl Case {
    /// Those of the table, in its order.
    pub fn all() -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for line in include_str!("cases.txt").lines() {
            let text = line.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if !line.starts_with(' ') {
                let name = text.split(' ').next().expect("a word").to_owned();
                cases.push(Case {
                    name,
                    ..Case::default()
                });
                continue;
            }
            let case = cases.last_mut().expect("a case before its first step");
            match text.split_once(' ') {
                Some(("device", yaml)) => case.device = format!(", {yaml}"),
                Some(("also", yaml)) => case.also = format!("  {yaml}\n"),
                Some(("rest", yaml)) => case.rest = yaml.to_owned(),
                Some(("b:", step)) => case.steps.push(Step::new('b', step)),
                _ => case.steps.push(Step::new('a', text)),
            }
        }
        cases
    }

    fn config(&self, service: &Service) -> String {
        let Case { device, also, .. } = self;
        let rest = self.rest.replace("{host}", &service.host().to_string());
        format!("devices:\n  porch: {{token: {TOK}{device}}}\n{also}{rest}\n")
    }

    async fn play(self, way: Way, cut: Cut) {
        let service = Service::start(|_| Answer::ok(r#"{"a":1}"#)).await;
        let ports = Ports::start(&self.config(&service)).await;
        let mut sketches: BTreeMap<char, Sketch> = BTreeMap::new();
        for step in &self.steps {
            if let Some(asked) = step.of_http() {
                // What was said before is to be there.
                for sketch in sketches.values_mut() {
                    sketch.flush().await;
                }
                asked.check(&ports).await;
                continue;
            }
            let mut sketch = match sketches.remove(&step.sketch) {
                Some(sketch) => sketch,
                None => {
                    let dice = format!("{}{} {way:?}", self.name, step.sketch);
                    ports.connect(way, &dice).await.cut(cut)
                }
            };
            if step.text == "leave" {
                sketch.leave().await;
                continue;
            }
            step.take(&mut sketch).await;
            sketches.insert(step.sketch, sketch);
        }
    }
}

impl Step {
    fn new(sketch: char, text: &str) -> Step {
        let text = text.to_owned();
        Step { sketch, text }
    }

    async fn take(&self, sketch: &mut Sketch) {
        let (what, rest) = self.text.split_once(' ').unwrap_or((&self.text, ""));
        match what {
            "login" => sketch.log_in(TOK).await,
            ">" => sketch.send(&said(rest)),
            "<" => sketch.expect(&bytes(rest)).await,
            "<any" => {
                sketch
                    .expect_all(rest.split(' ').map(bytes).collect())
                    .await
            }
            "quiet" => sketch.quiet().await,
            "pause" => sketch.pause().await,
            "closed" => sketch.closed().await,
            "bridges" => {
                let (from, to) = rest.split_once(' ').expect("two numbers");
                let numbers = from.parse().expect("a number")..=to.parse().expect("a number");
                for number in numbers {
                    sketch.say(15, number, &format!("{number}·i·{TOK}"));
                    sketch.expect(&response(number, 200)).await;
                }
            }
            _ => panic!("no such step: {}", self.text),
        }
    }

    /// What is asked of HTTP, if it is that.
    fn of_http(&self) -> Option<Asked<'_>> {
        let (what, rest) = self.text.split_once(' ')?;
        match what {
            "get" => {
                let (pin, expected) = rest.split_once(' ').expect("a pin and what it is");
                Some(Asked {
                    path: format!("/{TOK}/get/{pin}"),
                    expected,
                    patience: Duration::ZERO,
                })
            }
            "update" => Some(Asked {
                path: format!("/{TOK}/update/{}", rest.replacen(' ', "?", 1)),
                expected: "",
                patience: Duration::ZERO,
            }),
            "connected" => Some(Asked {
                path: format!("/{TOK}/isHardwareConnected"),
                expected: rest,
                patience: PATIENCE,
            }),
            _ => None,
        }
    }
}

/// A request whose answer is known.
struct Asked<'a> {
    path: String,
    expected: &'a str,
    /// How long another answer may come before it.
    patience: Duration,
}

impl Asked<'_> {
    async fn check(&self, ports: &Ports) {
        let start = Instant::now();
        loop {
            let (status, body) = http_get(ports.http, &self.path).await;
            if status == 200 && body == self.expected {
                return;
            }
            assert!(
                start.elapsed() < self.patience,
                "{}: found {status} `{body}`, expected 200 `{}`",
                self.path.replace(TOK, "TOK"),
                self.expected
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The bytes that a `>` says.
fn said(text: &str) -> Vec<u8> {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(command), Some(id), Some(body)) => {
            let command = command.parse().expect("a command");
            frame(command, id.parse().expect("an id"), body)
        }
        _ => bytes(text),
    }
}

/// Plays every case, with its bytes cut in each way, and says which went wrong.
pub async fn play(way: Way) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    const CUTS: [Cut; 3] = [Cut::Whole, Cut::Bytes, Cut::Random];
    let cases = Case::all().into_iter().enumerate();
    for ((place, case), cut) in cases.flat_map(|case| CUTS.map(|cut| (case.clone(), cut))) {
        let places = Arc::clone(&places);
        playing.spawn(async move {
            let _place = places.acquire().await.expect("nobody closes it");
            let name = case.name.clone();
            let played = tokio::spawn(case.play(way, cut)).await;
            played.map_err(|error| (place, format!("{name}, {cut:?}: {}", reason(error))))
        });
    }
    let mut wrong = Vec::new();
    let mut right = 0;
    while let Some(played) = playing.join_next().await {
        match played.expect("no panic outside of a case") {
            Ok(()) => right += 1,
            Err(reason) => wrong.push(reason),
        }
    }
    wrong.sort();
    let report: Vec<_> = wrong.into_iter().map(|(_, reason)| reason).collect();
    let report = report.join("\n");
    assert!(
        report.is_empty(),
        "{way:?}: {right} went well, not\n{report}"
    );
}

/// What a case panicked with.
fn reason(error: tokio::task::JoinError) -> String {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
