//! One test per framing and smuggling class.

use super::*;

fn head(text: &str) -> Result<Head<'_>, HeadError> {
    parse(text.as_bytes())
}

/// A GET with further fields.
fn post(fields: &str) -> Result<Framing, HeadError> {
    parse(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).map(|head| head.framing)
}

#[test]
fn ordinary_head_is_taken() {
    let head =
        head("POST /a?b=c HTTP/1.1\r\nHost: a:80\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n")
            .expect("valid");
    assert_eq!((head.line.method, head.line.target.path), ("POST", "/a?b=c"));
    assert_eq!((head.framing, head.is_persistent), (Framing::Length(12), true));
}

#[test]
fn line_ends_are_cr_lf_only() {
    for text in [
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\rX",
        "GET / HTTP/1.1\rHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\rC: d\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
    ] {
        assert_eq!(head(text), Err(HeadError::LineEnd), "{text:?}");
    }
}

#[test]
fn leading_empty_line_is_refused() {
    assert_eq!(
        head("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Err(HeadError::EmptyLine)
    );
    assert_eq!(
        head("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        Err(HeadError::EmptyLine)
    );
}

#[test]
fn request_line_has_three_parts_and_single_blanks() {
    for text in [
        "GET /\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /\tHTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1",
    ] {
        assert_eq!(head(text), Err(HeadError::RequestLine), "{text:?}");
    }
    for text in [
        "GET / \r\n\r\n",
        "GET /  HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1 \r\n\r\n",
        "GET / http/1.1\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "GET / HTTP/0.9\r\n\r\n",
        "GET / HTTP/1.11\r\n\r\n",
    ] {
        assert_eq!(head(text), Err(HeadError::Version), "{text:?}");
    }
}

#[test]
fn other_protocols_are_told_apart() {
    for text in [
        "\x16\x03\x01\x02\x00",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "QUIT\r\n",
        "G\0T / HTTP/1.1\r\n",
        " GET / HTTP/1.1\r\n",
    ] {
        assert_eq!(head(text), Err(HeadError::NotHttp), "{text:?}");
    }
    assert_eq!(HeadError::NotHttp.drop_reason(), DropReason::NotHttp);
}

#[test]
fn method_is_a_bounded_token() {
    let long = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(33));
    assert_eq!(head(&long), Err(HeadError::NotHttp));
    assert!(head(&long[1..]).is_ok());
}

#[test]
fn connect_and_upgrade_are_denied_not_malformed() {
    assert_eq!(
        head("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        Err(HeadError::Connect)
    );
    for fields in [
        "Upgrade: h2c\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Connection: keep-alive, UPGRADE\r\n",
    ] {
        assert_eq!(post(fields), Err(HeadError::Upgrade), "{fields:?}");
    }
    assert_eq!(
        (HeadError::Connect.drop_reason(), HeadError::Upgrade.drop_reason()),
        (DropReason::HttpDenied, DropReason::HttpDenied)
    );
}

#[test]
fn get_and_head_have_no_body() {
    for method in ["GET", "HEAD"] {
        for (field, expected) in [
            ("Content-Length: 0\r\n", Ok(Framing::Length(0))),
            ("Content-Length: 1\r\n", Err(HeadError::UnexpectedBody)),
            ("Transfer-Encoding: chunked\r\n", Err(HeadError::UnexpectedBody)),
        ] {
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{field}\r\n");
            assert_eq!(
                parse(head.as_bytes()).map(|head| head.framing),
                expected,
                "{head:?}"
            );
        }
    }
}

#[test]
fn content_length_is_one_number() {
    assert_eq!(post("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
    assert_eq!(post("content-length:\t7 \r\n"), Ok(Framing::Length(7)));
    assert_eq!(
        post("Content-Length: 9223372036854775807\r\n"),
        Ok(Framing::Length(i64::MAX as u64))
    );
    for value in [
        "",
        "+3",
        "-3",
        "0x3",
        "3_0",
        "3,3",
        "3, 3",
        "3 3",
        "3.",
        "\u{b}3",
        "9223372036854775808",
        "18446744073709551619",
        "00000000000000000003",
    ] {
        let result = post(&format!("Content-Length: {value}\r\n"));
        assert!(
            matches!(result, Err(HeadError::ContentLength | HeadError::Field)),
            "{value:?}: {result:?}"
        );
    }
    for second in ["Content-Length: 3\r\n", "content-length: 4\r\n"] {
        assert_eq!(
            post(&format!("Content-Length: 3\r\n{second}")),
            Err(HeadError::ContentLength)
        );
    }
}

#[test]
fn transfer_encoding_is_chunked_once() {
    assert_eq!(post("Transfer-Encoding: chunked\r\n"), Ok(Framing::Chunked));
    assert_eq!(post("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
    for value in [
        "",
        "identity",
        "gzip, chunked",
        "chunked, identity",
        "xchunked",
        "chunked,",
        "\"chunked\"",
        "chunked;q=1",
        "chunked, chunked",
    ] {
        assert_eq!(
            post(&format!("Transfer-Encoding: {value}\r\n")),
            Err(HeadError::TransferEncoding),
            "{value:?}"
        );
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(post(twice), Err(HeadError::TransferEncoding));
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head(old), Err(HeadError::TransferEncoding));
}

#[test]
fn both_framings_at_once_are_refused_in_either_order() {
    let (length, coding) = ("Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n");
    assert_eq!(post(&[length, coding].concat()), Err(HeadError::BothFramings));
    assert_eq!(post(&[coding, length].concat()), Err(HeadError::BothFramings));
}

#[test]
fn field_names_are_tokens_without_lookalikes_of_framing() {
    for fields in [
        "Content_Length: 3\r\n",
        "Transfer_Encoding: chunked\r\n",
        "TRANSFER_ENCODING: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding\0: chunked\r\n",
        "Transfer-Encoding\r\n",
        ": x\r\n",
        "A B: c\r\n",
        "A: b\0c\r\n",
        "A: b\x7f\r\n",
        "A: \u{e9}\r\n",
        "\u{e9}: a\r\n",
    ] {
        assert_eq!(post(fields), Err(HeadError::Field), "{fields:?}");
    }
}

#[test]
fn folded_field_is_refused() {
    assert_eq!(post("A: b\r\n c\r\n"), Err(HeadError::Field));
    assert_eq!(post("Transfer-Encoding:\r\n chunked\r\n"), Err(HeadError::Field));
}

#[test]
fn host_is_given_once_and_is_the_authority() {
    assert_eq!(head("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::Host));
    assert_eq!(post("Host: a\r\n"), Err(HeadError::Host));
    for host in ["a b", "a,b", "a/b", "u@a", "a\\b", "a?b"] {
        assert_eq!(
            head(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            Err(HeadError::Host),
            "{host:?}"
        );
    }
    assert!(head("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n").is_ok());
    assert!(head("GET http://A:1/x HTTP/1.1\r\nHost: a:1\r\n\r\n").is_ok());
    for host in ["b", "a", "a:2", ""] {
        assert_eq!(
            head(&format!("GET http://a:1/x HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            Err(HeadError::Host),
            "{host:?}"
        );
    }
    assert_eq!(head("GET http://a/ HTTP/1.0\r\n\r\n"), Err(HeadError::Host));
}

#[test]
fn http_1_0_ends_the_connection_unless_asked() {
    let persistent = |text| head(text).map(|head| head.is_persistent);
    assert_eq!(persistent("GET / HTTP/1.0\r\n\r\n"), Ok(false));
    assert_eq!(
        persistent("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        Ok(true)
    );
    assert_eq!(
        persistent("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n"),
        Ok(false)
    );
    assert_eq!(
        persistent("GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"),
        Ok(false)
    );
}

#[test]
fn connection_cannot_remove_framing() {
    for option in ["Content-Length", "transfer-encoding", "close, Host", "expect"] {
        assert_eq!(
            post(&format!("Connection: {option}\r\n")),
            Err(HeadError::Connection),
            "{option}"
        );
    }
}

#[test]
fn expectation_is_100_continue_only() {
    assert_eq!(post("Expect: 200-ok\r\n"), Err(HeadError::Expect));
    assert_eq!(
        post("Expect: 100-continue\r\nExpect: 100-continue\r\n"),
        Err(HeadError::Expect)
    );
}

#[test]
fn limits_hold_to_the_byte_and_field() {
    let fields = |count: usize| post(&"A: b\r\n".repeat(count - 1));
    assert!(fields(FIELD_LIMIT).is_ok());
    assert_eq!(fields(FIELD_LIMIT + 1), Err(HeadError::TooManyFields));
    let sized = |len: usize| {
        let base = "GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n".len();
        let text = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n",
            "x".repeat(len - base)
        );
        assert_eq!(text.len(), len);
        parse(text.as_bytes()).map(|head| head.framing)
    };
    assert!(sized(HEAD_LIMIT).is_ok());
    assert_eq!(sized(HEAD_LIMIT + 1), Err(HeadError::TooLarge));
    assert_eq!(sized(HEAD_LIMIT * 2), Err(HeadError::TooLarge));
    let line = format!("GET /{} HTTP/1.1\r\n", "x".repeat(HEAD_LIMIT));
    assert_eq!(parse(line.as_bytes()), Err(HeadError::TooLarge));
}

#[test]
fn bytes_after_the_head_are_not_part_of_it() {
    assert!(head("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET").is_err());
}

#[test]
fn host_for_rules_is_the_one_that_every_server_reads() {
    for (text, host) in [
        ("GET / HTTP/1.1\r\nHost: A.b:80\r\n\r\n", "A.b:80"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", ""),
        ("GET / HTTP/1.0\r\n\r\n", ""),
        ("GET http://A/ HTTP/1.1\r\nHost: A\r\n\r\n", "A"),
        ("GET http://A/ HTTP/1.1\r\nHost: a\r\n\r\n", ""),
    ] {
        assert_eq!(head(text).map(|head| head.host), Ok(host), "{text:?}");
    }
}
