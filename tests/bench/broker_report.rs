//! What was found about the broker alone, as a Markdown table for the README.

use crate::Plan;
use crate::broker::{Broker, CASES, Figures};
use crate::flood::{Case, Flood, ON_THEIR_WAY, PAYLOAD, UNACKNOWLEDGED};
use crate::idle::{COUNTS, Idle};
use crate::measure::median;
use crate::process::cores;
use crate::report::{Budget, round};

/// The lines of the table. Cells of mosquitto are empty where there is none.
#[derive(Default)]
struct Table {
    text: String,
}

impl Figures {
    /// Prints the table, with a verdict for every budget, and how it came about.
    pub fn print(&self, plan: &Plan, machine: &str) {
        println!("{machine}.");
        println!();
        println!(
            "The broker alone: {PAYLOAD} bytes of payload, one subscriber, at most {ON_THEIR_WAY} messages on their \
             way and {UNACKNOWLEDGED} unacknowledged by publisher; one publisher writes several packets at once, fifty \
             write one at a time. Median of {} rounds of {} s in each case, the brokers taking turns; ratios are \
             medians of ratios within a round. {} Each idle connection has logged in, subscribed to a filter of its \
             own and sent a ping.",
            plan.rounds,
            plan.window.as_secs_f64(),
            match cores() {
                Some(_) => "The broker is kept to one core, the load to another.",
                None => "Broker and load share the cores.",
            },
        );
        println!();
        print!("{}", self.table());
        println!();
        println!("Of one core the load used, in the order of the cases:");
        for (name, broker) in [
            ("pinhook", Some(&self.pinhook)),
            ("mosquitto", self.mosquitto.as_ref()),
        ] {
            match broker {
                Some(broker) => println!("{name} {}.", broker.generator()),
                None => println!("{name} was not measured: there is none on this machine."),
            }
        }
    }

    fn table(&self) -> String {
        let mut table = Table::default();
        table.text += "| | pinhook | mosquitto | | budget | |\n|---|---|---|---|---|---|\n";
        for (index, case) in CASES.into_iter().enumerate() {
            let own = &self.pinhook.floods[index];
            let its = self.mosquitto.as_ref().map(|it| &it.floods[index]);
            let ratio = |figure: fn(&Flood) -> f64| {
                let ratios = its?.iter().zip(own);
                Some(median(ratios.map(|(its, own)| figure(own) / figure(its))))
            };
            let middle =
                |floods: &[Flood], figure: fn(&Flood) -> f64| median(floods.iter().map(figure));
            let per_second = |flood: &Flood| flood.per_second;
            let more = ratio(per_second);
            table.row(
                &format!("messages/s, {case}"),
                round(middle(own, per_second)),
                its.map(|its| round(middle(its, per_second))),
                more.map(times),
                "> mosquitto",
                more.map(|ratio| Budget::AtLeast(1.0).of(ratio)),
            );
            let cpu = |flood: &Flood| flood.cpu;
            table.row(
                "CPU of the broker for one, µs",
                format!("{:.2}", middle(own, cpu)),
                its.map(|its| format!("{:.2}", middle(its, cpu))),
                ratio(cpu).map(times),
                "",
                Some(String::new()),
            );
        }
        let none_lost = Budget::AtMost(0.0).of(self.pinhook.lost());
        table.row(
            "lost of all that were sent",
            self.pinhook.loss(),
            self.mosquitto.as_ref().map(Broker::loss),
            None,
            "none",
            Some(none_lost),
        );
        self.idle_rows(&mut table);
        table.text
    }

    fn idle_rows(&self, table: &mut Table) {
        let its = self.mosquitto.as_ref();
        let most = COUNTS.len();
        let steps = |broker: &Broker, figures: fn(&Idle) -> [f64; 1 + COUNTS.len()]| {
            let step = |step: usize| broker.middle(|idle| figures(idle)[step]);
            let steps: Vec<_> = (0..=most).map(|at| format!("{:.1}", step(at))).collect();
            steps.join(" / ")
        };
        let counts: Vec<_> = COUNTS.iter().map(|count| round(*count as f64)).collect();
        let resident = |idle: &Idle| idle.resident;
        table.row(
            &format!(
                "memory with no / {} idle connections, MiB",
                counts.join(" / ")
            ),
            steps(&self.pinhook, resident),
            its.map(|its| steps(its, resident)),
            None,
            "≤ 60",
            Some(Budget::AtMost(60.0).of(self.pinhook.middle(|idle| idle.resident[most]))),
        );
        let proportional = |idle: &Idle| idle.proportional;
        table.row(
            "the same, shared pages in part",
            steps(&self.pinhook, proportional),
            its.map(|its| steps(its, proportional)),
            None,
            "",
            Some(String::new()),
        );
        let each = self.pinhook.middle(Idle::each);
        let its = its.map(|its| its.middle(Idle::each));
        table.row(
            "memory for an idle connection, KiB",
            format!("{each:.2}"),
            its.map(|its| format!("{its:.2}")),
            its.map(|its| times(each / its)),
            "≤ 8",
            Some(Budget::AtMost(8.0).of(each)),
        );
    }
}

impl Broker {
    fn lost(&self) -> f64 {
        self.floods.iter().flatten().map(|flood| flood.lost).sum()
    }

    fn loss(&self) -> String {
        let sent = self.floods.iter().flatten().map(|flood| flood.sent).sum();
        format!("{} of {}", round(self.lost()), round(sent))
    }

    fn generator(&self) -> String {
        let used = |floods: &Vec<Flood>| median(floods.iter().map(|flood| flood.generator));
        let cases = self.floods.iter();
        let cases: Vec<_> = cases
            .map(|it| format!("{:.0} %", used(it) * 100.0))
            .collect();
        cases.join(", ")
    }

    fn middle(&self, figure: impl Fn(&Idle) -> f64) -> f64 {
        median(self.idle.iter().map(figure))
    }
}

impl Table {
    fn row(
        &mut self,
        what: &str,
        pinhook: String,
        mosquitto: Option<String>,
        ratio: Option<String>,
        budget: &str,
        verdict: Option<String>,
    ) {
        let cells = [
            what,
            &pinhook,
            mosquitto.as_deref().unwrap_or(""),
            ratio.as_deref().unwrap_or(""),
            budget,
            verdict.as_deref().unwrap_or("not measured: no mosquitto"),
        ];
        self.text += &format!("| {} |\n", cells.join(" | "));
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.publishers {
            1 => write!(f, "QoS {}, one publisher", self.qos),
            many => write!(f, "QoS {}, {many} publishers", self.qos),
        }
    }
}

fn times(ratio: f64) -> String {
    format!("{ratio:.2} ×")
}
