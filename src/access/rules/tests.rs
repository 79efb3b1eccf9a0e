use std::sync::Arc;

use super::super::{DeviceLogin, User, hash};
use super::*;
use crate::model::device::tests as devices;

fn base() -> BaseTopic {
    BaseTopic::default()
}

/// A list as the configuration has it.
fn filters(list: &[&str]) -> Filters {
    let excluded = list.iter().filter_map(|text| text.strip_prefix('!'));
    let excluded = excluded.map(|text| text.parse().unwrap()).collect();
    let allowed = list.iter().filter(|text| !text.starts_with('!'));
    Filters::new(
        allowed.map(|text| text.parse().unwrap()).collect(),
        excluded,
    )
}

fn device(is_mounted: bool) -> Principal {
    let device = devices::device("porch", "porch-token-12345");
    Principal::Device {
        login: Arc::new(DeviceLogin {
            device: Arc::new(device),
            publish: filters(&["house/porch/#"]),
            subscribe: filters(&["house/#"]),
        }),
        is_mounted,
    }
}

fn user(admin: bool, list: &[&str]) -> Principal {
    Principal::User(Arc::new(User {
        name: "anna".parse().unwrap(),
        password: hash("x"),
        admin,
        publish: filters(list),
        subscribe: filters(list),
    }))
}

/// Topics, and who may publish there: the device, a user with `#` who is an
/// admin, and a user with `pinhook/+/set/#` and `house/#` who is none.
#[test]
fn who_may_publish() {
    let porch = device(false);
    let admin = user(true, &["#"]);
    let anna = user(false, &["pinhook/+/set/#", "house/#"]);
    for (name, device, by_admin, by_anna) in [
        ("pinhook/porch/ds/V0", true, true, false),
        ("pinhook/porch/batch_ds", true, true, false),
        ("pinhook/porch/get/ds", true, true, false),
        ("pinhook/porch/info/mcu", true, true, false),
        ("pinhook/porch/event/door", true, true, false),
        ("pinhook/porch/ds/V0/erase", true, true, false),
        ("pinhook/porch/ds/V0/prop/color", true, true, false),
        ("pinhook/porch/get/utc/all/json", true, true, false),
        ("pinhook/porch/anything/else", true, true, false),
        ("pinhook/porch", true, true, false),
        ("pinhook/porch/set/V0", false, true, true),
        ("pinhook/porch/state/V0", false, false, false),
        ("pinhook/porch/status", false, false, false),
        ("pinhook/porch/downlink/ds/V0", false, false, false),
        ("pinhook/porch/downlink/diag", false, false, false),
        ("pinhook/porch/webhook/sunrise", false, false, false),
        ("pinhook/porch/prop/V0/color", false, false, false),
        ("pinhook/bridge/state", false, false, false),
        ("pinhook/bridge/webhooks/sunrise", false, false, false),
        ("pinhook/bridge/response/resume", false, false, false),
        ("pinhook/bridge/request/resume", false, true, false),
        ("$SYS/broker/version", false, false, false),
        // Another device's topics, and what only looks like its own.
        ("pinhook/shed/ds/V0", false, true, false),
        ("pinhook/shed/set/V0", false, true, true),
        ("pinhook/porch2/ds/V0", false, true, false),
        ("pinhook/porc/ds/V0", false, true, false),
        ("pinhook//porch/ds/V0", false, true, false),
        ("Pinhook/porch/ds/V0", false, true, false),
        ("pinhook", false, true, false),
        // Outside pinhook's topics: by list.
        ("house/porch/lamp", true, true, true),
        ("house/shed/lamp", false, true, true),
        ("garden", false, true, false),
    ] {
        assert_eq!(
            porch.may_publish(&base(), name).is_ok(),
            device,
            "device: {name}"
        );
        assert_eq!(
            admin.may_publish(&base(), name).is_ok(),
            by_admin,
            "admin: {name}"
        );
        assert_eq!(
            anna.may_publish(&base(), name).is_ok(),
            by_anna,
            "anna: {name}"
        );
    }
}

#[test]
fn who_may_subscribe() {
    let porch = device(false);
    let admin = user(true, &["#"]);
    let anna = user(false, &["pinhook/+/state/#", "house/+"]);
    for (filter, device, by_admin, by_anna) in [
        ("pinhook/porch/#", true, true, false),
        ("pinhook/porch", true, true, false),
        ("pinhook/porch/downlink/+/V0", true, true, false),
        ("pinhook/porch/state/V0", true, true, true),
        ("pinhook/+/state/V0", false, true, true),
        ("pinhook/shed/state/V0", false, true, true),
        ("pinhook/shed/#", false, true, false),
        ("pinhook/+/downlink/ds/V0", false, true, false),
        ("pinhook/#", false, true, false),
        ("#", false, true, false),
        ("+/porch/#", false, true, false),
        ("pinhook/porch2/#", false, true, false),
        ("pinhook/por+/#", false, false, false),
        ("$share/g/pinhook/porch/#", true, true, false),
        ("$share/g/pinhook/shed/#", false, true, false),
        ("$share/g/#", false, true, false),
        ("$share/g", false, false, false),
        ("$SYS/broker/version", false, true, false),
        ("$SYS/#", false, true, false),
        ("$share/g/$SYS/#", false, true, false),
        ("$other/#", false, false, false),
        ("house/+", true, true, true),
        ("house/#", true, true, false),
        ("house/porch/lamp", true, true, false),
    ] {
        if topic::validate_filter(filter, 512).is_err() {
            continue;
        }
        assert_eq!(
            porch.may_subscribe(&base(), filter).is_ok(),
            device,
            "device: {filter}"
        );
        assert_eq!(
            admin.may_subscribe(&base(), filter).is_ok(),
            by_admin,
            "admin: {filter}"
        );
        assert_eq!(
            anna.may_subscribe(&base(), filter).is_ok(),
            by_anna,
            "anna: {filter}"
        );
    }
}

/// Topics, and whether users with these lists may publish there and subscribe to just that.
#[test]
fn an_exclusion_takes_back_what_the_list_allows() {
    let no_secrets = user(false, &["#", "!secret/#", "!+/key", "!test/nosubscribe"]);
    let first = user(false, &["!secret/#", "!test/nosubscribe", "!+/key", "#"]);
    let no_set = user(true, &["!pinhook/shed/set/#", "#", "!pinhook/+/state/#"]);
    let nothing = user(false, &["!secret/#"]);
    for (topic, by_no_secrets, by_no_set) in [
        ("a", true, true),
        ("secret", false, true),
        ("secret/a/b", false, true),
        ("secretary", true, true),
        ("house/key", false, true),
        ("house/key/ring", true, true),
        ("test/nosubscribe", false, true),
        ("test/nosubscribe/a", true, true),
        ("/test/nosubscribe", true, true),
        ("pinhook/shed/set/V0", true, false),
        ("pinhook/porch/set/V0", true, true),
    ] {
        for (principal, expected) in [
            (&no_secrets, by_no_secrets),
            (&first, by_no_secrets),
            (&no_set, by_no_set),
        ] {
            let refusal = if expected {
                Ok(())
            } else {
                Err(Refusal::Excluded)
            };
            assert_eq!(principal.may_publish(&base(), topic), refusal, "{topic}");
            let granted = principal.may_subscribe(&base(), topic);
            assert_eq!(granted.map(drop), refusal, "{topic}");
        }
        assert_eq!(nothing.may_publish(&base(), topic), Err(Refusal::NotListed));
        let granted = nothing.may_subscribe(&base(), topic);
        assert_eq!(granted, Err(Refusal::NotListed));
    }
}

#[test]
fn a_filter_is_refused_if_nothing_of_it_is_left_and_else_granted_without_the_rest() {
    let list = [
        "#",
        "!secret/#",
        "!+/key",
        "!pinhook/+/state/#",
        "!$SYS/broker/clients/#",
    ];
    let anna = user(true, &list);
    for (filter, hidden) in [
        (
            "#",
            Some(&["secret", "secret/a", "house/key", "pinhook/porch/state/V0"][..]),
        ),
        ("+/+", Some(&["house/key", "secret/a"])),
        ("+", Some(&["secret"])),
        ("pinhook/#", Some(&["pinhook/porch/state/V0"])),
        ("$share/g/#", Some(&["secret/a"])),
        ("$SYS/#", Some(&["$SYS/broker/clients/connected"])),
        ("secret/#", None),
        ("secret/+/b", None),
        ("$share/g/secret/#", None),
        ("house/key", None),
        ("pinhook/porch/state/V0", None),
        ("pinhook/+/state/+", None),
        ("$SYS/broker/clients/+", None),
    ] {
        match (anna.may_subscribe(&base(), filter), hidden) {
            (Ok(Some(except)), Some(hidden)) => {
                assert!(hidden.iter().all(|topic| except.hide(topic)), "{filter}");
                assert!(!except.hide("house/lamp"), "{filter}");
            }
            (Err(refusal), None) => assert_eq!(refusal, Refusal::Excluded, "{filter}"),
            (granted, _) => panic!("{filter}: {granted:?}"),
        }
    }
    // Who has no exclusions is not asked about them.
    assert_eq!(user(false, &["#"]).may_subscribe(&base(), "#"), Ok(None));
}

#[test]
fn a_list_with_exclusions_that_leave_nothing_is_told_apart() {
    for (list, expected) in [
        (&[][..], false),
        (&["#"], false),
        (&["!a"], true),
        (&["a", "!a"], true),
        (&["a/+", "b", "!#"], true),
        (&["a/+", "b", "!a/#"], false),
        (&["#", "!a"], false),
        (&["$SYS/#", "!#"], false),
    ] {
        assert_eq!(filters(list).takes_back_all(), expected, "{list:?}");
    }
}

#[test]
fn an_exclusion_of_a_device_takes_back_from_its_list_only() {
    let device = devices::device("porch", "porch-token-12345");
    let lists = filters(&["house/#", "!house/secret/#", "!+/porch/#"]);
    let porch = |is_mounted| Principal::Device {
        login: Arc::new(DeviceLogin {
            device: Arc::new(device.clone()),
            publish: lists.clone(),
            subscribe: lists.clone(),
        }),
        is_mounted,
    };

    for is_mounted in [true, false] {
        let porch = porch(is_mounted);
        assert_eq!(porch.may_publish(&base(), "pinhook/porch/ds/V0"), Ok(()));
        let own = porch.may_subscribe(&base(), "pinhook/porch/#");
        assert_eq!(own, Ok(None));
    }
    let porch = porch(false);
    assert_eq!(porch.may_publish(&base(), "house/lamp"), Ok(()));
    for topic in ["house/secret/a", "house/porch/lamp"] {
        assert_eq!(porch.may_publish(&base(), topic), Err(Refusal::Excluded));
        let granted = porch.may_subscribe(&base(), topic);
        assert_eq!(granted, Err(Refusal::Excluded));
    }
    let granted = porch.may_subscribe(&base(), "house/#").unwrap();
    assert!(granted.is_some_and(|except| except.hide("house/secret/a")));
}

#[test]
fn an_admin_resumes_unless_an_exclusion_says_otherwise() {
    let resume = "pinhook/bridge/request/resume";

    assert_eq!(user(true, &[]).may_publish(&base(), resume), Ok(()));
    let less = user(true, &["#", "!pinhook/bridge/#"]);
    assert_eq!(less.may_publish(&base(), resume), Err(Refusal::Excluded));
    let less = user(false, &["#", "!pinhook/bridge/#"]);
    assert_eq!(less.may_publish(&base(), resume), Err(Refusal::NeedsAdmin));
}

#[test]
fn a_mounted_device_has_no_topics_outside_its_mount() {
    let porch = device(true);

    assert!(porch.may_publish(&base(), "pinhook/porch/ds/V0").is_ok());
    assert!(porch.may_publish(&base(), "house/porch/lamp").is_err());
    assert!(porch.may_subscribe(&base(), "house/#").is_err());
}

#[test]
fn another_base_has_the_same_rules_and_leaves_the_first_one_to_the_lists() {
    let base: BaseTopic = "home/pins".parse().unwrap();
    let porch = device(false);
    let admin = user(true, &["#"]);
    let anna = user(false, &["home/pins/+/set/#", "$SYS/broker/uptime"]);

    for (name, by_device, by_admin, by_anna) in [
        ("home/pins/porch/ds/V0", true, true, false),
        ("home/pins/porch/set/V0", false, true, true),
        ("home/pins/porch/state/V0", false, false, false),
        ("home/pins/shed/ds/V0", false, true, false),
        ("home/pins/bridge/request/resume", false, true, false),
        ("home/pins/bridge/state", false, false, false),
        ("pinhook/porch/ds/V0", false, true, false),
        ("pinhook/bridge/state", false, true, false),
        ("home/porch/ds/V0", false, true, false),
    ] {
        assert_eq!(porch.may_publish(&base, name).is_ok(), by_device, "{name}");
        assert_eq!(admin.may_publish(&base, name).is_ok(), by_admin, "{name}");
        assert_eq!(anna.may_publish(&base, name).is_ok(), by_anna, "{name}");
    }
    assert!(porch.may_subscribe(&base, "home/pins/porch/#").is_ok());
    assert!(porch.may_subscribe(&base, "pinhook/porch/#").is_err());
    assert!(anna.may_subscribe(&base, "$SYS/broker/uptime").is_ok());
    assert!(anna.may_subscribe(&base, "$SYS/#").is_err());
    // A list that was checked against another base does not reach into this one.
    let house: BaseTopic = "house".parse().unwrap();
    assert!(porch.may_subscribe(&house, "house/shed/#").is_err());
    assert!(porch.may_publish(&house, "house/porch/lamp").is_ok());
    assert!(porch.may_publish(&house, "house/shed/lamp").is_err());
}
