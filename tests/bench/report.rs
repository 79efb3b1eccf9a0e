//! The figures beside their budgets, as a Markdown table for the README.

use std::fs;
use std::process::Command;

use crate::baseline::Baseline;
use crate::footprint::Footprint;
use crate::hanging::Hanging;
use crate::measure::{Closed, DEVICES, Open, RATE, median, percentile};

/// What one subject did, a value for each round; samples of all rounds together.
#[derive(Default)]
pub struct Subject {
    pub closed: Vec<Closed>,
    pub open: Open,
    /// Resident memory before the first device came, and the highest in the closed loop, MiB.
    pub idle: Vec<f64>,
    pub peak: Vec<f64>,
}

/// What the ring is measured beside.
#[derive(Default)]
pub struct Others {
    pub bare_16: Vec<Baseline>,
    pub bare_1: Vec<Baseline>,
    /// Empty where there is no mosquitto.
    pub script: Option<Subject>,
}

/// All that a run found with devices over MQTT, but for the others.
#[derive(Default)]
pub struct Figures {
    pub pinhook: Subject,
    /// With the shipped configuration, MiB.
    pub idle: f64,
    /// Milliseconds, one for each start.
    pub first_webhook: Vec<f64>,
    pub first_webhook_of_1000: Vec<f64>,
    pub footprint: Footprint,
    pub hanging: Hanging,
    pub binary_bytes: u64,
}

impl Subject {
    /// What part of one core the load took in the closed loop.
    pub fn generator(&self) -> String {
        let shares = self.closed.iter().map(|closed| closed.generator);
        format!("{:.0} %", median(shares) * 100.0)
    }
}

/// What a figure is to be.
pub enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

/// The lines of a table; a cell without a figure is empty.
pub struct Table {
    text: String,
}

/// Machine, date and compiler, one line.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("model name")?
                    .split_once(':')?
                    .1
                    .trim()
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let rustc = Command::new("rustc")
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_else(|_| "rustc unknown".to_owned());
    format!(
        "{model}, {cores} cores, Linux {}, {rustc}, {}; load before the run {}",
        kernel.trim(),
        jiff::Zoned::now().date(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

impl Figures {
    /// The table, with a verdict for every budget.
    pub fn table(&mut self, others: &mut Others) -> String {
        let mut table = Table::new("");
        let what = format!("webhooks/s, {DEVICES} devices, closed loop");
        table.loops(&what, &mut self.pinhook, others);
        let script = others.script.as_ref();
        table.row(
            "memory idle, shipped config, MiB",
            format!("{:.1}", self.idle),
            script.map(|script| format!("{:.1}", median(script.idle.iter().copied()))),
            None,
            "≤ 12",
            Some(Budget::AtMost(12.0).of(self.idle)),
        );
        table.peak(&self.pinhook, others);
        table.starts(&self.first_webhook, &self.first_webhook_of_1000);
        self.hanging.rows(&mut table);
        self.footprint.rows(&mut table);
        let size = self.binary_bytes as f64 / 1e6;
        table.row(
            "binary, MB",
            format!("{size:.1}"),
            None,
            None,
            "≤ 15",
            Some(Budget::AtMost(15.0).of(size)),
        );
        table.text
    }
}

impl Hanging {
    fn rows(&mut self, table: &mut Table) {
        for (what, share, is_bound) in [("p50", 0.50, false), ("p99", 0.99, true)] {
            let without = percentile(&mut self.without.to_response, share);
            let with = percentile(&mut self.with.to_response, share);
            let ratio = with / without;
            let (budget, verdict) = match is_bound {
                true => ("≤ 2 × without", Budget::AtMost(2.0).of_ratio(ratio)),
                false => ("", format!("{ratio:.2} ×")),
            };
            table.row(
                &format!("write → response {what}, ms, without / with one that hangs"),
                pair(format!("{without:.2}"), format!("{with:.2}")),
                None,
                None,
                budget,
                Some(verdict),
            );
        }
        let growth = median(self.growth.iter().copied());
        table.row(
            "memory peak with one that hangs, MiB above idle",
            format!("{growth:.1}"),
            None,
            None,
            "≤ 40",
            Some(Budget::AtMost(40.0).of(growth)),
        );
    }
}

impl Footprint {
    fn rows(&self, table: &mut Table) {
        let mut row = |what: &str, figure: String| {
            table.row(what, figure, None, None, "", Some(String::new()));
        };
        row(
            "memory with 1,000 devices and 1,000 webhooks, idle / each has fired, MiB",
            pair(
                format!("{:.1}", self.idle.memory),
                format!("{:.1}", self.fired.memory),
            ),
        );
        row(
            "of it for a device / a webhook / their first firing, KiB",
            format!(
                "{:.1} / {:.1} / {:.1}",
                self.device, self.webhook, self.firing
            ),
        );
        row(
            "the same: open files and sockets, idle / each has fired",
            pair(
                self.idle.descriptors.to_string(),
                self.fired.descriptors.to_string(),
            ),
        );
        row(
            "the same: threads, idle / each has fired",
            pair(
                self.idle.threads.to_string(),
                self.fired.threads.to_string(),
            ),
        );
    }
}

impl Table {
    /// An empty one, with its subject in its corner.
    pub fn new(corner: &str) -> Table {
        Table {
            text: format!(
                "\
| {corner} | pinhook | script + mosquitto | reqwest alone, 16 / 1 in flight | budget | |
|---|---|---|---|---|---|
"
            ),
        }
    }

    /// What both loops found, the closed one named by `what`.
    pub fn loops(&mut self, what: &str, subject: &mut Subject, others: &mut Others) {
        let Others {
            bare_16,
            bare_1,
            script,
        } = others;
        let (own, its) = (&subject.closed, script.as_ref().map(|it| &it.closed));
        let bare_cpu = |index: usize| bare_16[index].cpu;

        self.row(
            what,
            round(median(own.iter().map(|it| it.per_second))),
            its.map(|its| round(median(its.iter().map(|it| it.per_second)))),
            Some(pair(
                round(median(bare_16.iter().map(|it| it.per_second))),
                round(median(bare_1.iter().map(|it| it.per_second))),
            )),
            "≥ 1.5 × the script",
            its.map(|its| {
                let ratios = own.iter().zip(its);
                let ratio = median(ratios.map(|(own, its)| own.per_second / its.per_second));
                Budget::AtLeast(1.5).of_ratio(ratio)
            }),
        );
        let cpu = median(own.iter().map(|it| it.cpu));
        self.row(
            "CPU s per 10,000 webhooks",
            format!("{cpu:.2}"),
            its.map(|its| format!("{:.2}", median(its.iter().map(|it| it.cpu)))),
            Some(pair(
                format!("{:.2}", median(bare_16.iter().map(|it| it.cpu))),
                format!("{:.2}", median(bare_1.iter().map(|it| it.cpu))),
            )),
            "≤ 0.40",
            Some(Budget::AtMost(0.40).of(cpu)),
        );
        let beside_bare = |closed: &[Closed]| {
            let ratios = closed.iter().enumerate();
            median(ratios.map(|(index, it)| it.cpu / bare_cpu(index)))
        };
        let ratio = beside_bare(own);
        self.row(
            "the same, beside the bare client with 16 in flight",
            format!("{ratio:.2} ×"),
            its.map(|its| format!("{:.2} ×", beside_bare(its))),
            Some("1 ×".to_owned()),
            "≤ 1.7 ×",
            Some(Budget::AtMost(1.7).of_ratio(ratio)),
        );

        for (name, share) in [("p50", 0.50), ("p99", 0.99)] {
            let own = percentile(&mut subject.open.to_request, share);
            let its = script
                .as_mut()
                .map(|script| percentile(&mut script.open.to_request, share));
            let call = median(
                bare_1
                    .iter()
                    .map(|it| if share < 0.9 { it.p50 } else { it.p99 }),
            );
            let call = Some(format!("{call:.2} (the call itself)"));
            let what = format!("write → request {name}, ms, at {RATE}/s");
            self.latency(&what, own, its, call);
        }
        for (name, share) in [("p50", 0.50), ("p99", 0.99)] {
            let own = percentile(&mut subject.open.to_response, share);
            let its = script
                .as_mut()
                .map(|script| percentile(&mut script.open.to_response, share));
            let what = format!("write → response {name}, ms, at {RATE}/s");
            self.latency(&what, own, its, None);
        }
    }

    /// The most memory that the closed loop took.
    pub fn peak(&mut self, subject: &Subject, others: &Others) {
        let peak = median(subject.peak.iter().copied());
        let script = others.script.as_ref();
        self.row(
            "memory peak in the closed loop, MiB",
            format!("{peak:.1}"),
            script.map(|script| format!("{:.1}", median(script.peak.iter().copied()))),
            None,
            "≤ 24",
            Some(Budget::AtMost(24.0).of(peak)),
        );
    }

    /// How long the first webhook takes from the start of the process, ms: with one, and with 1,000.
    pub fn starts(&mut self, with_one: &[f64], with_1000: &[f64]) {
        for (what, starts, limit) in [
            ("start to first webhook, ms", with_one, 60.0),
            (
                "the same with 1,000 devices and 1,000 webhooks, ms",
                with_1000,
                500.0,
            ),
        ] {
            let start = median(starts.iter().copied());
            self.row(
                what,
                round(start),
                None,
                None,
                &format!("≤ {limit}"),
                Some(Budget::AtMost(limit).of(start)),
            );
        }
    }

    /// The lines as they stand in a page.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Appends a line.
    pub fn row(
        &mut self,
        what: &str,
        pinhook: String,
        script: Option<String>,
        bare: Option<String>,
        budget: &str,
        verdict: Option<String>,
    ) {
        let cells = [
            what,
            &pinhook,
            script.as_deref().unwrap_or(""),
            bare.as_deref().unwrap_or(""),
            budget,
            verdict.as_deref().unwrap_or("not measured: no mosquitto"),
        ];
        self.text += &format!("| {} |\n", cells.join(" | "));
    }

    fn latency(&mut self, what: &str, own: f64, its: Option<f64>, bare: Option<String>) {
        self.row(
            what,
            format!("{own:.2}"),
            its.map(|its| format!("{its:.2}")),
            bare,
            "≤ 0.65 × the script",
            its.map(|its| Budget::AtMost(0.65).of_ratio(own / its)),
        );
    }
}

impl Budget {
    /// Whether it is met.
    pub fn of(&self, figure: f64) -> String {
        let is_met = match *self {
            Budget::AtMost(limit) => figure <= limit,
            Budget::AtLeast(limit) => figure >= limit,
        };
        if is_met { "met" } else { "missed" }.to_owned()
    }

    /// The ratio, and whether it meets the budget.
    pub fn of_ratio(&self, ratio: f64) -> String {
        format!("{ratio:.2} ×: {}", self.of(ratio))
    }
}

/// Two figures in one cell.
pub fn pair(first: String, second: String) -> String {
    format!("{first} / {second}")
}

/// A whole number with commas between the thousands.
pub fn round(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
