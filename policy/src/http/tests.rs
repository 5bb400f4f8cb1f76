//! Clauses of `rules.http[]`, and equality with a rule-by-rule oracle.

use proptest::prelude::*;

use super::*;

fn rule(method: Option<&str>, path: Option<&str>) -> HttpRule {
    HttpRule {
        method: method.map(Into::into),
        path: path.map(Into::into),
    }
}

fn set(rules: &[(Option<&str>, Option<&str>)]) -> HttpRuleSet {
    HttpRuleSet::new(rules.iter().map(|(m, p)| rule(*m, *p)).collect()).expect("rules of a test compile")
}

fn allows(set: &HttpRuleSet, method: &str, path: &str) -> bool {
    set.decide(&HttpRequest { method, path }).is_some()
}

fn path_allows(pattern: &str, path: &str) -> bool {
    allows(&set(&[(None, Some(pattern))]), "GET", path)
}

#[test]
fn empty_list_denies_everything() {
    assert!(!allows(&set(&[]), "GET", "/"));
}

#[test]
fn empty_rule_matches_every_request() {
    let set = set(&[(None, None)]);
    assert!(allows(&set, "GET", "/") && allows(&set, "PURGE", "/x?y=1"));
}

#[test]
fn empty_strings_are_absent_fields() {
    assert!(allows(&set(&[(Some(""), Some(""))]), "GET", "/x"));
}

#[test]
fn path_is_a_full_match_and_includes_the_query() {
    assert!(path_allows("/public", "/public"));
    assert!(!path_allows("/public", "/public/"));
    assert!(!path_allows("/public", "/public?x=1"));
    assert!(!path_allows("/public", "/x/public"));
    assert!(path_allows("/public.*", "/public?x=1"));
    assert!(!path_allows("/public.*", "/x/public"));
    assert!(!path_allows("/a|/b", "/ab") && !path_allows("/a|/b", "/a/b"));
    assert!(path_allows("/a|/b", "/b"));
}

#[test]
fn redundant_anchors_change_nothing() {
    assert!(path_allows("^/public$", "/public"));
    assert!(!path_allows("^/public$", "/public2"));
    assert!(path_allows("^/p/.*$", "/p/1"));
    assert!(!path_allows("^/a|/b$", "/ab") && path_allows("^/a|/b$", "/b"));
}

#[test]
fn method_is_case_sensitive_and_a_pattern() {
    let set = set(&[(Some("GET|HEAD"), None)]);
    assert!(allows(&set, "GET", "/") && allows(&set, "HEAD", "/"));
    assert!(!allows(&set, "get", "/") && !allows(&set, "GETX", "/") && !allows(&set, "POST", "/"));
}

#[test]
fn fields_of_an_entry_must_both_match_and_entries_are_alternatives() {
    let set = set(&[
        (Some("GET"), Some("/a")),
        (Some("POST"), Some("/b")),
        (Some("PUT"), None),
    ]);
    assert!(allows(&set, "GET", "/a") && allows(&set, "POST", "/b") && allows(&set, "PUT", "/z"));
    assert!(!allows(&set, "GET", "/b") && !allows(&set, "POST", "/a"));
}

#[test]
fn decide_names_the_first_rule_that_matches() {
    let set = set(&[
        (Some("POST"), None),
        (None, Some("/a.*")),
        (None, Some("/ab")),
        (None, None),
    ]);
    let decide = |path| set.decide(&HttpRequest { method: "GET", path });
    assert_eq!((decide("/ab"), decide("/z")), (Some(1), Some(3)));
}

#[test]
fn dot_matches_no_newline_and_escapes_are_literal() {
    assert!(!path_allows("/a.b", "/a\nb"));
    assert!(path_allows(r"/a\.b", "/a.b"));
    assert!(!path_allows(r"/a\.b", "/axb"));
    assert!(path_allows("(?i)/ab", "/AB"));
}

#[test]
fn unbalanced_pattern_cannot_escape_its_anchors() {
    for pattern in ["/a)|(.*", "(", "/a(?#", "*", "[a"] {
        let error = HttpRuleSet::new(vec![rule(None, None), rule(Some("GET"), Some(pattern))]).unwrap_err();
        assert_eq!((error.index, error.field), (1, "path"), "{pattern}");
    }
}

#[test]
fn syntax_that_re2_reads_differently_is_rejected() {
    for pattern in [
        "(?x)/a #c",
        "(?-u:a)",
        "[a[b]]",
        "[a&&b]",
        "[a-z--b]",
        r"\<a",
        r"a\b{start}",
        r"\u0041",
        r"[\u0041]",
        "a{,3}",
        r"(a)\1",
        "(?=a)",
    ] {
        let error = HttpRuleSet::new(vec![rule(Some(pattern), None)]).unwrap_err();
        assert_eq!((error.index, error.field), (0, "method"), "{pattern}");
    }
}

#[test]
fn pattern_beyond_the_size_limit_is_rejected() {
    let error = HttpRuleSet::new(vec![rule(None, Some(r"(\w{200}){200}"))]).unwrap_err();
    assert!(matches!(error.source, regex::Error::CompiledTooBig(_)), "{error}");
}

#[test]
fn patterns_too_large_for_one_automaton_still_decide_exactly() {
    // Each pattern remembers its last 12 bytes: the joint automaton is beyond any limit.
    let rules: Vec<_> = (0..12)
        .map(|n| rule(None, Some(&format!("(?s).*{n}.{{12}}"))))
        .collect();
    let set = HttpRuleSet::new(rules.clone()).expect("compiles");
    assert!(set.compiled.path.automata.len() > 1);
    for text in [
        "/5123456789012",
        "/aaaaa7abcdefghijkl",
        "/",
        "/11111111111111111111",
    ] {
        assert_eq!(
            set.decide(&HttpRequest {
                method: "GET",
                path: text
            }),
            oracle(&rules, "GET", text),
            "{text}"
        );
    }
}

#[test]
fn rules_beyond_one_pass_are_reached() {
    let rules: Vec<_> = (0..3000)
        .map(|n| rule(Some("GET"), Some(&format!("/r{n}"))))
        .collect();
    let set = HttpRuleSet::new(rules).expect("compiles");
    assert_eq!(
        set.decide(&HttpRequest {
            method: "GET",
            path: "/r2999"
        }),
        Some(2999)
    );
    assert_eq!(
        set.decide(&HttpRequest {
            method: "GET",
            path: "/r3000"
        }),
        None
    );
}

#[test]
fn text_outside_ascii_matches_no_pattern() {
    assert!(!path_allows("/.*", "/\u{e9}"));
}

#[test]
fn serialised_form_is_the_source_list() {
    let source = r#"[{"method":"GET","path":"/a.*"},{}]"#;
    let set: HttpRuleSet = serde_json::from_str(source).expect("valid");
    assert_eq!(serde_json::to_string(&set).expect("serialises"), source);
    assert!(serde_json::from_str::<HttpRuleSet>(r#"[{"path":"("}]"#).is_err());
    assert!(
        serde_json::from_str::<HttpRuleSet>(r#"[{"headers":["X-A 1"]}]"#).is_err(),
        "an ignored field would widen the rule"
    );
}

/// Every rule by itself, every field by its own anchored regex.
fn oracle(rules: &[HttpRule], method: &str, path: &str) -> Option<usize> {
    let full = |pattern: &Option<String>, text: &str| match pattern {
        Some(pattern) if !pattern.is_empty() => regex::Regex::new(&format!("^(?:{pattern})$"))
            .expect("compiles")
            .is_match(text),
        _ => true,
    };
    rules
        .iter()
        .position(|rule| full(&rule.method, method) && full(&rule.path, path))
}

fn pattern() -> impl Strategy<Value = String> {
    let atom = prop_oneof![
        4 => "[ab/]{1,3}".prop_map(String::from),
        1 => Just(".".into()),
        1 => Just(r"\.".into()),
        1 => Just("[^a]".into()),
        1 => Just(r"\d".into()),
        1 => Just(r"\b".into()),
        1 => Just("^".into()),
        1 => Just("$".into()),
    ];
    atom.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}|{b}")),
            inner.clone().prop_map(|a| format!("({a})*")),
            inner.clone().prop_map(|a| format!("(?:{a})?")),
            inner.prop_map(|a| format!("(?i:{a}){{1,2}}")),
        ]
    })
}

proptest! {
    #[test]
    fn decides_as_rule_by_rule_matching_does(
        rules in proptest::collection::vec(
            (proptest::option::of(proptest::sample::select(&["A", "B", "AB", "A.?", "A|B"][..])), proptest::option::of(pattern())), 0..12),
        requests in proptest::collection::vec(("[AB]{1,2}", "[abAB/.1\n]{0,5}"), 1..12),
    ) {
        let rules: Vec<HttpRule> = rules.into_iter().map(|(method, path)| HttpRule { method: method.map(Into::into), path }).collect();
        let set = HttpRuleSet::new(rules.clone()).expect("generated patterns compile");
        for (method, path) in &requests {
            prop_assert_eq!(set.decide(&HttpRequest { method, path }), oracle(&rules, method, path), "{} {:?}", method, path);
        }
    }
}
