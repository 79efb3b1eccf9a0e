//! The ring with sketches in place of MQTT's devices, and what sketches take that are idle.

use crate::Plan;
use crate::daemon::{self, Door, Shape};
use crate::failure::Failure;
use crate::idle::{self, COUNTS, Client, Idle};
use crate::measure::{self, Crowd, DEVICES, median};
use crate::process::with_many_files;
use crate::report::{Budget, Others, Subject, Table, pair, round};
use crate::service::Service;
use crate::sketch::QUOTA;

/// How many sketches take turns in the closed loop: fifty alone would run into the quota of frames, which cannot be
/// turned off. So many may cause 60,000 webhooks a second, which is more than the bare client does.
const SKETCHES: usize = 12 * DEVICES;

/// What a run found with devices over Blynk, but for the others.
#[derive(Default)]
pub struct Figures {
    pinhook: Subject,
    /// Milliseconds, one for each start.
    first_webhook: Vec<f64>,
    first_webhook_of_1000: Vec<f64>,
    /// Those who are idle, one for each round; and as many devices over MQTT at the same daemon.
    idle_sketches: Vec<Idle>,
    idle_devices: Vec<Idle>,
}

/// One round of the loops.
pub async fn measure(plan: &Plan, service: &Service, figures: &mut Figures) -> Result<(), Failure> {
    let folder = daemon::folder()?;
    let text = daemon::config(Door::Http, Shape::Shared(SKETCHES), service);
    let (process, address) = daemon::start(&plan.pinhook, &text, folder.path()).await?;
    let crowd = Crowd {
        address,
        login: daemon::sketch,
        count: SKETCHES,
    };
    measure::loops(plan, service, vec![process], crowd, &mut figures.pinhook).await
}

/// One round of idle connections, on a daemon that knows a device for each.
pub async fn measure_idle(
    plan: &Plan,
    service: &Service,
    figures: &mut Figures,
) -> Result<(), Failure> {
    for (door, client, idle) in [
        (Door::Http, Client::Sketch, &mut figures.idle_sketches),
        (Door::Mqtt, Client::Device, &mut figures.idle_devices),
    ] {
        let folder = daemon::folder()?;
        let text = daemon::config(door, Shape::Shared(COUNTS[COUNTS.len() - 1]), service);
        let command = with_many_files(&plan.pinhook);
        let (mut process, address) = daemon::start_as(command, &text, folder.path()).await?;
        match idle::measure(&process, address, client).await {
            Ok(found) => idle.push(found),
            Err(cause) => return Err(process.explain(cause).await),
        }
        process.end().await;
    }
    Ok(())
}

/// The time to the first webhook, once with one and once with many.
pub async fn measure_starts(
    plan: &Plan,
    service: &Service,
    figures: &mut Figures,
) -> Result<(), Failure> {
    for (shape, starts) in [
        (Shape::Shared(1), &mut figures.first_webhook),
        (Shape::Each(1000), &mut figures.first_webhook_of_1000),
    ] {
        let start = daemon::start_to_first_webhook(&plan.pinhook, Door::Http, shape, service);
        starts.push(start.await?);
    }
    Ok(())
}

impl Figures {
    /// Prints the table, with a verdict for every budget, and how it came about.
    pub fn print(&mut self, plan: &Plan, others: &mut Others) {
        println!(
            "Over Blynk: {DEVICES} writes at a time by {SKETCHES} sketches that take turns, since a sketch may send \
             {QUOTA} frames a second; the open loop with {DEVICES} of them. Median of {} rounds of {} s. Each idle \
             sketch has logged in and said what it is; beside them devices over MQTT that have logged in, subscribed \
             to one topic and sent a ping, at a daemon of their own. Both daemons know {} devices.",
            plan.rounds,
            plan.window.as_secs_f64(),
            round(COUNTS[COUNTS.len() - 1] as f64),
        );
        println!();
        print!("{}", self.table(others));
        println!();
        println!(
            "In the closed loop over Blynk the generator used {} of one core.",
            self.pinhook.generator()
        );
    }

    fn table(&mut self, others: &mut Others) -> String {
        let mut table = Table::new("over Blynk");
        let what = format!("webhooks/s, {SKETCHES} sketches, {DEVICES} at a time, closed loop");
        table.loops(&what, &mut self.pinhook, others);
        table.peak(&self.pinhook, others);
        table.starts(&self.first_webhook, &self.first_webhook_of_1000);
        self.idle_rows(&mut table);
        table.into_text()
    }

    fn idle_rows(&self, table: &mut Table) {
        let middle = |idle: &[Idle], figure: &dyn Fn(&Idle) -> f64| median(idle.iter().map(figure));
        let most = COUNTS.len();
        let counts = COUNTS.map(|count| round(count as f64)).join(" / ");
        for (who, idle) in [
            ("sketches", &self.idle_sketches),
            ("devices over MQTT", &self.idle_devices),
        ] {
            let steps: Vec<_> = (0..=most)
                .map(|step| format!("{:.1}", middle(idle, &|idle| idle.resident[step])))
                .collect();
            table.row(
                &format!("memory with no / {counts} idle {who}, MiB"),
                steps.join(" / "),
                None,
                None,
                "≤ 60",
                Some(Budget::AtMost(60.0).of(middle(idle, &|idle| idle.resident[most]))),
            );
        }
        let sketch = middle(&self.idle_sketches, &Idle::each_further);
        let device = middle(&self.idle_devices, &Idle::each_further);
        table.row(
            &format!(
                "memory for a sketch / device over MQTT beyond {} idle ones, KiB",
                round(COUNTS[0] as f64)
            ),
            pair(format!("{sketch:.2}"), format!("{device:.2}")),
            None,
            None,
            "≤ 6 / ≤ 8",
            Some(pair(
                Budget::AtMost(6.0).of(sketch),
                Budget::AtMost(8.0).of(device),
            )),
        );
    }
}
