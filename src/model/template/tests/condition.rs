use super::*;

fn condition(text: &str) -> Condition {
    Condition::parse(&text.into()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn holds(text: &str, value: &str) -> Result<bool, String> {
    let mut scope = Scope::clone(&scope(value));
    scope.pins.insert("V7".parse().unwrap(), "12.5".into());
    condition(text)
        .holds(&Arc::new(scope))
        .map_err(|e| e.to_string())
}

#[test]
fn what_reads_as_a_number_is_one() {
    for (text, value, expected) in [
        ("value > 30", "9", false),
        ("value > 30", "100", true),
        ("value > 30", " 31.5 ", true),
        ("30 < value <= 1e2", "100", true),
        ("30 < value <= 1e2", "100.5", false),
        ("values[0] < values[1]", "9\x0010", true),
        ("values | max == 10", "9\x0010\x00-3", true),
        ("values | sum > 15", "9\x0010", true),
        ("value == 1", "1.0", true),
        ("value == '1'", "1", true),
        ("value != '1'", "1", false),
        ("value in ['1', '2']", "2", true),
        ("value in [1, 2]", "3", false),
        ("value not in [1, 2]", "3", true),
        ("value is gt 3", "10", true),
        ("value is even", "4", true),
        ("value % 2 == 1", "3", true),
        ("value == 'on'", "on", true),
        ("value == 'on'", "1", false),
        ("value != 'on'", "1", true),
        ("value > device.vars.limit", "9", false),
        ("pins.V7 > 3", "", true),
        ("pins['V7'] > 3 and pins.V6 == 'wet'", "", true),
        ("pins.soil == 'wet'", "", true),
        ("pins.V9 | default(0) > 3", "", false),
        ("not value", "0", true),
        ("value", "0", false),
        ("value", "1", true),
        ("value", "", false),
        ("value", "off", true),
        ("true if value > 3 else false", "4", true),
        ("source == 'hardware' and pin == 'V5'", "", true),
        ("timestamp > 1", "", true),
    ] {
        let mut scope = Scope::clone(&scope(value));
        scope.pins.insert("V7".parse().unwrap(), "12.5".into());
        let mut device = device();
        device.vars.insert("limit".to_owned(), "10".to_owned());
        scope.device = Arc::new(device);
        let held = condition(text).holds(&Arc::new(scope));
        assert_eq!(held, Ok(expected), "{text} {value}");
    }
}

#[test]
fn value_text_is_the_text() {
    for (text, value, expected) in [
        ("value_text == '007'", "007", true),
        ("value == 7", "007", true),
        ("value_text == '7'", "007", false),
        ("value_text | length == 3", "1.0", true),
        ("value_text is startingwith '1,'", "1\x002", true),
        ("value_text > 6", "007", true),
    ] {
        assert_eq!(holds(text, value), Ok(expected), "{text} {value}");
    }
    assert_eq!(
        refuse("{{ value_text }}", Place::Text).to_string(),
        "unknown name `value_text`"
    );
}

#[test]
fn what_cannot_be_told_is_an_error_and_not_false() {
    for (text, value, says) in [
        ("value > 30", "on", "`on` is no number"),
        ("30 >= value", "nan", "`nan` is no number"),
        ("value > 30", "1e999", "`1e999` is no number"),
        ("value > 30", "", "an empty text is no number"),
        ("value > 30", "1\x002", "`1,2` is no number"),
        ("value is lt(30)", "on", "`on` is no number"),
        ("values > 30", "1", "a list is no number"),
        ("none < 3", "", "null is no number"),
        (
            "values < 'x'",
            "1",
            "a list cannot be compared with the text",
        ),
        ("device.vars.lat > 3", "", "the text is no number"),
        (
            "value > 30",
            "a text that goes on\n and on",
            "`a text that goes on\\…` is no number",
        ),
        ("pins.V6 > 3", "", "`wet` is no number"),
        ("pins.V9 > 3", "", "`pins.V9` was never written"),
        ("pins.V9 == 3", "", "`pins.V9` was never written"),
        ("pins.V9 in [3]", "", "`pins.V9` was never written"),
        ("pins.V9", "", "`pins.V9` was never written"),
        ("not pins.V9", "", "`pins.V9` was never written"),
        (
            "values[3] > 0",
            "1",
            "`values[3]`: the value has only 1 text",
        ),
        (
            "device.vars.nosuch == 'x'",
            "",
            "`device.vars.nosuch` is undefined",
        ),
        ("3 < pins.V9 < pins.V8", "", "undefined value"),
        ("event == 'x'", "", "`event` is undefined"),
        (
            "value * 10 > 5",
            "1e308",
            "a calculation gives no finite number",
        ),
        (
            "range(20000) | map('string') | list",
            "",
            "engine ran out of fuel",
        ),
        (
            "value_text * 1000000",
            "xxxxxxxxxxxxxxxx",
            "engine ran out of fuel",
        ),
    ] {
        assert_eq!(holds(text, value), Err(says.to_owned()), "{text} {value}");
    }
}

#[test]
fn what_is_no_expression_is_refused_when_it_is_parsed() {
    let refuse = |text: &str| Condition::parse(&text.into()).unwrap_err();

    for text in ["{{ value > 30 }}", " {% if value %}", "a == {{ b }}"] {
        assert_eq!(refuse(text), TemplateError::Braces, "{text}");
    }
    assert!(condition("value == '{{'").holds(&scope("{{")).unwrap());
    let TemplateError::UnknownNames { names, known } = refuse("valeu > 30 or statuss == x") else {
        panic!("expected unknown names");
    };
    assert_eq!(names, ["statuss", "valeu", "x"]);
    assert!(known.contains(&"value_text") && !known.contains(&"json"));
    assert_eq!(
        refuse("value | nosuch > 3"),
        TemplateError::UnknownFilters(vec!["nosuch".to_owned()])
    );
    assert_eq!(
        refuse("value is nosuch"),
        TemplateError::UnknownTests(vec!["nosuch".to_owned()])
    );
    assert_eq!(refuse("pinhook_part_0"), TemplateError::Reserved);
    for text in ["", "value >", "value > 30 30", "%s > 3", "value > 30 }}"] {
        assert!(matches!(refuse(text), TemplateError::Syntax(_)), "{text}");
    }
    let mut secret = Text::default();
    secret.push_plain("value == ");
    secret.push_secret("1");
    assert_eq!(
        Condition::parse(&secret).unwrap_err(),
        TemplateError::SecretInExpression
    );
}

#[test]
fn it_knows_what_it_asks_for() {
    let condition = condition("pins.V1 > 3 and pins['a b'] < device.vars.x and value");

    let mut pins: Vec<_> = condition.pins().collect();
    pins.sort_unstable();

    assert_eq!(pins, ["V1", "a b"]);
    assert!(condition.uses("pins") && condition.uses("device.vars") && condition.uses("value"));
    assert!(!condition.uses("event"));
}
