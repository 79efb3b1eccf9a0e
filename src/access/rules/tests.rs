use std::sync::Arc;

use super::super::{DeviceLogin, User, hash};
use super::*;
use crate::model::device::tests as devices;

fn base() -> BaseTopic {
    BaseTopic::default()
}

fn filters(list: &[&str]) -> Filters {
    Filters(list.iter().map(|text| text.parse().unwrap()).collect())
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
