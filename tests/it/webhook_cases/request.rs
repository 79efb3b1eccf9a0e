//! W1 to W33: what goes out for a write.

use std::path::Path;

use pinhook::config::{Config, System};

use super::{Ring, at, config, hook, status_in_path};
use crate::support::service::{Answer, Seen, Service};

/// Content-Type `application/json` and this body, put to `http://h/u`.
fn put_json(body: &str) -> String {
    format!(
        "url: http://h/u
method: PUT
headers: {{Content-Type: application/json}}
body: '{body}'"
    )
}

/// The one request that `value` on V123 makes.
async fn request(keys: &str, value: &str) -> Seen {
    let mut ring = Ring::with_hook(keys, |_| Answer::ok("")).await;
    let value = at(&ring.service, value);
    ring.write_ends(&value, "ok").await;
    let request = ring.service.request().await;
    assert!(
        ring.service.request_now().is_none(),
        "one write, two requests"
    );
    request
}

/// The query and path of the request that `value` makes.
async fn target(url: &str, value: &str) -> String {
    request(&format!("url: {url}"), value).await.target
}

/// The body of the request that `value` makes.
async fn json_body(body: &str, value: &str) -> String {
    let request = request(&put_json(body), value).await;
    assert_eq!(request.method, "PUT");
    assert_eq!(request.headers["content-type"], "application/json");
    request.body
}

/// Expects that the webhook with these keys is refused with one problem, which
/// names the line that begins with `key` and what was found there.
async fn assert_refused(keys: &str, key: &str, path: &str, found: &str) {
    let service = Service::start(|_| Answer::ok("")).await;
    let yaml = config(&service, &hook("hook", "V123", keys));
    let problems = match Config::parse(Path::new("test.yaml"), &yaml, &System) {
        Ok(_) => panic!("no problem was found in:\n{yaml}"),
        Err(problems) => problems.to_string(),
    };
    let mut lines = yaml.lines().map(str::trim_start);
    let before = lines.position(|line| line.starts_with(key));
    let place = format!("test.yaml:{}:", before.expect("the key") + 1);
    assert!(problems.starts_with(&place), "{place} in:\n{problems}");
    let says = format!(" {path}: {found}");
    assert!(problems.contains(&says), "{says} in:\n{problems}");
    assert!(problems.ends_with("1 problem"), "{problems}");
}

#[tokio::test]
async fn w01_pin_in_a_query() {
    let request = request("url: http://h/u?f=/pin/", "10").await;

    assert_eq!((&*request.method, &*request.target), ("GET", "/u?f=10"));
    assert_eq!(request.body, "");
    assert!(!request.headers.contains_key("content-type"));
    // Ours; Blynk's sends none.
    let agent = concat!("pinhook/", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.headers["user-agent"], agent);
}

#[tokio::test]
async fn w02_percent_s_in_a_query() {
    assert_eq!(target("http://h/u?f=%s", "10").await, "/u?f=10");
}

#[tokio::test]
async fn w03_pin_in_a_json_body() {
    assert_eq!(json_body(r#"["/pin/"]"#, "10").await, r#"["10"]"#);
}

#[tokio::test]
async fn w04_dollars_in_a_value_are_dollars() {
    assert_eq!(json_body(r#"["/pin/"]"#, "$$").await, r#"["$$"]"#);
}

#[tokio::test]
async fn w05_a_backslash_is_escaped_in_json() {
    assert_eq!(json_body(r#"["/pin/"]"#, r"a\b").await, r#"["a\\b"]"#);
}

#[tokio::test]
async fn w06_percent_s_outside_quotes_is_a_number() {
    assert_eq!(json_body("[%s]", "10").await, "[10]");
}

#[tokio::test]
async fn w07_a_body_without_a_placeholder_stays() {
    assert_eq!(json_body(r#"["124"]"#, "10").await, r#"["124"]"#);
}

#[tokio::test]
async fn w08_parts_in_a_body() {
    let body = "[/pin[0]/,/pin[1]/,/pin[2]/]";
    assert_eq!(json_body(body, "10\x0011\x0012").await, "[10,11,12]");
}

#[tokio::test]
async fn w09_the_first_part_of_a_single_value_is_the_value() {
    assert_eq!(json_body("[/pin[0]/]", "10").await, "[10]");
}

#[tokio::test]
async fn w10_parts_in_a_query() {
    let url = "http://h/u?value=/pin[0]/&value=/pin[1]/&value=/pin[2]/";
    let expected = "/u?value=10&value=11&value=12";
    assert_eq!(target(url, "10\x0011\x0012").await, expected);
}

/// A URL with the first `count` parts in its query.
fn url_of_parts(count: usize) -> String {
    let query: Vec<_> = (0..count).map(|n| format!("v{n}=/pin[{n}]/")).collect();
    format!("http://h/u?{}", query.join("&"))
}

/// What it becomes for a value of so many parts or more.
fn filled_parts(count: usize) -> String {
    let query: Vec<_> = (0..count).map(|n| format!("v{n}={n}")).collect();
    format!("/u?{}", query.join("&"))
}

/// A value of so many parts.
fn value_of(count: usize) -> String {
    let parts: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    parts.join("\0")
}

#[tokio::test]
async fn w11_ten_parts_are_all_filled_in() {
    let target = target(&url_of_parts(10), &value_of(10)).await;
    assert_eq!(target, filled_parts(10));
}

#[tokio::test]
async fn w12_eleven_parts_are_filled_in_too() {
    for placeholders in [10, 11] {
        let target = target(&url_of_parts(placeholders), &value_of(11)).await;
        assert_eq!(target, filled_parts(placeholders));
    }
}

#[tokio::test]
async fn w13_a_part_that_is_not_there_stays_as_written() {
    let url = "http://h/u?a=/pin[0]/&b=/pin[1]/";
    assert_eq!(target(url, "7").await, "/u?a=7&b=/pin%5B1%5D/");
}

#[tokio::test]
async fn w14_an_empty_part_in_the_middle_is_empty() {
    let url = "http://h/u?a=/pin[0]/&b=/pin[1]/&c=/pin[2]/";
    assert_eq!(target(url, "x\0\0z").await, "/u?a=x&b=&c=z");
}

#[tokio::test]
async fn w15_an_empty_part_at_the_end_is_not_there() {
    let url = "http://h/u?a=/pin[0]/&b=/pin[1]/";
    assert_eq!(target(url, "x\0").await, "/u?a=x&b=/pin%5B1%5D/");
}

#[tokio::test]
async fn w16_every_occurrence_is_filled_in() {
    assert_eq!(
        target("http://h/u?a=/pin/&b=/pin/", "5").await,
        "/u?a=5&b=5"
    );
}

#[tokio::test]
async fn w17_several_parts_are_joined_by_a_comma() {
    let target = target("http://h/u?a=/pin/", "1\x002").await;
    // The case leaves open whether it is encoded.
    assert_eq!(target.replace("%2C", ","), "/u?a=1,2");
}

#[tokio::test]
async fn w18_a_blank_is_percent_encoded() {
    assert_eq!(target("http://h/u?a=/pin/", "a b").await, "/u?a=a%20b");
}

#[tokio::test]
async fn w19_a_value_is_no_second_parameter() {
    let target = target("http://h/u?a=/pin/", "1&x=2").await;
    assert_eq!(target, "/u?a=1%26x%3D2");
}

#[tokio::test]
async fn w20_a_value_is_no_fragment() {
    let target = target("http://h/u?a=/pin/&z=1", "p#q").await;
    assert_eq!(target, "/u?a=p%23q&z=1");
}

#[tokio::test]
async fn w21_the_slashes_belong_to_the_placeholder() {
    assert_eq!(target("http://h/x/pin/y", "10").await, "/x10y");
}

#[tokio::test]
async fn w22_the_time_in_a_body() {
    let body = json_body(r#"["/datetime_iso/"]"#, "10").await;

    let time = body.strip_prefix("[\"").expect("a quote in front");
    let time = time.strip_suffix("\"]").expect("a quote behind");
    assert!(time.contains('T') && time.ends_with('Z'), "{body}");
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{body}");
}

#[tokio::test]
async fn w23_time_and_parts_in_one_string() {
    let body = json_body(r#"["/datetime_iso/,/pin[0]/,/pin[1]/"]"#, "10\x0011").await;

    let parts: Vec<_> = body.split(',').collect();
    assert_eq!(
        (parts.len(), parts[1], parts[2]),
        (3, "10", "11\"]"),
        "{body}"
    );
    let time = parts[0].strip_prefix("[\"").expect("a quote in front");
    assert!(time.parse::<jiff::Timestamp>().is_ok(), "{body}");
}

#[tokio::test]
async fn w24_the_owners_address_in_any_case() {
    for placeholder in [
        "device_owner_email",
        "DEVICE_OWNER_EMAIL",
        "Device_Owner_Email",
    ] {
        let target = target(&format!("http://h/u?m={placeholder}"), "10").await;
        assert_eq!(target, "/u?m=me%40example.org", "{placeholder}");
    }
}

#[tokio::test]
async fn w25_the_value_is_the_url() {
    let keys = put_json(r#"["text"]"#).replace("http://h/u", "/pin/");
    // Ours: only to hosts that are listed.
    let request = request(&format!("allow_hosts: 127.0.0.1\n{keys}"), "http://h/u").await;

    assert_eq!((&*request.method, &*request.target), ("PUT", "/u"));
    assert_eq!(request.body, r#"["text"]"#);
}

#[tokio::test]
async fn w26_a_value_that_is_no_url_is_no_request_and_no_failure() {
    let keys = "url: /pin/\nallow_hosts: 127.0.0.1\nevery: 0";
    let mut ring = Ring::with_hook(keys, status_in_path).await;
    let failing = at(&ring.service, "http://h/500");
    ring.write_ends(&failing, "failed").await;
    assert_eq!(ring.targets(), ["/500"]);

    let report = ring.write_ends("1", "render_error").await;

    assert_eq!(report["attempts"], 0);
    assert_eq!(ring.targets(), [""; 0]);
    assert_eq!(ring.failures().await, 1);
}

#[tokio::test]
async fn w27_the_scheme_in_any_case() {
    assert_eq!(target("Http://h/u", "10").await, "/u");
}

#[tokio::test]
async fn w28_a_port_that_is_no_number_is_a_configuration_error() {
    let found = "invalid port number";
    assert_refused("url: http://h:port/u", "url:", "webhooks.hook.url", found).await;
}

#[tokio::test]
async fn w29_a_body_without_headers_is_text() {
    let request = request("url: http://h/u\nmethod: POST\nbody: x", "10").await;

    assert_eq!((&*request.method, &*request.body), ("POST", "x"));
    assert_eq!(request.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(request.headers["content-length"], "1");
}

#[tokio::test]
async fn w30_content_type_counts_in_any_case() {
    let keys = "url: http://h/u
method: POST
headers: {content-type: text/plain}
body: x";
    let request = request(keys, "10").await;

    assert_eq!((&*request.method, &*request.body), ("POST", "x"));
    assert_eq!(request.headers["content-type"], "text/plain");
}

#[tokio::test]
async fn w31_get_with_a_body() {
    let keys = "url: http://h/u
method: GET
headers: {Content-Type: text/plain}
body: x";
    let request = request(keys, "10").await;

    assert_eq!((&*request.method, &*request.body), ("GET", "x"));
    assert_eq!(request.headers["content-type"], "text/plain");
}

#[tokio::test]
async fn w32_a_header_is_filled_in() {
    let request = request("url: http://h/u\nheaders: {X-Value: /pin/}", "10").await;

    assert_eq!(request.headers["x-value"], "10");
}

/// Blynk's leaves it out silently; with us nothing configured is ignored.
#[tokio::test]
async fn w33_a_header_without_a_value_is_a_configuration_error() {
    let keys = "headers:\n  X-None:\n  X-Some: valid\nurl: http://h/u";
    let path = "webhooks.hook.headers.X-None";
    assert_refused(keys, "X-None:", path, "found nothing").await;
}
