//! Any value whatsoever, in templates of many shapes: what is made has the shape
//! of its template.

use std::cell::Cell;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::super::super::request::{BodyTemplate, JsonTemplate, Method, RequestTemplate};
use super::super::super::response::{ResponseRule, ResponseTarget};
use super::*;

/// Values of every kind that ever broke a template somewhere.
pub(super) fn nasty() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        any::<char>().prop_map(String::from),
        proptest::sample::select(vec![
            "\0",
            "\r\n",
            "\n",
            "\t",
            "\u{7f}",
            "\u{85}",
            "\"",
            "'",
            "\\",
            "\\u",
            "\\ud800",
            "\\u0000",
            "{{",
            "}}",
            "{{ value }}",
            "{%",
            "%}",
            "{#",
            "%s",
            "/pin/",
            "/pin[0]/",
            "${x}",
            "/datetime_iso/",
            "device_owner_email",
            "\u{2028}",
            "\u{2029}",
            "\u{202e}",
            "\u{200f}",
            "\u{feff}",
            "\u{fffe}",
            "\u{fdd0}",
            "\u{10ffff}",
            "\u{fffd}",
            ".",
            "..",
            "%2e",
            "%2E%2e",
            "/",
            "\\",
            "?",
            "#",
            "&",
            "=",
            "+",
            "%",
            "%00",
            "%zz",
            ":",
            "@",
            "[",
            "]",
            "{",
            "}",
            "<",
            ">",
            ",",
            ";",
            " ",
            "1",
            "-0",
            "1e999",
            "true",
            "null",
            "[1]",
            "{\"a\":1}",
            "pinhook_part_0",
            "*",
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        8 => proptest::collection::vec(fragment.clone(), 0..8).prop_map(|v| v.concat()),
        4 => any::<String>(),
        3 => proptest::sample::select(vec![
            "", ".", "..", "%2e", "%2e%2E", "..%2f..", "1", "-1.5e3", "1e999", "-0", "01", "1 ",
            "true", "false", "null", "nul", "[]", "{}", "\"x\"", "\"\"", "\\ud800", "\\", "\"",
            "\u{10ffff}", "\u{10ffff}\u{10ffff}", "\0", "\0\0", "NaN", "Infinity",
        ])
        .prop_map(str::to_owned),
        1 => (fragment, 1..65_536usize).prop_map(|(fragment, bytes)| {
            fragment.repeat(1 + bytes / fragment.len().max(1)).chars().take(bytes / 4).collect()
        }),
        1 => Just("\u{202e}%s\"".repeat(10_922)),
        1 => Just("x".repeat(MAX_RENDERED)),
    ]
}

/// A render that failed for no reason but its length.
fn is_too_long(filled: &Result<String, RenderError>) -> bool {
    matches!(filled, Err(RenderError::TooLong))
        || filled
            .as_ref()
            .is_err_and(|e| e.to_string() == "engine ran out of fuel")
}

#[test]
fn every_gap_of_a_url_is_a_part_of_one_segment_or_parameter() {
    for template in [
        "http://u:p@h:81/a/%s/{{ value }}.x?k=%s&l={{ value }}#f%s",
        "http://u:p@h:81/a/%s%s/{{ values | join('/') }}x?k=/pin[0]/{{ value | upper }}&l=/pin/#",
        "http://u:p@h:81/{{ pin }}/{% for v in values %}{{ v }}{% endfor %}_/-{{ value | urlencode }}?k=%s&l=#{{ value }}",
        "http://u:p@h:81/{% set x %}/{{ value }}?{% endset %}{{ x }}/b{% if value == '1' %}1{% endif %}/c?k={{ x ~ '&' }}&l={{ [value, {'&': value}] }}#",
    ] {
        let template = parse(template, Place::Url);
        let filled_in = Cell::new(0);
        proptest!(|(value in nasty())| {
            let filled = template.render(&scope(&value));
            if is_too_long(&filled) || matches!(filled, Err(RenderError::Dots(_))) {
                return Ok(());
            }
            let url = url::Url::parse(&filled.unwrap()).unwrap();
            filled_in.set(filled_in.get() + 1);
            prop_assert_eq!(url.scheme(), "http");
            prop_assert_eq!((url.host_str(), url.port()), (Some("h"), Some(81)));
            prop_assert_eq!((url.username(), url.password()), ("u", Some("p")));
            prop_assert_eq!(url.path_segments().unwrap().count(), 3);
            let keys: Vec<_> = url.query_pairs().map(|(key, _)| key.into_owned()).collect();
            prop_assert_eq!(keys, ["k", "l"]);
            prop_assert!(url.fragment().is_some());
        });
        assert!(
            filled_in.get() > 50,
            "only {filled_in:?} of the values could be filled in"
        );
    }
}

/// `shape` with `GAP` where any scalar may stand.
fn has_shape(json: &Json, shape: &Json) -> bool {
    match (json, shape) {
        (Json::Array(_) | Json::Object(_), Json::String(gap)) if gap == "GAP" => false,
        (_, Json::String(gap)) if gap == "GAP" => true,
        (Json::String(text), Json::String(gap)) if gap.ends_with("GAP") => {
            text.starts_with(gap.trim_end_matches("GAP"))
        }
        (Json::Array(items), Json::Array(shapes)) => {
            items.len() == shapes.len()
                && items
                    .iter()
                    .zip(shapes)
                    .all(|(item, shape)| has_shape(item, shape))
        }
        (Json::Object(entries), Json::Object(shapes)) => {
            entries.len() == shapes.len()
                && shapes.iter().all(|(key, shape)| match key.as_str() {
                    "GAP" => entries.values().any(|value| has_shape(value, shape)),
                    key => entries
                        .get(key)
                        .is_some_and(|value| has_shape(value, shape)),
                })
        }
        _ => json == shape,
    }
}

#[test]
fn every_gap_of_a_json_body_is_one_scalar() {
    for (template, shape) in [
        (
            r#"{"a": "x%s", "b": [%s, {{ value }}]}"#,
            r#"{"a": "xGAP", "b": ["GAP", "GAP"]}"#,
        ),
        (r#"{"{{ value }}": %s}"#, r#"{"GAP": "GAP"}"#),
        (r#"["/pin[0]/\"{{ value }}", /pin/]"#, r#"["GAP", "GAP"]"#),
        (
            r#"["\\%s\\", {{ value | upper }}, {{ value | reverse }}, "{{ values | tojson }}"]"#,
            r#"["\\GAP", "GAP", "GAP", "[\"GAP"]"#,
        ),
        (
            r#"[{{ value ~ ', 1' | tojson }}, {{ values | tojson | length }}]"#,
            r#"["GAP", "GAP"]"#,
        ),
        (
            r#"[{% set x %}[{{ value }}]{% endset %}{{ x }}, "{{ x }}"]"#,
            r#"["GAP", "GAP"]"#,
        ),
        (
            r#"{"v": [{% for v in ['', value] %}{{ v }}{% if not loop.last %},{% endif %}{% endfor %}]}"#,
            r#"{"v": ["GAP", "GAP"]}"#,
        ),
        (
            r#"[{% filter trim %}"{{ value }}"{% endfilter %}, {{ value == '1' }}]"#,
            r#"["GAP", "GAP"]"#,
        ),
        (
            r#"[{{ value | default('') | tojson }}, {{ [value] }}]"#,
            r#"["GAP", "GAP"]"#,
        ),
    ] {
        let (parsed, shape) = (
            parse(template, Place::Json),
            serde_json::from_str(shape).unwrap(),
        );
        let filled_in = Cell::new(0);
        proptest!(|(value in nasty())| {
            let filled = parsed.render(&scope(&value));
            if is_too_long(&filled) {
                return Ok(());
            }
            let filled = filled.unwrap();
            filled_in.set(filled_in.get() + 1);
            let json = serde_json::from_str(&filled).map_err(|error| {
                TestCaseError::fail(format!("{template} {error}: {filled}"))
            })?;
            prop_assert!(has_shape(&json, &shape), "{template}: {filled}");
        });
        assert!(
            filled_in.get() > 50,
            "only {filled_in:?} of the values could be filled in"
        );
    }
}

#[test]
fn what_json_has_no_scalar_for_is_a_text_that_reads_the_same() {
    for value in [
        "{\"a\":1}",
        "[1]",
        "\"x\"",
        "01",
        "1e999",
        "-",
        "\\ud800",
        "tru",
        "NaN",
        " 1",
        "1\n",
        "",
        "\u{2028}",
        "\u{10ffff}",
        "a\0b",
    ] {
        let filled = fill(r#"[%s, "{{ value }}"]"#, Place::Json, value);

        let json: Json = serde_json::from_str(&filled).unwrap();
        let text = value.replace('\0', ",");
        assert_eq!(json, serde_json::json!([text, text]), "{value:?}");
    }
}

fn whole(headers: &[&str], body: BodyTemplate) -> RequestTemplate {
    let header = |(n, text): (usize, &&str)| (format!("X-{n}"), parse(text, Place::Text));
    RequestTemplate {
        method: Method::Post,
        url: parse("http://h/", Place::Url),
        headers: headers.iter().enumerate().map(header).collect(),
        auth: None,
        body,
    }
}

proptest! {
    #[test]
    fn a_header_is_one_line_and_the_only_one(value in nasty()) {
        let texts = ["%s", "a {{ value }}", "/pin[0]/", "{{ value | raw }}"];
        let made = whole(&texts, BodyTemplate::Empty).render(&scope(&value), None);

        let value = value.replace('\0', ",");
        match made {
            Err(error) => {
                let is_long = value.len() + 2 > MAX_RENDERED;
                prop_assert!(is_long || value.chars().any(char::is_control), "{}", error);
            }
            Ok(made) => {
                prop_assert_eq!(made.headers.len(), texts.len());
                prop_assert_eq!(&made.headers[0].value, &value);
                prop_assert_eq!(&made.headers[1].value, &format!("a {value}"));
                let is_break = |c: char| c.is_control() && c != '\t';
                prop_assert!(!made.headers.iter().any(|h| h.value.contains(is_break)));
            }
        }
    }

    #[test]
    fn a_json_tree_has_the_values_in_its_gaps(value in nasty()) {
        let typed = |text: &str| {
            let expression = Expression::parse(&text.into(), REQUEST).unwrap().unwrap();
            JsonTemplate::Typed(expression)
        };
        let tree = JsonTemplate::Map(vec![
            ("a".to_owned(), typed("{{ value }}")),
            ("b".to_owned(), JsonTemplate::List(vec![
                JsonTemplate::Text(parse("x{{ value }}", Place::Text)),
                typed("{{ values }}"),
            ])),
        ]);
        let made = whole(&[], BodyTemplate::Json(tree)).render(&scope(&value), None);

        let texts: Vec<&str> = value.split('\0').collect();
        let text = value.replace('\0', ",");
        let Ok(made) = made else {
            prop_assert!(value.len() * 3 > MAX_RENDERED / 6);
            return Ok(());
        };
        let json: Json = serde_json::from_str(&made.body.unwrap()).unwrap();
        prop_assert_eq!(json, serde_json::json!({"a": text, "b": [format!("x{text}"), texts]}));
    }

    #[test]
    fn a_form_has_its_own_keys_and_the_values(value in nasty()) {
        let fields = vec![
            ("a=&".to_owned(), parse("%s", Place::Text)),
            ("b".to_owned(), parse("{{ value }}&c=1", Place::Text)),
        ];
        let made = whole(&[], BodyTemplate::Form(fields)).render(&scope(&value), None);
        let text = value.replace('\0', ",");
        let written = parse("a=%s&b={{ value }}", Place::Form).render(&scope(&value));

        let pairs = |body: &str| -> Vec<(String, String)> {
            url::form_urlencoded::parse(body.as_bytes()).into_owned().collect()
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        if let Ok(made) = made {
            let expected = [pair("a=&", &text), pair("b", &format!("{text}&c=1"))];
            prop_assert_eq!(pairs(&made.body.unwrap()), expected);
        } else {
            prop_assert!(value.len() > MAX_RENDERED / 8);
        }
        if let Ok(written) = written {
            prop_assert_eq!(pairs(&written), [pair("a", &text), pair("b", &text)]);
        } else {
            prop_assert!(value.len() > MAX_RENDERED / 8);
        }
    }

    #[test]
    fn each_template_of_a_response_makes_one_text(body in nasty(), value in nasty()) {
        let spelling = Spelling { names: Names::Response, ..REQUEST };
        let parse = |text: &str| Template::parse(&text.into(), Place::Text, spelling).unwrap();
        let rule = |texts: &[&str]| ResponseRule {
            to: ResponseTarget::Trigger,
            values: Some(texts.iter().map(|text| parse(text)).collect()),
            max_size: 1 << 20,
            keep: false,
        };
        let response = |body: &str| Response::new(200, BTreeMap::new(), body.to_owned());

        let made = rule(&["{{ body }}", "%s"]).value(&scope(&value), response(&body));
        match made {
            Ok(made) => {
                let texts: Vec<_> = made.texts().map(str::to_owned).collect();
                prop_assert_eq!(texts, [body.clone(), value.replace('\0', ",")]);
            }
            Err(RenderError::Nul) => prop_assert!(body.contains('\0')),
            Err(_) => prop_assert!(body.len().max(value.len()) > MAX_RENDERED / 8),
        }
        // The same text as JSON.
        let json = serde_json::json!({"a": [{"b": body}], "c": null}).to_string();
        let made = rule(&["{{ json.a[0].b }}", "{{ json.c }}"]).value(&scope(""), response(&json));
        match made {
            Ok(made) => prop_assert_eq!(made.texts().collect::<Vec<_>>(), [body.as_str(), "null"]),
            Err(RenderError::Nul) => prop_assert!(body.contains('\0')),
            Err(_) => prop_assert!(body.len() > MAX_RENDERED / 8),
        }
        // And as whatever it is.
        let made = rule(&["{{ json }}", "{{ json.a.b | default(1) }}"]).value(&scope(""), response(&body));
        if let Ok(made) = made {
            prop_assert_eq!(made.texts().count(), 2);
        }
    }

    #[test]
    fn any_text_parses_or_is_refused(text in ".{0,40}", url in "(http|https)://[ -~]{0,20}") {
        let _ = Condition::parse(&text.as_str().into()).map(|when| when.holds(&scope("1")));
        for spelling in [REQUEST, Spelling { open_origin: true, escape: false, ..REQUEST }] {
            let _ = Template::parse(&text.as_str().into(), Place::Json, spelling);
            if let Ok(template) = Template::parse(&url.as_str().into(), Place::Url, spelling) {
                let _ = template.render(&scope("1"));
            }
        }
    }
}

#[test]
fn a_response_that_is_no_json_says_so() {
    let spelling = Spelling {
        names: Names::Response,
        ..REQUEST
    };
    let lookup = |body: &str| {
        let mut scope = Scope::clone(&scope("1"));
        scope.response = Some(Arc::new(Response::new(
            200,
            BTreeMap::new(),
            body.to_owned(),
        )));
        let template = Template::parse(&"{{ json.a }}".into(), Place::Text, spelling).unwrap();
        template
            .render(&Arc::new(scope))
            .map_err(|error| error.to_string())
    };

    for (body, says) in [
        (
            r#"{"a": "\ud800"}"#,
            "unexpected end of hex escape at line 1 column 14",
        ),
        (r#"{"a": 1e999}"#, "number out of range at line 1 column 11"),
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\"a\": NaN}", "expected value at line 1 column 7"),
        ("{\"a\": 1} x", "trailing characters at line 1 column 10"),
    ] {
        assert_eq!(
            lookup(body),
            Err(format!("the response is not JSON: {says}")),
            "{body}"
        );
    }
    let deep = "[".repeat(100_000);
    assert!(
        lookup(&deep)
            .unwrap_err()
            .contains("recursion limit exceeded")
    );
    for (body, says) in [
        ("[1]", "`json.a` is undefined"),
        ("1", "`json.a` is undefined"),
        ("null", "`json.a` is undefined"),
    ] {
        assert_eq!(lookup(body), Err(says.to_owned()), "{body}");
    }
    assert_eq!(lookup(r#"{"a": "\ud83d\ude00\u0000"}"#).unwrap(), "😀\0");
}
