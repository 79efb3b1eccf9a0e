//! The broker alone beside mosquitto: messages from publishers to a subscriber, and connections that are idle.
//!
//! Both check one user's password at each login; pinhook moreover checks each message against the user's list, which
//! mosquitto is spared. Both keep nothing on disk. What differs from mosquitto's defaults is to its advantage.

use std::net::SocketAddr;
use std::path::Path;

use crate::Plan;
use crate::daemon;
use crate::failure::Failure;
use crate::flood::{self, Case, Flood};
use crate::idle::{self, Client, Idle};
use crate::mosquitto;
use crate::process::{Core, Process, with_many_files};

/// How the messages of a flood are published.
pub const CASES: [Case; 4] = [
    Case {
        qos: 0,
        publishers: 1,
    },
    Case {
        qos: 0,
        publishers: 50,
    },
    Case {
        qos: 1,
        publishers: 1,
    },
    Case {
        qos: 1,
        publishers: 50,
    },
];

/// What one broker did.
#[derive(Default)]
pub struct Broker {
    /// For each of `CASES`, a value for each round.
    pub floods: [Vec<Flood>; CASES.len()],
    /// One for each round.
    pub idle: Vec<Idle>,
}

/// What was found about both.
#[derive(Default)]
pub struct Figures {
    pub pinhook: Broker,
    /// Empty where there is no mosquitto.
    pub mosquitto: Option<Broker>,
}

impl Figures {
    /// The first is for pinhook.
    fn brokers(&mut self) -> Vec<&mut Broker> {
        [Some(&mut self.pinhook), self.mosquitto.as_mut()]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// One round. Brokers take turns in each case, and in who is first.
pub async fn measure(plan: &Plan, round: u32, figures: &mut Figures) -> Result<(), Failure> {
    figures.mosquitto = match &plan.mosquitto {
        Some(_) => Some(figures.mosquitto.take().unwrap_or_default()),
        None => None,
    };
    let folders = [daemon::folder()?, daemon::folder()?];
    let command = |program: &Path| Core::First.command(program);
    let mut started = vec![start_pinhook(plan, command, folders[0].path()).await?];
    if let Some(binary) = &plan.mosquitto {
        started.push(start_mosquitto(binary, command, folders[1].path()).await?);
    }
    for (index, case) in CASES.into_iter().enumerate() {
        let mut turns: Vec<_> = figures.brokers().into_iter().zip(&mut started).collect();
        if round.is_multiple_of(2) {
            turns.reverse();
        }
        for (broker, (process, address)) in turns {
            match flood::measure(process, *address, case, plan.window).await {
                Ok(flood) => broker.floods[index].push(flood),
                Err(cause) => return Err(process.explain(cause).await),
            }
        }
    }
    for (process, _) in started {
        process.end().await;
    }

    let pinhook = start_pinhook(plan, with_many_files, folders[0].path()).await?;
    figures.pinhook.idle.push(measure_idle(pinhook).await?);
    if let (Some(binary), Some(broker)) = (&plan.mosquitto, &mut figures.mosquitto) {
        let started = start_mosquitto(binary, with_many_files, folders[1].path()).await?;
        broker.idle.push(measure_idle(started).await?);
    }
    Ok(())
}

async fn measure_idle((mut process, address): (Process, SocketAddr)) -> Result<Idle, Failure> {
    match idle::measure(&process, address, Client::User).await {
        Ok(idle) => {
            process.end().await;
            Ok(idle)
        }
        Err(cause) => Err(process.explain(cause).await),
    }
}

async fn start_pinhook(
    plan: &Plan,
    command: impl Fn(&Path) -> tokio::process::Command,
    folder: &Path,
) -> Result<(Process, SocketAddr), Failure> {
    daemon::start_as(command(&plan.pinhook), PINHOOK, folder).await
}

async fn start_mosquitto(
    binary: &Path,
    command: impl Fn(&Path) -> tokio::process::Command,
    folder: &Path,
) -> Result<(Process, SocketAddr), Failure> {
    let passwords = folder.join("passwords");
    let written = std::fs::write(&passwords, MOSQUITTO_PASSWORDS);
    written.map_err(Failure::io("write mosquitto's passwords"))?;
    let settings = format!("password_file {}\n{MOSQUITTO}", passwords.display());
    mosquitto::start(|| command(binary), &settings, folder).await
}

/// The limits that a flood, and thousands from one machine, would reach are out of the way; those of a client's queue
/// are as they come. The hash is what `pinhook passwd` says of `plain::PASSWORD`.
const PINHOOK: &str = "\
listen:
  mqtt: 127.0.0.1:0
limits:
  connections: 100000
  connections_per_address: 100000
  writes_per_second: 0
users:
  bench:
    password: '$argon2id$v=19$m=6144,t=4,p=1$Lho+//BAqvuC+6TmouZZqw$AMDCCdjBPHe7+TM0LIREVRqDXT2dY8qvuU8QuRhs/kY'
    publish: ['#']
    subscribe: ['#']
";

/// As many messages of QoS 1 on their way to a client as pinhook has; and a queue without a limit, since with one 2.0.11
/// at times drops all messages of QoS 0 though few of them wait. Nagle's algorithm is on, as it comes, though pinhook does
/// without: mosquitto writes every packet by itself, and passes on up to a half more where the kernel joins them. Where
/// root starts it, it would become a user who may not read the passwords.
const MOSQUITTO: &str = "\
user root
allow_anonymous false
persistence false
set_tcp_nodelay false
max_connections -1
max_inflight_messages 1000
max_queued_messages 0
";

/// What `mosquitto_passwd` says of `plain::USER` and `plain::PASSWORD`.
const MOSQUITTO_PASSWORDS: &str = "bench:$7$101$QELTX2RgrIpXTsvR$\
+n6DRRxiQZEpKhLbXw9sbjJ2fLFWAjMKQ4enozfKWTESBzoEzAAkxNIYmwCe2fopAzsAqSYVkVCSfv1Mr78jUw==\n";
