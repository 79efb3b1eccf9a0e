//! A mounted client's topics and the full names behind them (product.md §3.1).

use std::borrow::Cow;

use crate::access::BaseTopic;
use crate::model::DeviceName;

/// Where a client's topics live: under its device's prefix, or at the root.
#[derive(Debug, Clone, Default)]
pub struct Mount(Option<String>);

/// What a shared subscription's filter begins with.
const SHARE: &str = "$share/";

impl Mount {
    /// The mount of a device's login, where pinhook's topics begin with `base`.
    pub fn of(base: &BaseTopic, device: &DeviceName) -> Mount {
        Mount(Some(format!("{base}/{device}/")))
    }

    /// The full name of a topic as the client says it.
    pub fn full<'a>(&self, topic: &'a str) -> Cow<'a, str> {
        match &self.0 {
            None => Cow::Borrowed(topic),
            Some(prefix) => Cow::Owned(format!("{prefix}{topic}")),
        }
    }

    /// For a mounted client that says a full name, or a slash too many: a hint.
    pub fn hint(&self, topic: &str) -> Option<String> {
        let prefix = self.0.as_ref()?;
        let local = topic
            .strip_prefix(prefix.as_str())
            .or(topic.strip_prefix('/'))?;
        Some(format!(
            "{topic} is an ordinary topic of yours; as `device` write on {local}"
        ))
    }

    /// The full form of a filter; of a shared one the filter behind the group.
    pub fn full_filter<'a>(&self, filter: &'a str) -> Cow<'a, str> {
        let Some(prefix) = &self.0 else {
            return Cow::Borrowed(filter);
        };
        match filter
            .strip_prefix(SHARE)
            .and_then(|shared| shared.split_once('/'))
        {
            Some((group, behind)) => Cow::Owned(format!("{SHARE}{group}/{prefix}{behind}")),
            None => Cow::Owned(format!("{prefix}{filter}")),
        }
    }

    /// A full name as the client knows it; `None` if it lies outside the mount.
    pub fn local<'a>(&self, name: &'a str) -> Option<&'a str> {
        match &self.0 {
            None => Some(name),
            Some(prefix) => name.strip_prefix(prefix.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_client_lives_under_its_prefix() {
        let mount = Mount::of(&BaseTopic::default(), &"porch".parse().unwrap());

        assert_eq!(mount.full("ds/V5"), "pinhook/porch/ds/V5");
        assert_eq!(mount.full("../shed/ds/V5"), "pinhook/porch/../shed/ds/V5");
        assert_eq!(mount.full_filter("#"), "pinhook/porch/#");
        assert_eq!(
            mount.full_filter("$share/g/ds/+"),
            "$share/g/pinhook/porch/ds/+"
        );
        assert_eq!(
            mount.local("pinhook/porch/downlink/diag"),
            Some("downlink/diag")
        );
        assert_eq!(mount.local("pinhook/porch2/downlink/diag"), None);
        assert_eq!(mount.local("pinhook/porch"), None);
        assert_eq!(mount.hint("ds/V0"), None);
        for topic in ["pinhook/porch/ds/V0", "/ds/V0"] {
            assert!(mount.hint(topic).unwrap().ends_with("write on ds/V0"));
        }
    }

    #[test]
    fn an_unmounted_client_says_full_names() {
        let mount = Mount::default();

        assert_eq!(mount.full("a/b"), "a/b");
        assert_eq!(mount.full_filter("$share/g/a"), "$share/g/a");
        assert_eq!(mount.local("a/b"), Some("a/b"));
    }
}
