use minijinja::Environment;
use proptest::prelude::*;

use super::super::engine::ENGINE;
use super::*;

fn eval(text: &str, value: &str) -> Result<String, String> {
    let expression = Expression::parse(&text.into(), REQUEST).unwrap().unwrap();
    let json = expression.eval(&scope(value)).map_err(|e| e.to_string())?;
    Ok(json.to_string())
}

#[test]
fn a_number_keeps_its_type() {
    for (text, value, json) in [
        ("{{ value | int }}", " 21 ", "21"),
        ("{{ value | int }}", "-21.7", "-21"),
        ("{{ value | int }}", "1e3", "1000"),
        ("{{ value | int }}", "9007199254740993", "9007199254740993"),
        ("{{ value | int(base=16) }}", "0x1F", "31"),
        ("{{ value | int(default=0) }}", "on", "0"),
        ("{{ value | int(7) }}", "on", "7"),
        ("{{ value | float(0) }}", "inf", "0"),
        ("{{ value | float }}", "21", "21.0"),
        ("{{ value | float(default='?') }}", "1e999", "\"?\""),
        ("{{ value | float | round(1) }}", "21.26", "21.3"),
        ("{{ value | int + 1 }}", "1", "2"),
        ("{{ value | int / 2 }}", "1", "0.5"),
        ("{{ values | map('int') | sum }}", "1\x002", "3"),
        ("{{ value | float | abs }}", "-1.5", "1.5"),
        ("{{ true | int }}", "", "1"),
        ("{{ value == 1 }}", "1", "true"),
        ("{{ value > 30 }}", "9", "false"),
    ] {
        assert_eq!(eval(text, value).as_deref(), Ok(json), "{text} {value}");
    }
}

#[test]
fn what_is_no_finite_number_is_an_error() {
    for (text, value, says) in [
        ("{{ value | int }}", "on", "`on` is no number"),
        ("{{ value | int }}", "nan", "`nan` is no number"),
        ("{{ value | float }}", "-inf", "`-inf` is no number"),
        ("{{ value | float }}", "1e999", "`1e999` is no number"),
        ("{{ value | float }}", "0x1F", "`0x1F` is no number"),
        (
            "{{ value | int }}",
            "1e39",
            "`1e39` is too large for an integer",
        ),
        ("{{ value | int }}", "", "an empty text is no number"),
        ("{{ none | int }}", "", "null is no number"),
        ("{{ values | int }}", "1", "a list is no number"),
        ("{{ pins.V6 | float }}", "", "`wet` is no number"),
        ("{{ device.vars.lat | float }}", "", "the text is no number"),
        ("{{ value | upper | int }}", "on", "the text is no number"),
        ("{{ pins.V9 | int }}", "", "`pins.V9` was never written"),
        (
            "{{ pins.V9 | float(0) }}",
            "",
            "`pins.V9` was never written",
        ),
        (
            "{{ value | float * 10 }}",
            "1e308",
            "a calculation gives no finite number",
        ),
        ("{{ 1e999 }}", "", "a calculation gives no finite number"),
        (
            "{{ [1e308, 1e308] | sum }}",
            "",
            "a calculation gives no finite number",
        ),
        (
            "{{ value | float ** 9 }}",
            "1e300",
            "a calculation gives no finite number",
        ),
        (
            "{{ (value | float * 10) - (value | float * 10) }}",
            "1e308",
            "a calculation gives no finite number",
        ),
        (
            "{{ [{'a': value | float * 10}] }}",
            "1e308",
            "a calculation gives no finite number",
        ),
        (
            "{{ value | int }}",
            "99999999999999999999",
            "number out of range",
        ),
    ] {
        assert_eq!(eval(text, value), Err(says.to_owned()), "{text} {value}");
    }
    for text in [
        "{{ value | float / 0 }}",
        "{{ value | int % 0 }}",
        "{{ value | int // 0 }}",
    ] {
        assert!(eval(text, "1").is_err(), "{text}");
    }
}

#[test]
fn no_infinite_number_becomes_text() {
    for text in [
        "{{ value | float * 10 }}",
        "{{ 'a' ~ value | float * 10 }}",
        "{{ 'a' ~ (value | float + value | float) ~ 'b' }}",
        "{{ (value | float * 10) | string }}",
        "{{ [value | float * 10] | join(',') }}",
        "{{ [value | float * 10] | tojson }}",
        "{{ '%f' | format(value | float * 10) }}",
        "{% set x = value | float * 10 %}{{ [x] }}",
        "{% for x in [value | float * 10] %}{{ x }}{% endfor %}",
        "{% if value | float * 10 > 1 %}yes{% endif %}",
        "{{- value | float * 10 -}}",
        "{{ [1e999] }}",
    ] {
        let filled = parse(text, Place::Json).render(&scope("1e308"));

        let says = "a calculation gives no finite number";
        assert_eq!(filled.unwrap_err().to_string(), says, "{text}");
    }
}

#[test]
fn a_template_compares_as_a_condition_does() {
    for (text, value, filled) in [
        (
            "{% if value > 30 %}hot{% else %}cold{% endif %}",
            "9",
            "cold",
        ),
        ("{%- if 30<value -%}hot{%- endif -%}", "100", "hot"),
        (
            "{% for v in values if v > 5 %}{{ v }};{% endfor %}",
            "9\x001\x0010",
            "9;10;",
        ),
        (
            "{{ values | select('>', 5) | join(';') }}",
            "9\x001\x0010",
            "9;10",
        ),
        (
            "{% raw %}{{ a < b }}{% endraw %}{{ 1 < 2 }}",
            "",
            "{{ a < b }}true",
        ),
        ("{{ 'a < b' ~ value * 2 }}", "x", "a < bxx"),
        (
            "{{ 'b' > 'a' }} {{ value == '1' }} {{ 'x' in 'xyz' }} {{ [1] == [1.0] }}",
            "1",
            "true true true true",
        ),
        (
            "{{ 'a' not in {'a': 1} }} {{ 1 == true }} {{ 'V6' in pins }}",
            "",
            "false true true",
        ),
    ] {
        assert_eq!(fill(text, Place::Text, value), filled, "{text}");
    }
    let error = parse("{% if value > 30 %}{% endif %}", Place::Text).render(&scope("on"));
    assert_eq!(error.unwrap_err().to_string(), "`on` is no number");
}

/// Expressions of numbers, with every operator, and their value.
fn sum_or_comparison() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0..20i64).prop_map(|n| n.to_string()),
        (1..20i64).prop_map(|n| format!("-{n}")),
        Just("1.5e-1".to_owned()),
        Just("t".to_owned()),
        Just("(u, 3)[0]".to_owned()),
        Just("u|abs".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operators = "(\\+|-|\\*|%|//| < | <= |>|>=| == | != | and | or )";
        prop_oneof![
            4 => (inner.clone(), operators, inner.clone()).prop_map(|(a, o, b)| format!("{a}{o}{b}")),
            2 => inner.clone().prop_map(|a| format!("({a})")),
            1 => inner.clone().prop_map(|a| format!("(not {a})")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} in [{b}, 3])")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} not in [{b}])")),
            1 => (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| {
                format!("({a} if {b} else {c})")
            }),
        ]
    })
}

proptest! {
    /// Where all are numbers, the engine's own operators are the judge.
    #[test]
    fn guarded_code_means_what_it_meant(code in sum_or_comparison(), t in -9..9i32, u in 1..9i32) {
        let engine = Environment::new();
        let context = BTreeMap::from([("t", t), ("u", u)]);
        let Ok(plain) = engine.compile_expression(&code) else {
            return Ok(());
        };
        let plain = plain.eval(&context).map(|v| v.to_string());
        let code = guard::expression(&code);

        let guarded = ENGINE.compile_expression(&code).unwrap().eval(&context);

        match (plain, guarded) {
            (Ok(plain), Ok(guarded)) => prop_assert_eq!(plain, guarded.to_string()),
            (Err(_), Err(_)) => {}
            // The engine does not come to the end of `3 < 2 < 1 // 0`.
            (Ok(_), Err(error)) => {
                prop_assert!(error.to_string().contains("unable to calculate"), "{error} {code}");
            }
            (plain, guarded) => prop_assert!(false, "{code}: {plain:?} {guarded:?}"),
        }
    }

    #[test]
    fn any_code_that_the_engine_reads_is_read_when_guarded(
        code in "([ a|(),.<>=~+*/%'-]|\\[|\\]|in|is|not|if| else |and|1|x|e|true){1,16}",
    ) {
        let engine = Environment::new();
        // The engine takes even `not` for a name, where no operator can stand; it
        // is an unknown one.
        let is_read = |plain: minijinja::Expression<'_, '_>| {
            !plain.undeclared_variables(false).contains("not")
        };
        if engine.compile_expression(&code).is_ok_and(is_read) {
            let guarded = guard::expression(&code);
            prop_assert!(engine.compile_expression(&guarded).is_ok(), "{code} -> {guarded}");
        }
    }
}
