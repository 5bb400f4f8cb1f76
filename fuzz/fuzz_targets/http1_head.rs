//! Arbitrary bytes as a request head: no panic, and what is accepted keeps the promises of the module.
//!
//! `cargo +nightly fuzz run http1_head -- -dict=http1.dict`
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_l7::http1::head::{FIELD_LIMIT, Framing, HEAD_LIMIT, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(head) = parse(bytes) else { return };
    assert!(bytes.is_ascii() && bytes.len() <= HEAD_LIMIT && bytes.ends_with(b"\r\n\r\n"));
    let text = std::str::from_utf8(bytes).expect("ASCII");
    // CR and LF occur only together, and only the last line is empty.
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])));
    assert_eq!(
        lines.iter().position(|line| line.is_empty()),
        Some(lines.len() - 2)
    );
    assert!(lines.len() - 3 <= FIELD_LIMIT);
    // The parts of the line rebuild it.
    let version = lines[0].get(lines[0].len() - 8..).expect("version");
    assert_eq!(
        lines[0],
        format!("{} {} {version}", head.line.method, head.line.raw_target)
    );
    // The path is a part of the target and has one spelling only.
    let path = head.line.target.path;
    assert!(head.line.raw_target.ends_with(path) || path == "/");
    let bare = path.split('?').next().expect("path");
    assert!(!bare.contains("//") && !bare.contains('\\') && !path.contains('#'));
    assert!(bare.split('/').all(|segment| segment != "." && segment != ".."));
    // The host is what the only `Host` says, and what the target says if that has one.
    let hosts: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
        .map(|(_, value)| value.trim_matches([' ', '\t']))
        .collect();
    if !head.host.is_empty() {
        assert_eq!(hosts, [head.host]);
        assert!(
            head.line
                .target
                .authority
                .is_none_or(|authority| authority == head.host)
        );
    }
    // Framing is declared at most once, and never looks declared when it is not.
    let named = |name: &str| {
        lines
            .iter()
            .skip(1)
            .filter(|line| line.to_ascii_lowercase().replace('_', "-").starts_with(name))
            .count()
    };
    let (lengths, codings) = (named("content-length:"), named("transfer-encoding:"));
    match head.framing {
        Framing::Chunked => assert_eq!((lengths, codings), (0, 1)),
        Framing::Length(0) => assert!(lengths <= 1 && codings == 0),
        Framing::Length(_) => assert_eq!((lengths, codings), (1, 0)),
    }
});
