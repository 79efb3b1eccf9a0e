//! What a device without a clock is told of the time (product.md §3.2,
//! `get/utc/all/json`).

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// How far from `at` a zone's offset must change for its daylight saving to be
/// looked for there, in hours: a year and a day.
const YEAR: i64 = 366 * 24;

/// The time at `at` in `zone`, as JSON: `time` in Unix milliseconds, `iso8601`
/// local with its offset, `tz_name`, and `tz_offset` and `dst_offset` in minutes,
/// the first without daylight saving; local time is UTC and both of them.
pub fn utc_json(at: Timestamp, zone: &TimeZone) -> String {
    let local = at.to_zoned(zone.clone());
    let offset = seconds(&local);
    let standard = standard_offset(at, zone);
    let name = match zone.iana_name() {
        Some(name) => name.to_owned(),
        None => zone.to_offset_info(at).abbreviation().to_owned(),
    };
    serde_json::json!({
        "time": at.as_millisecond(),
        "iso8601": local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "tz_name": name,
        "tz_offset": standard / 60,
        "dst_offset": (offset - standard) / 60,
    })
    .to_string()
}

fn seconds(local: &jiff::Zoned) -> i32 {
    local.offset().seconds()
}

/// The offset without daylight saving, in seconds.
///
/// Ireland's law has a standard time in summer and a negative saving in winter,
/// and some builds of the time zone database say it so, others the usual way
/// round. For a device, saving is what the clock is ahead of the lower offset.
fn standard_offset(at: Timestamp, zone: &TimeZone) -> i32 {
    let now = zone.to_offset_info(at);
    let (offset, is_saving) = (now.offset().seconds(), now.dst().is_dst());
    let year = Span::new().hours(YEAR);
    let (Ok(from), Ok(to)) = (at.checked_sub(year), at.checked_add(year)) else {
        return offset;
    };
    // What held before the last change, and what holds after the next.
    let just_after = at.checked_add(Span::new().nanoseconds(1)).unwrap_or(at);
    let last = zone.preceding(just_after).next();
    let last = last.filter(|change| change.timestamp() >= from);
    let before = last.and_then(|change| {
        let eve = change.timestamp().checked_sub(Span::new().nanoseconds(1));
        eve.ok().map(|eve| zone.to_offset_info(eve))
    });
    let before = before.map(|info| (info.offset().seconds(), info.dst().is_dst()));
    let next = zone.following(at).next();
    let next = next.filter(|change| change.timestamp() <= to);
    let after = next.map(|change| (change.offset().seconds(), change.dst().is_dst()));
    // The other half of the year: of the two, one is saving.
    let halves = [before, after].into_iter().flatten();
    let others = halves.filter(|(_, other_saves)| *other_saves != is_saving);
    others.map(|(other, _)| other).fold(offset, i32::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_said_in_the_configured_zone() {
        let winter = "2026-01-15T12:00:00.250Z";
        let summer = "2026-07-15T12:00:00.250Z";
        for (zone, at, iso, tz_offset, dst_offset) in [
            ("UTC", winter, "2026-01-15T12:00:00+00:00", 0, 0),
            ("Europe/Berlin", winter, "2026-01-15T13:00:00+01:00", 60, 0),
            ("Europe/Berlin", summer, "2026-07-15T14:00:00+02:00", 60, 60),
            ("Asia/Kolkata", summer, "2026-07-15T17:30:00+05:30", 330, 0),
            (
                "America/St_Johns",
                winter,
                "2026-01-15T08:30:00-03:30",
                -210,
                0,
            ),
            (
                "America/St_Johns",
                summer,
                "2026-07-15T09:30:00-02:30",
                -210,
                60,
            ),
            // In law a summer's standard time and a winter's saving below it.
            ("Europe/Dublin", winter, "2026-01-15T12:00:00+00:00", 0, 0),
            ("Europe/Dublin", summer, "2026-07-15T13:00:00+01:00", 0, 60),
            // Half an hour of saving, on the other side of the world.
            (
                "Australia/Lord_Howe",
                winter,
                "2026-01-15T23:00:00+11:00",
                630,
                30,
            ),
            (
                "Australia/Lord_Howe",
                summer,
                "2026-07-15T22:30:00+10:30",
                630,
                0,
            ),
        ] {
            let time: Timestamp = at.parse().unwrap();
            let json = utc_json(time, &TimeZone::get(zone).unwrap());

            let said: serde_json::Value = serde_json::from_str(&json).unwrap();
            let expected = serde_json::json!({
                "time": time.as_millisecond(),
                "iso8601": iso,
                "tz_name": zone,
                "tz_offset": tz_offset,
                "dst_offset": dst_offset,
            });
            assert_eq!(said, expected, "{zone} {at}");
            assert_eq!(time.as_millisecond() % 1000, 250);
        }
    }

    #[test]
    fn both_offsets_are_the_local_time_on_each_side_of_a_change() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        for (at, tz_offset, dst_offset) in [
            ("2026-03-29T00:59:59.999999999Z", 60, 0),
            ("2026-03-29T01:00:00Z", 60, 60),
            ("2026-10-25T00:59:59Z", 60, 60),
            ("2026-10-25T01:00:00Z", 60, 0),
        ] {
            let json = utc_json(at.parse().unwrap(), &berlin);

            let said: serde_json::Value = serde_json::from_str(&json).unwrap();
            let offsets = (said["tz_offset"].as_i64(), said["dst_offset"].as_i64());
            assert_eq!(offsets, (Some(tz_offset), Some(dst_offset)), "{at}");
        }
    }

    #[test]
    fn a_zone_without_a_name_is_called_by_its_offset() {
        let zone = TimeZone::fixed(jiff::tz::offset(-3));

        let json = utc_json(Timestamp::UNIX_EPOCH, &zone);

        let said: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(said["tz_name"], "-03");
        assert_eq!(said["tz_offset"], -180);
        assert_eq!(said["iso8601"], "1969-12-31T21:00:00-03:00");
    }
}
