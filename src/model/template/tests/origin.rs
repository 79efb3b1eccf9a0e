//! Where a value may stand for scheme, host and port: `allow_hosts`.

use super::super::super::request::{BodyTemplate, Method, RequestTemplate};
use super::super::super::transport::Hosts;
use super::*;

const OPEN: Spelling = Spelling {
    open_origin: true,
    ..REQUEST
};

fn open(url: &str) -> Template {
    Template::parse(&url.into(), Place::Url, OPEN).unwrap_or_else(|e| panic!("{url}: {e}"))
}

fn request(url: &str, hosts: &[&str], value: &str) -> Result<String, String> {
    let request = RequestTemplate {
        method: Method::Put,
        url: open(url),
        headers: Vec::new(),
        auth: None,
        body: BodyTemplate::Empty,
    };
    let hosts = Hosts(hosts.iter().map(|host| host.parse().unwrap()).collect());
    let request = request.render(&scope(value), Some(&hosts));
    request.map(|r| r.url.into()).map_err(|e| e.to_string())
}

#[test]
fn a_value_may_choose_among_the_allowed_hosts() {
    for (url, value, filled) in [
        ("/pin/", "http://h/u", "http://h/u"),
        ("%s", "Http://h/u", "http://h/u"),
        (
            "{{ value }}",
            "HTTPS://H/u?a=b c#d",
            "https://h/u?a=b%20c#d",
        ),
        ("{{ values[0] }}", "http://h/u\0x", "http://h/u"),
        ("/pin[0]/", "http://h/u\0x", "http://h/u"),
        ("http://{{ value }}/x", "h", "http://h/x"),
        ("http://{{ value }}/x", "h:81", "http://h:81/x"),
        ("http://{{ value }}/x", "h/y?", "http://h/y?/x"),
        (
            "http://{{ value }}:{{ values | length }}/x",
            "h",
            "http://h:1/x",
        ),
        ("/pin/", "http://h\\@evil/", "http://h/@evil/"),
        ("http://h/pin/", ":81/a/b", "http://h:81/a/b"),
        ("{{ value }}://h/{{ value }}", "https", "https://h/https"),
        (
            "{{ values[0] }}/{{ values[1] }}",
            "http://h\0a/b?c",
            "http://h/a%2Fb%3Fc",
        ),
        (
            "{{ values[0] }}?a={{ values[1] }}",
            "http://h/x\0a&b=c",
            "http://h/x?a=a%26b%3Dc",
        ),
        (
            "http{% if value == 's' %}s{% endif %}://h/{{ value }}",
            "s",
            "https://h/s",
        ),
        (
            "{% if value %}http://h/{% else %}http://i/{% endif %}{{ value }}/%s",
            "a/b",
            "http://h/a%2Fb/a%2Fb",
        ),
        (
            "http://{{ value }}.example.org/",
            "a",
            "http://a.example.org/",
        ),
        (
            "http://{{ device.vars.host }}/{{ value }}",
            "a/b",
            "http://pi.local:8080/a%2Fb",
        ),
    ] {
        let made = request(url, &["h", "*.example.org", "pi.local"], value);
        assert_eq!(made.as_deref(), Ok(filled), "{url} {value}");
    }
}

#[test]
fn whatever_a_value_does_only_an_allowed_host_is_reached() {
    for (url, value, says) in [
        (
            "/pin/",
            "1",
            "url: filled in it is no URL: relative URL without a base",
        ),
        (
            "/pin/",
            "",
            "url: filled in it is no URL: relative URL without a base",
        ),
        (
            "/pin/",
            "http://h:port/u",
            "url: filled in it is no URL: invalid port number",
        ),
        (
            "/pin/",
            "http://h:99999/u",
            "url: filled in it is no URL: invalid port number",
        ),
        (
            "/pin/",
            "ftp://h/",
            "url: filled in its scheme is `ftp`, not http or https",
        ),
        (
            "/pin/",
            "file:///etc/passwd",
            "url: filled in its scheme is `file`, not http or https",
        ),
        (
            "/pin/",
            "httpx://h/",
            "url: filled in its scheme is `httpx`, not http or https",
        ),
        (
            "/pin/",
            "http://h/a/../b",
            "url: a value makes the path segment `..`",
        ),
        (
            "/pin/",
            "http://h/a/.\t%2e/b",
            "url: a value makes the path segment `.%2e`",
        ),
        (
            "/pin/",
            "http://h/a/..\n",
            "url: a value makes the path segment `..`",
        ),
        (
            "/pin/",
            "http://",
            "url: filled in it is no URL: empty host",
        ),
    ] {
        assert_eq!(
            request(url, &["h"], value),
            Err(says.to_owned()),
            "{url} {value}"
        );
    }
    for value in [
        "http://evil/",
        "http://h@evil/",
        "http://h:80@evil/",
        "http://evil\\@h/",
        "http:\\\\evil/h",
        "http:////evil/",
        "http:evil",
        "ht\ttp://ev\nil/",
        "\u{1}http://evil/",
        "http://evil#@h/",
        "http://evil?@h/",
        "http://h.evil/",
        "http://evil%2f@h.evil/",
        "http://h%00.evil/",
        "http://\u{ff45}vil/",
        "http://[::1]/",
        "http://2130706433/",
        "http://169.254.169.254/",
    ] {
        for url in ["/pin/", "{{ value }}/x", "{{ value | raw }}"] {
            let made = request(url, &["h"], value);
            let error = made.expect_err(value);
            let is_told = error.contains("is none of `allow_hosts`") || error.contains("no URL");
            assert!(is_told, "{url} {value}: {error}");
        }
    }
    let escape_off = Spelling {
        escape: false,
        ..OPEN
    };
    let url = Template::parse(&"http://h/{{ value }}".into(), Place::Url, escape_off).unwrap();
    assert!(!url.has_open_origin());
    assert_eq!(url.render(&scope("a/b")).unwrap(), "http://h/a/b");
}

#[test]
fn what_can_be_known_of_an_open_origin_is_checked_when_it_is_parsed() {
    let refuse = |url: &str| Template::parse(&url.into(), Place::Url, OPEN).unwrap_err();

    for (url, says) in [
        (
            "ftp://{{ value }}/",
            "its scheme is `ftp`, not http or https",
        ),
        (
            "h/x/{{ value }}",
            "it does not begin with http:// or https://",
        ),
        ("http://h:port/u", "invalid port number"),
        ("{{ value }}/a/../b", "the path has a segment `..`"),
    ] {
        assert_eq!(refuse(url).to_string(), says, "{url}");
    }
    assert!(open("{{ value }}").has_open_origin());
    assert!(open("http://h{{ value }}/").has_open_origin());
    assert!(!open("http://h/{{ value }}").has_open_origin());
    assert!(!open("http://{{ device.vars.host }}/{{ value }}").has_open_origin());
    let both = open("http://{{ device.vars.host }}{{ value }}/");
    assert_eq!(both.check_origin(&device()), Ok(()));
    let mut bare = device();
    bare.vars.clear();
    assert!(both.check_origin(&bare).is_err());
}
