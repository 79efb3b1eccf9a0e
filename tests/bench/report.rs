//! The figures beside their budgets, as a Markdown table for the README.

use std::fs;
use std::process::Command;

use crate::baseline::Baseline;
use crate::footprint::Footprint;
use crate::hanging::Hanging;
use crate::measure::{Closed, Open, RATE, median, percentile};

/// What one subject did, a value for each round; samples of all rounds together.
#[derive(Default)]
pub struct Subject {
    pub closed: Vec<Closed>,
    pub open: Open,
    /// Resident memory before the first device came, and the highest in the closed loop, MiB.
    pub idle: Vec<f64>,
    pub peak: Vec<f64>,
}

/// All that a run found.
#[derive(Default)]
pub struct Figures {
    pub bare_16: Vec<Baseline>,
    pub bare_1: Vec<Baseline>,
    pub pinhook: Subject,
    /// Empty where there is no mosquitto.
    pub script: Option<Subject>,
    /// With the shipped configuration, MiB.
    pub idle: f64,
    /// Milliseconds, one for each start.
    pub first_webhook: Vec<f64>,
    pub first_webhook_of_1000: Vec<f64>,
    pub footprint: Footprint,
    pub hanging: Hanging,
    pub binary_bytes: u64,
}

/// What a figure is to be.
pub enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

/// The lines of the table; a cell without a figure is empty.
struct Table {
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
    pub fn table(&mut self) -> String {
        let mut table = Table::new();
        let pinhook = &self.pinhook.closed;
        let script = self.script.as_ref().map(|script| &script.closed);
        let bare_cpu = |index: usize| self.bare_16[index].cpu;

        table.row(
            "webhooks/s, 50 devices, closed loop",
            round(median(pinhook.iter().map(|it| it.per_second))),
            script.map(|script| round(median(script.iter().map(|it| it.per_second)))),
            Some(pair(
                round(median(self.bare_16.iter().map(|it| it.per_second))),
                round(median(self.bare_1.iter().map(|it| it.per_second))),
            )),
            "≥ 1.5 × the script",
            script.map(|script| {
                let ratios = pinhook.iter().zip(script);
                let ratio = median(ratios.map(|(own, its)| own.per_second / its.per_second));
                Budget::AtLeast(1.5).of_ratio(ratio)
            }),
        );
        let cpu = median(pinhook.iter().map(|it| it.cpu));
        table.row(
            "CPU s per 10,000 webhooks",
            format!("{cpu:.2}"),
            script.map(|script| format!("{:.2}", median(script.iter().map(|it| it.cpu)))),
            Some(pair(
                format!("{:.2}", median(self.bare_16.iter().map(|it| it.cpu))),
                format!("{:.2}", median(self.bare_1.iter().map(|it| it.cpu))),
            )),
            "≤ 0.40",
            Some(Budget::AtMost(0.40).of(cpu)),
        );
        let ratios = pinhook.iter().enumerate();
        let ratio = median(ratios.map(|(index, own)| own.cpu / bare_cpu(index)));
        table.row(
            "the same, beside the bare client with 16 in flight",
            format!("{ratio:.2} ×"),
            script.map(|script| {
                let ratios = script.iter().enumerate();
                let ratio = median(ratios.map(|(index, its)| its.cpu / bare_cpu(index)));
                format!("{ratio:.2} ×")
            }),
            Some("1 ×".to_owned()),
            "≤ 1.7 ×",
            Some(Budget::AtMost(1.7).of_ratio(ratio)),
        );

        for (what, share) in [("p50", 0.50), ("p99", 0.99)] {
            let own = percentile(&mut self.pinhook.open.to_request, share);
            let its = self
                .script
                .as_mut()
                .map(|script| percentile(&mut script.open.to_request, share));
            let call = median(
                self.bare_1
                    .iter()
                    .map(|it| if share < 0.9 { it.p50 } else { it.p99 }),
            );
            let call = Some(format!("{call:.2} (the call itself)"));
            table.latency(
                &format!("write → request {what}, ms, at {RATE}/s"),
                own,
                its,
                call,
            );
        }
        for (what, share) in [("p50", 0.50), ("p99", 0.99)] {
            let own = percentile(&mut self.pinhook.open.to_response, share);
            let its = self
                .script
                .as_mut()
                .map(|script| percentile(&mut script.open.to_response, share));
            table.latency(
                &format!("write → response {what}, ms, at {RATE}/s"),
                own,
                its,
                None,
            );
        }

        let script = self.script.as_ref();
        table.row(
            "memory idle, shipped config, MiB",
            format!("{:.1}", self.idle),
            script.map(|script| format!("{:.1}", median(script.idle.iter().copied()))),
            None,
            "≤ 12",
            Some(Budget::AtMost(12.0).of(self.idle)),
        );
        let peak = median(self.pinhook.peak.iter().copied());
        table.row(
            "memory peak in the closed loop, MiB",
            format!("{peak:.1}"),
            script.map(|script| format!("{:.1}", median(script.peak.iter().copied()))),
            None,
            "≤ 24",
            Some(Budget::AtMost(24.0).of(peak)),
        );
        for (what, starts, limit) in [
            ("start to first webhook, ms", &self.first_webhook, 60.0),
            (
                "the same with 1,000 devices and 1,000 webhooks, ms",
                &self.first_webhook_of_1000,
                500.0,
            ),
        ] {
            let start = median(starts.iter().copied());
            table.row(
                what,
                round(start),
                None,
                None,
                &format!("≤ {limit}"),
                Some(Budget::AtMost(limit).of(start)),
            );
        }
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
    fn new() -> Table {
        let text = "\
| | pinhook | script + mosquitto | reqwest alone, 16 / 1 in flight | budget | |
|---|---|---|---|---|---|
";
        Table {
            text: text.to_owned(),
        }
    }

    fn row(
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
