mod condition;
mod hostile;
mod number;
mod origin;
mod path;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jiff::tz::TimeZone;

use super::super::Source;
use super::super::device::tests as devices;
use super::super::webhook::Trigger;
use super::*;

const REQUEST: Spelling = Spelling {
    placeholders: true,
    names: Names::Request,
    escape: true,
    open_origin: false,
};

fn device() -> Device {
    Device {
        vars: BTreeMap::from([
            ("lat".to_owned(), "33.38 N".to_owned()),
            ("host".to_owned(), "pi.local:8080".to_owned()),
        ]),
        pin_names: BTreeMap::from([("V6".parse().unwrap(), "soil".to_owned())]),
        ..devices::device("porch", "sixteen-letters-")
    }
}

fn scope(value: &str) -> Arc<Scope> {
    Arc::new(Scope {
        value: value.into(),
        trigger: Trigger::Pin("V5".parse().unwrap()),
        device: Arc::new(device()),
        pins: BTreeMap::from([("V6".parse().unwrap(), "wet".into())]),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000),
        zone: TimeZone::UTC,
        owner_email: Some("anna@example.org".into()),
        source: Source::Hardware,
        id: "id-1".to_owned(),
        response: None,
    })
}

#[test]
fn the_value_of_an_event_is_its_last_text_and_that_of_a_pin_all_of_them() {
    let event = |code: &str| Scope {
        trigger: Trigger::Event(code.parse().unwrap()),
        ..Arc::into_inner(scope("to@h\0subject\0body")).unwrap()
    };
    for (text, of_event) in [
        ("{{ value }}", "body"),
        ("{{ value | upper }}", "BODY"),
        ("%s /pin/", "body body"),
        ("{{ values[0] }} {{ values[1] }}", "to@h subject"),
        ("/pin[0]/", "to@h"),
    ] {
        let template = parse(text, Place::Text);
        let filled = template.render(&Arc::new(event("email"))).unwrap();
        assert_eq!(filled, of_event, "{text}");
    }
    assert_eq!(fill("{{ value }}", Place::Text, "1\x002"), "1,2");
}

fn parse(text: &str, place: Place) -> Template {
    Template::parse(&text.into(), place, REQUEST).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn fill(text: &str, place: Place, value: &str) -> String {
    let filled = parse(text, place).render(&scope(value));
    filled.unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refuse(text: &str, place: Place) -> TemplateError {
    match Template::parse(&text.into(), place, REQUEST) {
        Ok(_) => panic!("{text}: expected an error"),
        Err(error) => error,
    }
}

#[test]
fn both_spellings_fill_the_same_gaps() {
    for (template, value, filled) in [
        ("a=/pin/&b=%s&c={{ value }}", "5", "a=5&b=5&c=5"),
        ("/pin/", "1\x002", "1,2"),
        ("/pin[0]/-/pin[1]/-/pin[2]/", "x\0\0z", "x--z"),
        ("/pin[0]/ /pin[1]/", "7", "7 /pin[1]/"),
        ("/pin[0]/ /pin[1]/", "x\0", "x /pin[1]/"),
        (
            "/pin[10]/",
            "0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x0010",
            "10",
        ),
        ("{{ values[1] }}", "x\0y", "y"),
        ("{{ values | length }}", "x\0y", "2"),
        (
            "{{ pins.V6 }} {{ pins.soil }} {{ pins['soil'] }}",
            "",
            "wet wet wet",
        ),
        ("{{ pins.V9 | default(0) }}", "", "0"),
        ("{{ pin }} {{ source }} {{ id }}", "", "V5 hardware id-1"),
        (
            "{{ device.name }} {{ device.vars.lat }}",
            "",
            "porch 33.38 N",
        ),
        (
            "{{ now }} {{ timestamp }}",
            "",
            "2020-09-13T12:26:40+00:00 1600000000",
        ),
        ("/datetime_iso/", "", "2020-09-13T12:26:40Z"),
        (
            "device_owner_email /Device_Owner_Email/ {DEVICE_OWNER_EMAIL}",
            "",
            "anna@example.org anna@example.org anna@example.org",
        ),
        (
            "%s",
            "%s {{ value }} /datetime_iso/",
            "%s {{ value }} /datetime_iso/",
        ),
        ("{% if value == '1' %}on{% else %}off{% endif %}", "1", "on"),
        (
            "{% for v in values %}[{{ v }}]{% endfor %}",
            "a\0b",
            "[a][b]",
        ),
        ("{{ '/pin/ }}' }}", "5", "/pin/ }}"),
        ("{# /pin/ ' #}x", "5", "x"),
        ("two\n", "", "two\n"),
        ("{{ value }}\n", "1", "1\n"),
        ("/pin", "1", "/pin"),
        ("/pin[x]/ /pin[99999]/", "1", "/pin[x]/ /pin[99999]/"),
    ] {
        assert_eq!(fill(template, Place::Text, value), filled, "{template}");
    }
}

#[test]
fn the_highest_part_is_known_before_anything_is_filled_in() {
    let highest = |text| parse(text, Place::Text).highest_part();

    assert_eq!(highest("/pin[0]/ /pin[10]/ /pin[9]/"), Some(10));
    assert_eq!(highest("/pin/ {{ values[3] }}"), None);
    assert_eq!(highest("plain"), None);
}

#[test]
fn placeholders_can_be_turned_off() {
    let spelling = Spelling {
        placeholders: false,
        ..REQUEST
    };
    let url = "http://h/TOKEN/pin/V1?x=100%s&v={{ value }}";

    let template = Template::parse(&url.into(), Place::Url, spelling).unwrap();

    let filled = template.render(&scope("7")).unwrap();
    assert_eq!(filled, "http://h/TOKEN/pin/V1?x=100%s&v=7");
}

#[test]
fn values_are_escaped_for_their_place() {
    for (place, template, value, filled) in [
        (Place::Url, "http://h/x/pin/y", "10", "http://h/x10y"),
        (Place::Url, "http://h/?a=%s", "a b", "http://h/?a=a%20b"),
        (
            Place::Url,
            "http://h/?a=%s",
            "1&x=2",
            "http://h/?a=1%26x%3D2",
        ),
        (
            Place::Url,
            "http://h/?a=%s&z=1",
            "p#q",
            "http://h/?a=p%23q&z=1",
        ),
        (
            Place::Url,
            "http://h/{{ value }}/z",
            "a/b?c\\d",
            "http://h/a%2Fb%3Fc%5Cd/z",
        ),
        (
            Place::Url,
            "http://h/?a=/pin[0]/&b=/pin[1]/",
            "7",
            "http://h/?a=7&b=/pin%5B1%5D/",
        ),
        (
            Place::Url,
            "http://h/?a={{ value | urlencode }}",
            "a/b",
            "http://h/?a=a%2Fb",
        ),
        (
            Place::Url,
            "http://h/{{ value | raw }}",
            "a/b?c=d",
            "http://h/a/b?c=d",
        ),
        (
            Place::Url,
            "http://{{ device.vars.host }}/{{ device.vars.lat }}",
            "",
            "http://pi.local:8080/33.38%20N",
        ),
        (Place::Json, r#"["%s"]"#, r#"a"b\c"#, r#"["a\"b\\c"]"#),
        (Place::Json, "[%s]", "10", "[10]"),
        (Place::Json, "[%s]", "-1.5e3", "[-1.5e3]"),
        (Place::Json, "[%s]", "true", "[true]"),
        (Place::Json, "[%s]", "truely", r#"["truely"]"#),
        (Place::Json, "[%s]", "007", r#"["007"]"#),
        (Place::Json, "[%s]", "1 ", r#"["1 "]"#),
        (Place::Json, "[%s]", "", r#"[""]"#),
        (Place::Json, "[%s]", "1,2", r#"["1,2"]"#),
        (Place::Json, r#"["\"%s"]"#, "\n", r#"["\"\n"]"#),
        (
            Place::Json,
            r#"{"a": {{ values | tojson }}}"#,
            "x\0y",
            r#"{"a": ["x", "y"]}"#,
        ),
        (
            Place::Json,
            r#"{"a": "{{ values | tojson }}"}"#,
            "x",
            r#"{"a": "[\"x\"]"}"#,
        ),
        (
            Place::Json,
            r#"{"a": {{ value | raw }}}"#,
            "[1]",
            r#"{"a": [1]}"#,
        ),
        (
            Place::Json,
            "{% set x %}{{ value }}{% endset %}[{{ x }}]",
            "a\"",
            r#"["a\""]"#,
        ),
        (Place::Json, "[{{ none }}]", "", "[null]"),
        (Place::Form, "a=%s", "1&b=2 +", "a=1%26b%3D2+%2B"),
        (Place::Text, "%s", "a&b", "a&b"),
    ] {
        assert_eq!(fill(template, place, value), filled, "{place:?} {template}");
    }
}

#[test]
fn what_a_secret_stands_for_is_never_a_template() {
    let mut url = Text::default();
    url.push_secret("https://h:1/{{ x }}/%s?k=a b&");
    url.push_plain("v={{ value }}");
    let template = Template::parse(&url, Place::Url, REQUEST).unwrap();
    assert_eq!(
        template.render(&scope("1/2")).unwrap(),
        "https://h:1/{{ x }}/%s?k=a b&v=1%2F2"
    );

    let mut body = Text::default();
    body.push_plain("[\"");
    body.push_secret("a\"{{ b");
    body.push_plain("\"]");
    let template = Template::parse(&body, Place::Json, REQUEST).unwrap();
    assert_eq!(template.render(&scope("")).unwrap(), r#"["a\"{{ b"]"#);

    let mut inside = Text::default();
    inside.push_plain("{{ '");
    inside.push_secret("x");
    inside.push_plain("' }}");
    assert_eq!(
        Template::parse(&inside, Place::Text, REQUEST).unwrap_err(),
        TemplateError::SecretInside
    );
}

#[test]
fn a_secret_may_be_part_of_the_server() {
    for (before, secret, after, filled) in [
        ("http://", "host", "/h?v={{ value }}", "http://host/h?v=1"),
        ("http://h:", "81", "/{{ value }}", "http://h:81/1"),
        ("http://u:", "pw", "@h/{{ value }}", "http://u:pw@h/1"),
        ("http://h", "ost", "/{{ value }}", "http://host/1"),
    ] {
        let mut url = Text::default();
        url.push_plain(before);
        url.push_secret(secret);
        url.push_plain(after);
        let template = Template::parse(&url, Place::Url, REQUEST);
        let template = template.unwrap_or_else(|e| panic!("{filled}: {e}"));
        assert_eq!(template.render(&scope("1")).unwrap(), filled);
    }
}

#[test]
fn a_filter_encodes_only_what_it_filters() {
    for (place, template, value, filled) in [
        (
            Place::Url,
            "http://h/?a={{ value ~ 'x' | urlencode }}",
            "1&b",
            "http://h/?a=1%26bx",
        ),
        (
            Place::Url,
            "http://h/?a={{ (value ~ '&') | urlencode }}",
            "1",
            "http://h/?a=1%26",
        ),
        (
            Place::Url,
            "http://h/?a={{ value ~ '' | raw }}",
            "1&b",
            "http://h/?a=1%26b",
        ),
        (
            Place::Json,
            r#"{"a": {{ value ~ '' | tojson }} }"#,
            r#"1, "b": "#,
            r#"{"a": "1, \"b\": \"\"" }"#,
        ),
        (
            Place::Json,
            r#"{"a": {{ values[0] or 'x' | tojson }} }"#,
            "[]",
            r#"{"a": "[]" }"#,
        ),
        (
            Place::Json,
            r#"{"a": {{ value if value else none | tojson }} }"#,
            "[]",
            r#"{"a": "[]" }"#,
        ),
        (
            Place::Json,
            r#"{"a": {{ (value, 1) | tojson }} }"#,
            "x",
            r#"{"a": ["x", 1] }"#,
        ),
    ] {
        assert_eq!(fill(template, place, value), filled, "{template}");
    }
}

#[test]
fn what_would_be_filled_in_wrongly_is_refused() {
    for (template, error) in [
        ("{{ pinhook_secret_0 }}", TemplateError::Reserved),
        (
            "{% if pinhook_part_0 %}{% endif %}",
            TemplateError::Reserved,
        ),
        (
            "{% set x %}/pin[0]/{% endset %}{{ x }}",
            TemplateError::InBlock,
        ),
        (
            "{% filter upper %}%s{% endfilter %}",
            TemplateError::InBlock,
        ),
        ("{% raw %}%s{% endraw %}", TemplateError::InBlock),
        (r#"["C:\%s"]"#, TemplateError::AfterEscape),
        (r#"["\u00%s"]"#, TemplateError::AfterEscape),
        (
            r#"["\{% if value %}n{% endif %}"]"#,
            TemplateError::AfterEscape,
        ),
    ] {
        assert_eq!(refuse(template, Place::Json), error, "{template}");
    }
    assert_eq!(fill(r#"["C:\\%s"]"#, Place::Json, "\""), r#"["C:\\\""]"#);
    assert_eq!(fill("{% set x = 1 %}%s", Place::Text, "5"), "5");
    for template in ["{% include 'x' %}", "{% macro m() %}{% endmacro %}"] {
        assert!(matches!(
            refuse(template, Place::Text),
            TemplateError::Syntax(_)
        ));
    }
}

#[test]
fn no_template_shows_its_text_in_debug() {
    let mut url = Text::default();
    url.push_plain("http://h/?k=");
    url.push_secret("hunter2hunter2");
    let template = Template::parse(&url, Place::Url, REQUEST).unwrap();

    assert!(!format!("{template:?}{url:?}").contains("hunter2"));
}

#[test]
fn no_value_chooses_the_server() {
    for url in [
        "{{ value }}",
        "/pin/",
        "http://{{ value }}/x",
        "http://h{{ value }}/x",
        "http://h/pin/",
        "http://h:{{ value }}/",
        "{{ value }}://h/",
        "http://user:{{ value }}@h/",
        "{% if value %}http://a/{% else %}http://b/{% endif %}",
        "http://{{ device.vars.host ~ value }}/",
        "http://{{ device.name }}/",
        "http://h\\{{ value }}",
    ] {
        assert_eq!(refuse(url, Place::Url), TemplateError::OpenOrigin, "{url}");
    }
}

#[test]
fn a_url_that_leads_nowhere_is_refused() {
    for (url, says) in [
        ("h/x", "it does not begin with http:// or https://"),
        ("ftp://h/x", "its scheme is `ftp`, not http or https"),
        ("http:///x", "empty host"),
        ("http://h:port/x", "invalid port number"),
        ("http://h:99999/", "invalid port number"),
        (
            "http://a b/",
            "its host has a blank, a line break or a backslash",
        ),
        ("http://h/a/../b", "the path has a segment `..`"),
        ("http://h/./{{ value }}", "the path has a segment `.`"),
    ] {
        assert_eq!(refuse(url, Place::Url).to_string(), says, "{url}");
    }
    for url in [
        "Http://h/u",
        "https://[::1]:8443",
        "http://h?x=%s",
        "http://user:pw@h/",
    ] {
        parse(url, Place::Url);
    }
}

#[test]
fn a_variable_in_the_host_is_checked_with_the_device() {
    let url = parse("http://{{ device.vars.host }}/x", Place::Url);
    assert_eq!(url.check_origin(&device()), Ok(()));

    let mut other = device();
    other.vars.insert("host".to_owned(), "no host".to_owned());
    assert!(url.check_origin(&other).is_err());
    other.vars.clear();
    assert_eq!(
        url.check_origin(&other).unwrap_err().to_string(),
        "device `porch` has no `vars.host`"
    );
}

#[test]
fn a_misspelt_name_is_found_when_it_is_parsed() {
    for (template, name) in [
        ("{{ valeu }}", "valeu"),
        ("{{ json.x }}", "json"),
        ("{% if pinz.V1 %}{% endif %}", "pinz"),
        ("{{ debug() }}", "debug"),
    ] {
        match refuse(template, Place::Text) {
            TemplateError::UnknownNames { names, .. } => assert_eq!(names, [name]),
            other => panic!("{template}: {other}"),
        }
    }
    for template in ["{{ value | nosuch }}", "{% if value|nosuch %}{% endif %}"] {
        let error = refuse(template, Place::Text);
        assert_eq!(
            error,
            TemplateError::UnknownFilters(vec!["nosuch".to_owned()])
        );
    }
    parse("{{ 'a|nosuch' ~ value | upper }}", Place::Text);
    for template in ["{{ value", "{% for %}", "{{ }}"] {
        assert!(
            matches!(refuse(template, Place::Text), TemplateError::Syntax(_)),
            "{template}"
        );
    }
}

#[test]
fn what_cannot_be_filled_in_says_why() {
    for (template, value, says) in [
        (
            "{{ values[3] }}",
            "1",
            "`values[3]`: the value has only 1 text",
        ),
        ("{{ pins.V9 }}", "", "`pins.V9` was never written"),
        (
            "{{ device.vars.nosuch }}",
            "",
            "`device.vars.nosuch` is undefined",
        ),
        (
            "{% for i in range(100000) %}{{ i }}{% endfor %}",
            "",
            "engine ran out of fuel",
        ),
        (
            "{{ value * 1000000 }}",
            "xxxxxxxxxxxxxxxx",
            "engine ran out of fuel",
        ),
    ] {
        let error = parse(template, Place::Text)
            .render(&scope(value))
            .unwrap_err();
        assert_eq!(error.to_string(), says, "{template}");
    }
    let long = "x".repeat(MAX_RENDERED / 2 + 1);
    assert_eq!(
        parse("%s%s", Place::Text).render(&scope(&long)),
        Err(RenderError::TooLong)
    );
    for value in [".", "..", "%2e"] {
        let filled = parse("http://h/a/{{ value | raw }}/b", Place::Url).render(&scope(value));
        assert_eq!(filled, Err(RenderError::Dots(value.to_owned())));
    }
    let filled = parse("http://h/a/{{ value }}", Place::Url).render(&scope(".."));
    assert_eq!(filled, Err(RenderError::Dots("..".to_owned())));
}

#[test]
fn raw_is_noticed() {
    assert!(parse("{{ value | upper | raw }}", Place::Text).is_raw());
    assert!(!parse("{{ value | raw | upper }}", Place::Text).is_raw());
    assert!(!parse("raw", Place::Text).is_raw());
}

#[test]
fn an_expression_keeps_its_type() {
    let eval = |text: &str| {
        let expression = Expression::parse(&text.into(), REQUEST).unwrap();
        expression.map(|e| e.eval(&scope("21\x002")).unwrap().to_string())
    };

    assert_eq!(eval("{{ value }}").as_deref(), Some(r#""21,2""#));
    assert_eq!(eval("{{ values[0] | int }}").as_deref(), Some("21"));
    assert_eq!(eval("{{ values }}").as_deref(), Some(r#"["21","2"]"#));
    assert_eq!(eval("/pin/").as_deref(), Some(r#""21,2""#));
    assert_eq!(eval("x {{ value }}"), None);
    assert_eq!(eval("/pin[0]/"), None);
    assert_eq!(eval("plain"), None);
    let undefined = Expression::parse(&"{{ [1, {'a': pins.V9}] }}".into(), REQUEST).unwrap();
    assert!(undefined.unwrap().eval(&scope("")).is_err());
    let pins = parse(
        "{{ pins['a b'] }}{{ pins.V1 }}{{ pins[ \"c\" ] }}",
        Place::Text,
    );
    let mut asked: Vec<_> = pins.pins().collect();
    asked.sort_unstable();
    assert_eq!(asked, ["V1", "a b", "c"]);
}

#[test]
fn response_templates_see_status_headers_body_and_json() {
    let spelling = Spelling {
        names: Names::Response,
        ..REQUEST
    };
    let with = |text: &str, body: &str| {
        let headers = BTreeMap::from([("x-count".to_owned(), "3".to_owned())]);
        let mut scope = Scope::clone(&scope("1"));
        scope.response = Some(Arc::new(Response::new(200, headers, body.to_owned())));
        let template = Template::parse(&text.into(), Place::Text, spelling).unwrap();
        template.render(&Arc::new(scope)).map_err(|e| e.to_string())
    };

    let body = r#"{"results": {"sunrise": "5:01", "on": true, "none": null}}"#;
    assert_eq!(with("{{ json.results.sunrise }}", body).unwrap(), "5:01");
    assert_eq!(
        with("{{ json.results.on }} {{ json.results.none }}", body).unwrap(),
        "true null"
    );
    assert_eq!(
        with("{{ status }} {{ headers['X-Count'] }} {{ value }}", "").unwrap(),
        "200 3 1"
    );
    assert_eq!(with("{{ body | trim }}", " hi ").unwrap(), "hi");
    assert_eq!(
        with("{{ json.x }}", "<html>").unwrap_err(),
        "the response is not JSON: expected value at line 1 column 1"
    );
}

#[test]
fn everything_unknown_in_a_template_is_said_at_once() {
    for (template, says) in [
        (
            "{{ b }} {{ a.x }} {{ value ~ b }}",
            "unknown names `a`, `b`",
        ),
        ("{{ valeu }}", "unknown name `valeu`"),
        (
            "{{ a|nosuch }}{% if 1|either %}{% endif %}",
            "unknown filters `either`, `nosuch`",
        ),
        ("{{ value is nosuch }}", "unknown test `nosuch`"),
    ] {
        assert_eq!(
            refuse(template, Place::Text).to_string(),
            says,
            "{template}"
        );
    }
    parse(
        "{{ value is not even and device.vars.is is defined }}",
        Place::Text,
    );
}

#[test]
fn an_event_has_a_name_and_no_pin_and_a_pin_no_event() {
    let mut event = Scope::clone(&scope("5"));
    event.trigger = Trigger::Event("door".parse().unwrap());
    let event = Arc::new(event);

    let pin = scope("5");
    let fill = |text, scope| parse(text, Place::Text).render(scope);

    assert_eq!(fill("{{ event }} {{ value }}", &event).unwrap(), "door 5");
    assert_eq!(
        fill("{{ pin }}", &event).unwrap_err().to_string(),
        "`pin` is undefined"
    );
    assert_eq!(fill("{{ pin }}", &pin).unwrap(), "V5");
    assert!(fill("{{ event }}", &pin).is_err());
    assert_eq!(fill("{{ event | default('none') }}", &pin).unwrap(), "none");
}

#[test]
fn escaping_can_be_turned_off_but_not_in_what_is_encoded_as_a_whole() {
    let spelling = Spelling {
        escape: false,
        ..REQUEST
    };
    let fill = |text: &str, place, value| {
        let template = Template::parse(&text.into(), place, spelling).unwrap();
        template.render(&scope(value))
    };

    let url = fill(
        "http://h/%s?a={{ value }}&/pin[0]/",
        Place::Url,
        "x/y?b=c d",
    );
    assert_eq!(url.unwrap(), "http://h/x/y?b=c d?a=x/y?b=c d&x/y?b=c d");
    let json = fill(r#"{"a": %s, "b": "{{ value }}"}"#, Place::Json, r#"["\n"]"#);
    assert_eq!(json.unwrap(), r#"{"a": ["\n"], "b": "["\n"]"}"#);
    assert_eq!(fill("a=%s", Place::Form, "1&b=2").unwrap(), "a=1&b=2");
    assert_eq!(
        fill("http://h/a/%s", Place::Url, "../x"),
        Err(RenderError::Dots("..".to_owned()))
    );
    assert_eq!(
        fill("http://h/a/%s/b", Place::Url, ".\n\t."),
        Err(RenderError::Dots("..".to_owned()))
    );
    let closed = Template::parse(&"http://{{ value }}/".into(), Place::Url, spelling);
    assert_eq!(closed.unwrap_err(), TemplateError::OpenOrigin);
    let encoded = fill("http://h/{{ value | urlencode }}", Place::Url, "a/b");
    assert_eq!(encoded.unwrap(), "http://h/a%2Fb");
}
