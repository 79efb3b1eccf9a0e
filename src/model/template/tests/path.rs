//! Templates without an engine: they are what the engine would make of them.

use proptest::prelude::*;
use proptest::sample::select;

use super::hostile::nasty;
use super::*;

/// The template, made by the engine whatever its gaps are.
fn by_engine(
    text: &Text,
    place: Place,
    spelling: Spelling,
) -> std::result::Result<Template, TemplateError> {
    Template::parse_by(|_, _, _| None, text, place, spelling)
}

fn is_without_engine(template: &Template) -> bool {
    matches!(template.body, Body::Paths(_))
}

const RESPONSE: Spelling = Spelling {
    names: Names::Response,
    ..REQUEST
};

/// Gaps that need no engine.
const PATHS: &[&str] = &[
    "{{ value }}",
    "{{value}}",
    "{{\n value\t}}",
    "{{ values[0] }}",
    "{{ values[1] }}",
    "{{ values[10] }}",
    "{{ values }}",
    "{{ values[0].x }}",
    "{{ value.x.y }}",
    "{{ pin }}",
    "{{ event }}",
    "{{ id }}",
    "{{ source }}",
    "{{ now }}",
    "{{ timestamp }}",
    "{{ device.name }}",
    "{{ device.vars.lat }}",
    "{{ device.vars.host }}",
    "{{ device.vars['lat'] }}",
    "{{ device.vars.nosuch }}",
    "{{ device.vars }}",
    "{{ device.nosuch.x }}",
    "{{ pins.V6 }}",
    "{{ pins.soil }}",
    "{{ pins[\"soil\"] }}",
    "{{ pins['V9'] }}",
    "{{ pins.V9 }}",
    "{{ pins.nosuch }}",
    "{{ pins[0] }}",
    "{{ status }}",
    "{{ body }}",
    "{{ headers[\"X-Count\"] }}",
    "{{ headers.nosuch }}",
    "{{ json }}",
    "{{ json.a }}",
    "{{ json.a[0].in }}",
    "{{ json.not['a.b'][1] }}",
    "{{ json[0] }}",
    "{{ json['é'] }}",
    "%s",
    "/pin/",
    "/pin[0]/",
    "/pin[1]/",
    "/pin[7]/",
    "/datetime_iso/",
    "device_owner_email",
];

/// Gaps, and what looks like one, that are not for [`PATHS`].
const OTHERS: &[&str] = &[
    "{{- value }}",
    "{{ value -}}",
    "{{+value}}",
    "{{ value +-}}",
    "{{ -value }}",
    "{{ value | upper }}",
    "{{ value | raw }}",
    "{{ pins.V9 | default('') }}",
    "{{ pins.V9 | upper }}",
    "{{ values[-1] }}",
    "{{ values[01] }}",
    "{{ values[1:] }}",
    "{{ values[ 0 ] }}",
    "{{ values[0]x }}",
    "{{ value x }}",
    "{{ value. }}",
    "{{ value.1 }}",
    "{{ .value }}",
    "{{ pins . V6 }}",
    "{{ pins['so\\x69l'] }}",
    "{{ pins['soil }}",
    "{{\u{a0}value }}",
    "{{ valeu }}",
    "{{ none }}",
    "{{ 'x' }}",
    "{{ }}",
    "{{ value",
    "{{ (value) }}",
    "{% if value %}y{% endif %}",
    "{# x #}",
];

fn literal() -> impl Strategy<Value = String> {
    let some = vec![
        "a",
        "=",
        "&",
        "\"",
        "\"",
        "'",
        "\\",
        "\\\\",
        "\\u00",
        "\n",
        "\r\n",
        " \n ",
        "{",
        "}",
        "}}",
        "%}",
        "[",
        "]",
        ":",
        ",",
        "/",
        "?",
        "#",
        ".",
        "..",
        "%2e",
        "é",
        "\u{10ffff}",
        "-",
        "{ \"a\": ",
        "://",
        "@",
    ];
    prop_oneof![4 => select(some).prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

/// Text of the file, or of a `${NAME}`.
fn piece() -> impl Strategy<Value = (String, bool)> {
    prop_oneof![
        12 => literal().prop_map(|text| (text, false)),
        12 => select(PATHS).prop_map(|text| (text.to_owned(), false)),
        1 => select(OTHERS).prop_map(|text| (text.to_owned(), false)),
        2 => nasty().prop_map(|text| (text, true)),
    ]
}

fn text() -> impl Strategy<Value = Text> {
    let start = select(vec![
        "",
        "http://h/",
        "http://h/?a=",
        "https://{{ device.vars.host }}/",
        "http://",
    ]);
    (start, proptest::collection::vec(piece(), 0..8)).prop_map(|(start, pieces)| {
        let mut text = Text::default();
        text.push_plain(start);
        for (piece, is_secret) in pieces {
            match is_secret {
                true => text.push_secret(&piece),
                false => text.push_plain(&piece),
            }
        }
        text
    })
}

fn spelling() -> impl Strategy<Value = Spelling> {
    (
        any::<[bool; 3]>(),
        select(vec![Names::Request, Names::Response]),
    )
        .prop_map(|([placeholders, escape, open_origin], names)| Spelling {
            placeholders,
            names,
            escape,
            open_origin,
        })
}

fn any_scope() -> impl Strategy<Value = Arc<Scope>> {
    let body = prop_oneof![
        Just(None),
        select(vec![
            r#"{"a": [{"in": true}], "not": {"a.b": [1, 2.5]}}"#,
            r#"{"a": null}"#,
            r#"["x"]"#,
            "<html>",
        ])
        .prop_map(Some),
    ];
    let options = (any::<[bool; 2]>(), body);
    (nasty(), nasty(), nasty(), options).prop_map(
        |(value, pin, var, ([is_event, has_email], body))| {
            let mut scope = Scope::clone(&scope(&value));
            scope
                .pins
                .insert("V6".parse().unwrap(), pin.as_str().into());
            let mut device = device();
            device.vars.insert("lat".to_owned(), var);
            scope.device = Arc::new(device);
            if is_event {
                scope.trigger = Trigger::Event("door".parse().unwrap());
            }
            if !has_email {
                scope.owner_email = None;
            }
            scope.response = body.map(|body| {
                let headers = BTreeMap::from([("x-count".to_owned(), "3".to_owned())]);
                Arc::new(Response::new(200, headers, body.to_owned()))
            });
            Arc::new(scope)
        },
    )
}

/// Everything that can be asked of a template before it is filled in.
fn known(template: &Template) -> String {
    let names = [
        "json",
        "device",
        "device.vars",
        "pins",
        "values",
        "pinhook_owner_email",
    ];
    let uses = names.map(|name| template.uses(name));
    let pins: Vec<_> = template.pins().collect();
    let flags = [
        template.is_raw(),
        template.has_secret(),
        template.has_open_origin(),
    ];
    let part = template.highest_part();
    let origin = template.check_origin(&device());
    format!("{uses:?} {pins:?} {flags:?} {part:?} {origin:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_template_without_an_engine_is_what_the_engine_makes_of_it(
        text in text(),
        place in select(vec![Place::Url, Place::Json, Place::Form, Place::Text]),
        spelling in spelling(),
        scope in any_scope(),
    ) {
        let by_engine = by_engine(&text, place, spelling);
        match Template::parse(&text, place, spelling) {
            Ok(template) => {
                let by_engine = by_engine.unwrap();
                prop_assert_eq!(known(&template), known(&by_engine));
                prop_assert_eq!(template.render(&scope), by_engine.render(&scope));
            }
            Err(error) => prop_assert_eq!(Some(error), by_engine.err()),
        }
    }
}

#[test]
fn plain_gaps_need_no_engine_and_others_do() {
    for gap in PATHS {
        let text = format!("a {gap} {{ b {gap}\n");
        let template = Template::parse(&text.as_str().into(), Place::Text, RESPONSE).unwrap();
        assert!(is_without_engine(&template), "{gap}");
        let expression = Expression::parse(&(*gap).into(), RESPONSE);
        assert!(expression.is_ok(), "{gap}");
    }
    for gap in OTHERS {
        if let Ok(template) = Template::parse(&(*gap).into(), Place::Text, RESPONSE) {
            assert!(!is_without_engine(&template), "{gap}");
        }
    }
    assert!(!is_without_engine(&parse(
        "{{ value }}{{ value | upper }}",
        Place::Text
    )));
}

#[test]
fn an_expression_without_an_engine_is_what_the_engine_makes_of_it() {
    let eval = |text: &str, scope: &Arc<Scope>| {
        let expression = Expression::parse(&text.into(), RESPONSE).unwrap().unwrap();
        expression.eval(scope)
    };
    let mut full = Scope::clone(&scope("1\0x"));
    let body = r#"{"a": [{"in": true}], "not": {"a.b": [1, 2.5, null]}}"#;
    let headers = BTreeMap::from([("x-count".to_owned(), "3".to_owned())]);
    full.response = Some(Arc::new(Response::new(200, headers, body.to_owned())));
    for scope in [scope(""), Arc::new(full)] {
        for gap in PATHS.iter().filter(|gap| gap.starts_with("{{")) {
            let in_parentheses = gap.replace("{{", "{{(").replace("}}", ")}}");
            assert_eq!(eval(gap, &scope), eval(&in_parentheses, &scope), "{gap}");
        }
    }
}

#[test]
fn what_is_undefined_is_named_with_or_without_an_engine() {
    for (gap, says) in [
        ("pins.V9", "`pins.V9` was never written"),
        ("pins['V9']", "`pins['V9']` was never written"),
        ("pins.nosuch", "`pins.nosuch` is undefined"),
        ("values[2]", "`values[2]`: the value has only 2 texts"),
        ("event", "`event` is undefined"),
        ("device.vars.nosuch", "`device.vars.nosuch` is undefined"),
        ("device.nosuch.x", "`device.nosuch` is undefined"),
        ("json.x[0].y", "`json` is undefined"),
        ("status", "`status` is undefined"),
    ] {
        for template in [
            format!("{{{{ {gap} }}}}"),
            format!("{{{{- {gap} }}}}"),
            format!("{{% if value %}}{{{{ {gap} }}}}{{% endif %}}"),
            format!("{{% if {gap} %}}{{% endif %}}"),
            format!("{{{{ 'pins.V7' ~ value | int(0) + ({gap} | int) }}}}"),
            format!("{{{{ value }}}}{{{{ {gap} }}}}{{{{ value | upper }}}}"),
        ] {
            let parsed = Template::parse(&template.as_str().into(), Place::Text, RESPONSE);
            let error = parsed.unwrap().render(&scope("a\0b")).unwrap_err();
            assert_eq!(error, RenderError::Undefined(says.to_owned()), "{template}");
        }
        let typed = format!("{{{{ {gap} }}}}");
        let typed = Expression::parse(&typed.as_str().into(), RESPONSE)
            .unwrap()
            .unwrap();
        let error = typed.eval(&scope("a\0b")).unwrap_err();
        assert_eq!(error.to_string(), says);
    }
    let only = parse("{{ values[1] }}", Place::Text).render(&scope("a"));
    assert_eq!(
        only.unwrap_err().to_string(),
        "`values[1]`: the value has only 1 text"
    );
}

#[test]
fn only_what_is_undefined_is_named() {
    for template in [
        "{% set values = [none.x] %}{{ values[0] }}",
        "{% for pins in [{}] %}{{ pins.V6 }}{% endfor %}",
        "{% if (pins.V9.x if value else pins.V6) %}{% endif %}",
    ] {
        let error = parse(template, Place::Text)
            .render(&scope("1"))
            .unwrap_err();
        assert!(!error.to_string().contains("V6"), "{template}: {error}");
    }
}

#[test]
fn what_is_undefined_is_said_before_what_is_too_long() {
    let long = "x".repeat(MAX_RENDERED + 1);
    for (template, says) in [
        ("{{ value }}", RenderError::TooLong),
        (
            "{{ value }}{{ pins.V9 }}",
            RenderError::Undefined("`pins.V9` was never written".to_owned()),
        ),
    ] {
        let with = parse(template, Place::Text).render(&scope(&long));
        let engine = by_engine(&template.into(), Place::Text, REQUEST).unwrap();
        assert_eq!(with, Err(says));
        assert_eq!(engine.render(&scope(&long)), with);
    }
}

#[test]
fn a_brace_before_a_placeholder_is_a_brace() {
    for template in ["{/pin/}", "{/pin/}{{ '' | upper }}"] {
        assert_eq!(fill(template, Place::Text, "5"), "{5}", "{template}");
    }
    let mut secret = Text::default();
    secret.push_plain("{");
    secret.push_secret("x");
    secret.push_plain("}{{ value }}");
    for read in [Paths::read, |_: &_, _, _| None] {
        let template = Template::parse_by(read, &secret, Place::Text, REQUEST).unwrap();
        assert_eq!(template.render(&scope("1")).unwrap(), "{x}1");
    }
}
