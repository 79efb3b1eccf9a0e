//! What the client subscribes to, and no longer.

use std::num::NonZeroU32;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::packet::{Outgoing, Qos, Reason, RetainHandling, Subscribe, Unsubscribe};
use super::{Connection, Ending, broker_qos};
use crate::broker::topic::{split_share, validate_filter};
use crate::broker::{self, QoS, SubscribeError, Subscription};

/// Filters of one SUBSCRIBE that are looked at, if a session may not have more:
/// a packet of 64 KiB has room for 16,000, and each costs a check.
const MAX_FILTERS: usize = 1000;

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe) -> Result<(), Ending> {
        let now = Instant::now();
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for wish in &subscribe.filters {
            if reasons.len() >= self.shared.settings.subscriptions.max(MAX_FILTERS) {
                reasons.push(Reason::QUOTA_EXCEEDED);
                continue;
            }
            // Before it is mounted: after, a missing filter is hard to tell.
            let Ok(share) = split_share(&wish.filter) else {
                reasons.push(Reason::TOPIC_FILTER_INVALID);
                continue;
            };
            if share.is_some() && wish.no_local {
                let why = SubscribeError::SharedNoLocal.to_string();
                return Err(Ending::Fault(Reason::PROTOCOL_ERROR, why));
            }
            let filter = self.mount.full_filter(&wish.filter);
            let limit = self.shared.settings.topic;
            if validate_filter(&wish.filter, limit)
                .and(validate_filter(&filter, limit))
                .is_err()
            {
                reasons.push(Reason::TOPIC_FILTER_INVALID);
                continue;
            }
            if let Err(refusal) = self.principal.may_subscribe(&filter) {
                let line = format!("subscribe to {} refused: {refusal}", wish.filter);
                self.shared.intake.tell(&self.principal, &line, now);
                reasons.push(Reason::NOT_AUTHORIZED);
                continue;
            }
            let subscription = Subscription {
                filter: filter.into(),
                qos: broker_qos(wish.qos),
                no_local: wish.no_local,
                retain_as_published: wish.retain_as_published,
                retain_handling: match wish.retain_handling {
                    RetainHandling::EverySubscribe => broker::RetainHandling::Always,
                    RetainHandling::NewSubscription => broker::RetainHandling::IfNew,
                    RetainHandling::Never => broker::RetainHandling::Never,
                },
                id: subscribe.id.map(NonZeroU32::get),
            };
            let broker = &self.shared.intake.broker;
            let granted = broker.subscribe(&self.session, &[subscription], now);
            reasons.extend(granted.into_iter().map(granted_reason));
        }
        self.wire.queue(&Outgoing::SubAck {
            packet_id: subscribe.packet_id,
            reasons: &reasons,
        });
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) {
        let filters = unsubscribe.filters.iter();
        let filters: Vec<_> = filters
            .map(|filter| self.mount.full_filter(filter))
            .collect();
        let found = self
            .shared
            .intake
            .broker
            .unsubscribe(&self.session, &filters);
        let reasons: Vec<_> = found
            .into_iter()
            .map(|was_there| match was_there {
                true => Reason::SUCCESS,
                false => Reason::NO_SUBSCRIPTION_EXISTED,
            })
            .collect();
        self.wire.queue(&Outgoing::UnsubAck {
            packet_id: unsubscribe.packet_id,
            reasons: &reasons,
        });
    }
}

fn granted_reason(granted: Result<QoS, SubscribeError>) -> Reason {
    match granted {
        Ok(QoS::AtMostOnce) => Reason::granted(Qos::AtMostOnce),
        Ok(QoS::AtLeastOnce) => Reason::granted(Qos::AtLeastOnce),
        Ok(QoS::ExactlyOnce) => Reason::granted(Qos::ExactlyOnce),
        Err(SubscribeError::Filter(_)) => Reason::TOPIC_FILTER_INVALID,
        Err(SubscribeError::SharedNoLocal) => Reason::PROTOCOL_ERROR,
        Err(SubscribeError::TooMany { .. }) => Reason::QUOTA_EXCEEDED,
        Err(SubscribeError::Closed) => Reason::UNSPECIFIED_ERROR,
    }
}
