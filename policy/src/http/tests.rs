//! Clauses of `rules.http[]`, and equality with a rule-by-rule oracle.

use proptest::prelude::*;

use super::*;

fn rule(method: Option<&str>, path: Option<&str>) -> HttpRule {
    HttpRule {
        method: method.map(Into::into),
        path: path.map(Into::into),
        ..HttpRule::default()
    }
}

fn set(rules: &[(Option<&str>, Option<&str>)]) -> HttpRuleSet {
    HttpRuleSet::new(rules.iter().map(|(m, p)| rule(*m, *p)).collect()).expect("rules of a test compile")
}

fn allows(set: &HttpRuleSet, method: &str, path: &str) -> bool {
    set.decide(&HttpRequest::new(method, path)).is_some()
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
    let decide = |path| set.decide(&HttpRequest::new("GET", path));
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
    assert!(
        matches!(error.source, PatternError::Regex(regex::Error::CompiledTooBig(_))),
        "{error}"
    );
}

#[test]
fn more_rules_or_large_patterns_than_a_worker_bears_are_rejected() {
    let plain = |count: usize| (0..count).map(|n| rule(None, Some(&format!("/{n}")))).collect();
    assert!(HttpRuleSet::new(plain(MOST_HTTP_RULES)).is_ok());
    let error = HttpRuleSet::new(plain(MOST_HTTP_RULES + 1)).unwrap_err();
    assert!(matches!(error.source, PatternError::TooManyRules), "{error}");
    // Each is beyond an automaton of its own.
    let large = |count: usize| {
        (0..count)
            .map(|n| rule(None, Some(&format!("(?s).*{n}.{{40}}"))))
            .collect()
    };
    assert!(HttpRuleSet::new(large(MOST_SINGLE)).is_ok());
    let error = HttpRuleSet::new(large(MOST_SINGLE + 1)).unwrap_err();
    assert!(matches!(error.source, PatternError::TooManyLarge), "{error}");
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
            set.decide(&HttpRequest::new("GET", text)),
            oracle(&rules, &HttpRequest::new("GET", text)),
            "{text}"
        );
    }
}

#[test]
fn rules_beyond_one_pass_are_reached() {
    let rules: Vec<_> = (0..1000)
        .map(|n| rule(Some("GET"), Some(&format!("/r{n}"))))
        .collect();
    let set = HttpRuleSet::new(rules).expect("compiles");
    assert_eq!(set.decide(&HttpRequest::new("GET", "/r999")), Some(999));
    assert_eq!(set.decide(&HttpRequest::new("GET", "/r1000")), None);
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
    for unknown in [r#"[{"cookies":["X-A 1"]}]"#, r#"[{"headers":["X-A 1"]}]"#] {
        let read = serde_json::from_str::<HttpRuleSet>(unknown);
        assert!(read.is_err(), "an ignored field would widen the rule: {unknown}");
    }
}

#[test]
fn host_and_headers_survive_serialisation_and_are_absent_where_not_given() {
    let source = concat!(
        r#"[{"host":"a(:80)?","headers":[{"name":"x-a","value":"present"},"#,
        r#"{"name":"x-b","value":{"exactly":"1"},"mismatch":"log"},{"name":"x-c","value":"never"}]}]"#
    );
    let set: HttpRuleSet = serde_json::from_str(source).expect("valid");
    assert_eq!(serde_json::to_string(&set).expect("serialises"), source);
    assert_eq!(
        serde_json::to_string(&HttpRule::default()).expect("serialises"),
        "{}"
    );
}

/// A rule of headers only.
fn headers(matches: &[HeaderMatch]) -> HttpRuleSet {
    let rule = HttpRule {
        headers: matches.to_vec(),
        ..HttpRule::default()
    };
    HttpRuleSet::new(vec![rule]).expect("compiles")
}

fn exactly(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch::new(name, HeaderValue::Exactly(value.into()))
}

fn present(name: &str) -> HeaderMatch {
    HeaderMatch::new(name, HeaderValue::Present)
}

fn log(mut header: HeaderMatch) -> HeaderMatch {
    header.mismatch = Mismatch::Log;
    header
}

fn sends(set: &HttpRuleSet, fields: &[(&str, &str)]) -> bool {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()))
        .collect();
    let request = HttpRequest {
        headers: &fields,
        ..HttpRequest::new("GET", "/")
    };
    set.decide(&request).is_some()
}

fn host_allows(pattern: &str, host: &str) -> bool {
    let rule = HttpRule {
        host: Some(pattern.into()),
        ..HttpRule::default()
    };
    let set = HttpRuleSet::new(vec![rule]).expect("compiles");
    let request = HttpRequest {
        host,
        ..HttpRequest::new("GET", "/")
    };
    set.decide(&request).is_some()
}

#[test]
fn host_is_a_full_match_with_the_port_as_sent() {
    for (pattern, host, expected) in [
        ("a.example", "a.example", true),
        (r"a\.example", "a.example", true),
        (r"a\.example", "axexample", false),
        (r"a\.example", "a.example:80", false),
        (r"a\.example", "b.a.example", false),
        (r"a\.example", "a.example.b", false),
        (r"a\.example(:[0-9]+)?", "a.example:8080", true),
        (r"a\.example:80", "a.example", false),
        ("^a|b$", "b", true),
        ("a|b", "ab", false),
    ] {
        assert_eq!(host_allows(pattern, host), expected, "{pattern} {host}");
    }
}

#[test]
fn host_is_case_sensitive() {
    assert!(!host_allows("a", "A") && !host_allows("[a-z]+", "aB") && host_allows("(?i)a", "A"));
}

#[test]
fn no_host_pattern_matches_a_request_without_host() {
    assert!(!host_allows(".*", "") && !host_allows("a?", "") && !host_allows("^$", ""));
    assert!(
        host_allows("", "") && host_allows("", "a"),
        "an empty pattern is an absent field"
    );
}

#[test]
fn host_that_does_not_compile_is_named() {
    let broken = HttpRule {
        host: Some("(".into()),
        ..HttpRule::default()
    };
    let error = HttpRuleSet::new(vec![HttpRule::default(), broken]).unwrap_err();
    assert_eq!((error.index, error.field), (1, "host"));
}

#[test]
fn header_string_is_split_at_its_first_space() {
    for (text, expected) in [
        ("X-A 1", exactly("x-a", "1")),
        ("X-A: 1", exactly("x-a", "1")),
        ("X-A:: 1", exactly("x-a", "1")),
        ("X-A: b c", exactly("x-a", "b c")),
        ("X-A:  b", exactly("x-a", " b")),
        ("X-A:", present("x-a:")),
        ("X-A ", exactly("x-a", "")),
        ("X-A", present("x-a")),
        ("X-A:1", present("x-a:1")),
        ("", present("")),
        (" X-A", exactly("", "X-A")),
    ] {
        assert_eq!(HeaderMatch::parse(text), expected, "{text:?}");
    }
}

#[test]
fn header_string_without_space_tests_for_a_header_of_that_whole_name() {
    let set = headers(&[HeaderMatch::parse("X-A:1")]);
    assert!(!sends(&set, &[("X-A", "1")]));
}

#[test]
fn header_name_is_compared_without_case_and_value_exactly() {
    let set = headers(&[exactly("X-Token", "aB")]);
    for (field, expected) in [
        (("X-Token", "aB"), true),
        (("x-tOKEN", "aB"), true),
        (("X-Token", "ab"), false),
        (("X-Token", "aBc"), false),
        (("X-Token", "a"), false),
        (("X-Token", ""), false),
        (("X-Token", "caB"), false),
        (("X-Toke", "aB"), false),
        (("X-Token2", "aB"), false),
    ] {
        assert_eq!(sends(&set, &[field]), expected, "{field:?}");
    }
    assert!(!sends(&set, &[]));
}

#[test]
fn blanks_around_a_value_are_not_part_of_it() {
    let set = headers(&[exactly("x-a", "b c")]);
    assert!(sends(&set, &[("X-A", " \tb c\t ")]) && !sends(&set, &[("X-A", "b  c")]));
    assert!(!sends(&headers(&[exactly("x-a", " b")]), &[("X-A", " b")]));
}

#[test]
fn presence_is_independent_of_the_value_even_an_empty_one() {
    let set = headers(&[present("X-A")]);
    assert!(
        sends(&set, &[("x-a", "1")])
            && sends(&set, &[("x-a", "")])
            && sends(&set, &[("x-a", ""), ("x-a", "2")])
    );
    assert!(!sends(&set, &[]) && !sends(&set, &[("x-b", "1")]));
}

#[test]
fn empty_value_to_be_exact_demands_a_header_with_an_empty_value() {
    let set = headers(&[exactly("x-a", "")]);
    assert!(sends(&set, &[("x-a", "")]) && sends(&set, &[("x-a", " ")]));
    assert!(!sends(&set, &[]) && !sends(&set, &[("x-a", "1")]) && !sends(&set, &[("x-a", ""), ("x-a", "")]));
}

#[test]
fn several_fields_of_a_name_are_joined_with_a_comma_in_their_order() {
    let set = headers(&[exactly("x-a", "b,c")]);
    assert!(sends(&set, &[("X-A", "b"), ("other", "1"), ("x-a", " c ")]) && sends(&set, &[("x-a", "b,c")]));
    for fields in [
        &[("x-a", "c"), ("x-a", "b")][..],
        &[("x-a", "b")],
        &[("x-a", "b, c")],
        &[("x-a", "b"), ("x-a", "c"), ("x-a", "")],
        &[("x-a", "b,c"), ("x-a", "b,c")],
    ] {
        assert!(!sends(&set, fields), "{fields:?}");
    }
    let one = headers(&[exactly("x-a", "b")]);
    assert!(
        !sends(&one, &[("x-a", "b"), ("x-a", "b")]),
        "a second value is no match, whichever a server takes"
    );
}

#[test]
fn name_that_servers_take_for_the_rules_name_denies() {
    let set = headers(&[exactly("X-Token", "1")]);
    for alike in ["X_Token", "x_token", "X.TOKEN", "X~Token"] {
        assert!(!sends(&set, &[("X-Token", "1"), (alike, "2")]), "{alike}");
        assert!(!sends(&set, &[(alike, "1")]), "{alike}");
    }
    assert!(sends(
        &set,
        &[("X-Token", "1"), ("X-Tokens", "2"), ("XxToken", "2")]
    ));
    assert!(!sends(
        &headers(&[present("x-token")]),
        &[("X-Token", "1"), ("X_Token", "")]
    ));
    assert!(!sends(
        &headers(&[exactly("x_token", "1")]),
        &[("x_token", "1"), ("x-token", "1")]
    ));
}

#[test]
fn header_that_connection_removes_denies() {
    let set = headers(&[exactly("x-a", "1")]);
    for options in ["x-a", "close, X-A", "X-A\t,close"] {
        assert!(
            !sends(&set, &[("X-A", "1"), ("Connection", options)]),
            "{options}"
        );
        assert!(
            !sends(&set, &[("connection", options), ("X-A", "1")]),
            "{options}"
        );
    }
    assert!(sends(&set, &[("X-A", "1"), ("Connection", "close, x-ab")]));
    assert!(sends(
        &headers(&[exactly("connection", "close")]),
        &[("Connection", "close")]
    ));
}

#[test]
fn header_named_host_is_the_requests_host() {
    let set = headers(&[exactly("Host", "a:1")]);
    let decide = |host| {
        let request = HttpRequest {
            host,
            headers: &[("Host", b"a:1")],
            ..HttpRequest::new("GET", "/")
        };
        set.decide(&request).is_some()
    };
    assert!(decide("a:1") && !decide("A:1") && !decide("a") && !decide(""));
}

#[test]
fn mismatch_log_lets_the_entry_match() {
    for header in [log(exactly("x-a", "1")), log(present("x-a"))] {
        let set = headers(std::slice::from_ref(&header));
        assert!(sends(&set, &[]) && sends(&set, &[("x-a", "2")]) && sends(&set, &[("x-a", "1")]));
        assert!(!sends(&headers(&[header, exactly("x-b", "1")]), &[("x-a", "1")]));
    }
}

#[test]
fn unknown_value_never_matches_whatever_the_mismatch() {
    let never = HeaderMatch::new("x-a", HeaderValue::Never);
    for header in [never.clone(), log(never)] {
        let set = headers(&[header]);
        assert!(!sends(&set, &[]) && !sends(&set, &[("x-a", "")]) && !sends(&set, &[("x-a", "1")]));
    }
}

#[test]
fn all_parts_of_an_entry_must_hold_and_entries_are_alternatives() {
    let entry = |path: &str, host: Option<&str>, headers: &[HeaderMatch]| HttpRule {
        method: Some("GET".into()),
        path: Some(path.into()),
        host: host.map(Into::into),
        headers: headers.to_vec(),
    };
    let set = HttpRuleSet::new(vec![
        entry("/a", Some("h"), &[exactly("x-a", "1"), present("x-b")]),
        entry("/a", Some("h|i"), &[exactly("x-a", "2")]),
        entry("/a", Some("j"), &[]),
        entry("/b", None, &[]),
    ])
    .expect("compiles");
    for (path, host, fields, expected) in [
        ("/a", "h", &[("x-a", "1"), ("x-b", "")][..], Some(0)),
        ("/a", "h", &[("x-a", "1")], None),
        ("/a", "h", &[("x-b", "1")], None),
        ("/a", "i", &[("x-a", "1"), ("x-b", "")], None),
        ("/a", "i", &[("x-a", "2")], Some(1)),
        ("/a", "h", &[("x-a", "2")], Some(1)),
        ("/a", "j", &[], Some(2)),
        ("/a", "k", &[("x-a", "2")], None),
        ("/b", "", &[], Some(3)),
        ("/c", "j", &[("x-a", "2")], None),
    ] {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        let request = HttpRequest {
            method: "GET",
            path,
            host,
            headers: &fields,
        };
        assert_eq!(set.decide(&request), expected, "{path} {host}");
    }
}

#[test]
fn request_line_decides_only_where_host_and_headers_cannot_change_it() {
    let with_header = HttpRule {
        headers: vec![present("x-a")],
        ..rule(None, Some("/header"))
    };
    let with_host = HttpRule {
        host: Some(".*".into()),
        ..rule(None, Some("/(host|both)"))
    };
    let logged = HttpRule {
        headers: vec![log(present("x-a"))],
        ..rule(None, Some("/log"))
    };
    let mut rules = vec![with_header, with_host, logged];
    rules.extend((0..300).map(|n| rule(None, Some(&format!("/plain{n}")))));
    rules.push(rule(None, Some("/both")));
    let set = HttpRuleSet::new(rules).expect("compiles");
    for (path, expected) in [
        ("/none", LineVerdict::Denied),
        ("/header", LineVerdict::Open),
        ("/host", LineVerdict::Open),
        ("/log", LineVerdict::Allowed),
        ("/plain299", LineVerdict::Allowed),
        ("/both", LineVerdict::Allowed),
    ] {
        assert_eq!(set.decide_line("GET", path), expected, "{path}");
    }
}

#[test]
fn debug_output_does_not_show_header_values() {
    let shown = format!("{:?}", headers(&[exactly("x-token", "hunter2")]));
    assert!(shown.contains("x-token") && !shown.contains("hunter2"), "{shown}");
}

/// Every rule by itself, every field by its own anchored regex, every header by its joined value.
fn oracle(rules: &[HttpRule], request: &HttpRequest<'_>) -> Option<usize> {
    let full = |pattern: &Option<String>, text: &str| match pattern {
        Some(pattern) if !pattern.is_empty() => regex::Regex::new(&format!("^(?:{pattern})$"))
            .expect("compiles")
            .is_match(text),
        _ => true,
    };
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let header = |wanted: &HeaderMatch| {
        let of_name = |same: &dyn Fn(&str) -> bool| -> Vec<String> {
            let fields = request.headers.iter().filter(|(name, _)| same(name));
            fields
                .map(|(_, value)| {
                    String::from_utf8_lossy(value)
                        .trim_matches([' ', '\t'])
                        .to_owned()
                })
                .collect()
        };
        let sent = of_name(&|name| name.to_lowercase() == wanted.name);
        let alike = of_name(&|name| plain(name) == plain(&wanted.name));
        match &wanted.value {
            HeaderValue::Never => false,
            _ if wanted.mismatch == Mismatch::Log => true,
            _ if alike.len() != sent.len() || sent.is_empty() => false,
            HeaderValue::Present => true,
            HeaderValue::Exactly(value) => sent.join(",") == *value,
        }
    };
    rules.iter().position(|rule| {
        let has_host = rule.host.as_deref().is_some_and(|host| !host.is_empty());
        full(&rule.method, request.method)
            && full(&rule.path, request.path)
            && (!has_host || !request.host.is_empty() && full(&rule.host, request.host))
            && rule.headers.iter().all(header)
    })
}

fn header_match() -> impl Strategy<Value = HeaderMatch> {
    let value = prop_oneof![
        3 => Just(HeaderValue::Present),
        6 => "(1|2|1,2|)".prop_map(HeaderValue::Exactly),
        1 => Just(HeaderValue::Never),
    ];
    let mismatch = prop_oneof![4 => Just(Mismatch::Fail), 1 => Just(Mismatch::Log)];
    ("x-[ab]", value, mismatch).prop_map(|(name, value, mismatch)| HeaderMatch {
        name,
        value,
        mismatch,
    })
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

type Fields = Vec<(String, String)>;

proptest! {
    #[test]
    fn decides_as_rule_by_rule_matching_does(
        rules in proptest::collection::vec((
            proptest::option::of(proptest::sample::select(&["A", "B", "AB", "A.?", "A|B"][..])),
            proptest::option::of(pattern()),
            proptest::option::weighted(0.3, proptest::sample::select(&["a", "b(:1)?", "", ".*"][..])),
            prop_oneof![2 => Just(Vec::new()), 1 => proptest::collection::vec(header_match(), 1..3)],
        ), 0..12),
        requests in proptest::collection::vec((
            "[AB]{1,2}", "[abAB/.1\n]{0,5}", "(a|b|b:1|)",
            proptest::collection::vec(("(X|x)(-|-|-|_)[ab]", "(1|2|1,2| 1\t|)"), 0..4),
        ), 1..12),
    ) {
        let rules: Vec<HttpRule> = rules.into_iter()
            .map(|(method, path, host, headers)| HttpRule { method: method.map(Into::into), path, host: host.map(Into::into), headers })
            .collect();
        let set = HttpRuleSet::new(rules.clone()).expect("generated patterns compile");
        for (method, path, host, fields) in &requests {
            let fields: &Fields = fields;
            let headers: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            let request = HttpRequest { method, path, host, headers: &headers };
            let expected = oracle(&rules, &request);
            prop_assert_eq!(set.decide(&request), expected, "{:?}", request);
            match set.decide_line(method, path) {
                LineVerdict::Allowed => prop_assert!(expected.is_some()),
                LineVerdict::Denied => prop_assert_eq!(expected, None),
                LineVerdict::Open => {}
            }
        }
    }
}
