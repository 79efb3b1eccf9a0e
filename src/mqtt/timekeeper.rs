//! What falls due for clients that are away: their sessions end, their delayed wills are published.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::bell::Bell;
use super::connection::{publish_will, until};
use crate::broker::AWAY_PER_OWNER;

/// Keeps the broker's time until `stop`.
pub(super) async fn run(shared: &Shared, stop: CancellationToken) {
    let bell = Bell::new();
    loop {
        let tick = shared.intake.broker.tick(Instant::now(), &bell.waker());
        for (client, will) in tick.wills {
            // Who may not log in any more leaves no will.
            if let Some(principal) = shared.access.principal(&client.login) {
                publish_will(shared, &principal, &client, will);
            }
        }
        for client in tick.surplus {
            let line = format_args!(
                "the session of `{}` has ended, since it was away longest: a device may have \
                 {AWAY_PER_OWNER} sessions that wait, all together `limits.connections`",
                client.client_id
            );
            shared.intake.gossip.warn(&client.login, line);
        }
        tokio::select! {
            () = until(tick.next) => {}
            () = bell.rung() => {}
            () = stop.cancelled() => return,
        }
    }
}
