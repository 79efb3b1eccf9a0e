//! What the client subscribes to, and no longer.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::counters::SubscribeRefused;
use super::super::packet::{Outgoing, Qos, Reason, RetainHandling, Subscribe, Unsubscribe};
use super::{Connection, Ending, broker_qos};
use crate::broker::topic::{FilterError, split_share, validate_filter};
use crate::broker::{self, QoS, SubscribeError, Subscription};

/// Filters of one SUBSCRIBE that are looked at, if a session may not have more:
/// a packet of 64 KiB has room for 16,000, and each costs a check.
const MAX_FILTERS: usize = 1000;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) fn subscribe(&mut self, subscribe: &Subscribe, now: Instant) -> Result<(), Ending> {
        let base = self.shared.intake.topics.base();
        let refuse = |filter: &str, refused: SubscribeRefused, why: &dyn fmt::Display| {
            let intake = &self.shared.intake;
            intake.refuse_filter(&self.principal, filter, refused, why, now);
        };
        let mut reasons = Vec::with_capacity(subscribe.filters.len());
        for wish in &subscribe.filters {
            if reasons.len() >= self.shared.settings.subscriptions.max(MAX_FILTERS) {
                let why = format_args!("more than {MAX_FILTERS} filters in one packet");
                refuse(&wish.filter, SubscribeRefused::TooMany, &why);
                reasons.push(Reason::QUOTA_EXCEEDED);
                continue;
            }
            // Before it is mounted: after, a missing filter is hard to tell.
            let share = match split_share(&wish.filter) {
                Ok(share) => share,
                Err(error) => {
                    refuse(&wish.filter, SubscribeRefused::Invalid, &error);
                    reasons.push(Reason::TOPIC_FILTER_INVALID);
                    continue;
                }
            };
            if share.is_some() && wish.no_local {
                let why = SubscribeError::SharedNoLocal.to_string();
                return Err(Ending::Fault(Reason::PROTOCOL_ERROR, why));
            }
            let filter = self.mount.full_filter(&wish.filter);
            let limit = self.shared.settings.topic;
            if let Err(error) =
                validate_filter(&wish.filter, limit).and(validate_filter(&filter, limit))
            {
                let key = match error {
                    FilterError::TooLong { .. } => " (limits.topic)",
                    _ => "",
                };
                let why = format_args!("{error}{key}");
                refuse(&wish.filter, refused_filter(&error), &why);
                reasons.push(Reason::TOPIC_FILTER_INVALID);
                continue;
            }
            let except = match self.principal.may_subscribe(base, &filter) {
                Ok(except) => except,
                Err(refusal) => {
                    refuse(&wish.filter, SubscribeRefused::NotAllowed, &refusal);
                    reasons.push(Reason::NOT_AUTHORIZED);
                    continue;
                }
            };
            self.shared.before_subscribe(&filter, now);
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
                except,
            };
            let broker = &self.shared.intake.broker;
            let granted = broker.subscribe(&self.session, &[subscription], now);
            for error in granted.iter().filter_map(|granted| granted.err()) {
                match error {
                    SubscribeError::TooMany { .. } => {
                        let why = format_args!("{error} (limits.subscriptions)");
                        refuse(&wish.filter, SubscribeRefused::TooMany, &why);
                    }
                    SubscribeError::TooManyLevels { .. } => {
                        refuse(&wish.filter, SubscribeRefused::TooMany, &error);
                    }
                    SubscribeError::Filter(error) => {
                        refuse(&wish.filter, refused_filter(&error), &error);
                    }
                    SubscribeError::SharedNoLocal | SubscribeError::Closed => {}
                }
            }
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

fn refused_filter(error: &FilterError) -> SubscribeRefused {
    match error {
        FilterError::TooLong { .. } | FilterError::TooManyLevels(_) => SubscribeRefused::TooLong,
        _ => SubscribeRefused::Invalid,
    }
}

fn granted_reason(granted: Result<QoS, SubscribeError>) -> Reason {
    match granted {
        Ok(QoS::AtMostOnce) => Reason::granted(Qos::AtMostOnce),
        Ok(QoS::AtLeastOnce) => Reason::granted(Qos::AtLeastOnce),
        Ok(QoS::ExactlyOnce) => Reason::granted(Qos::ExactlyOnce),
        Err(SubscribeError::Filter(_)) => Reason::TOPIC_FILTER_INVALID,
        Err(SubscribeError::SharedNoLocal) => Reason::PROTOCOL_ERROR,
        Err(SubscribeError::TooMany { .. } | SubscribeError::TooManyLevels { .. }) => {
            Reason::QUOTA_EXCEEDED
        }
        Err(SubscribeError::Closed) => Reason::UNSPECIFIED_ERROR,
    }
}
