//! What must not leave the cluster.
//!
//! The rule. Secrets are never asked for. In objects these are replaced by [`REDACTED`]: every `value` of an environment variable;
//! kubectl's copy of the last configuration; values of annotations, labels, `data` of ConfigMaps and arguments whose name looks like a
//! credential's; header values in HTTP rules. In all text, that of objects included: tokens in the form of JWT, what follows `Bearer` and
//! `Basic`, who a URL is opened as (`user:password@`), and what is assigned to a name that looks like a credential's. In flow records: what follows `?` in a path. `managedFields` are left out:
//! they repeat names only.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// What stands for it.
pub const REDACTED: &str = "REDACTED";

/// Parts of names of credentials.
const CREDENTIALS: &str =
    "token|passw|secret|credential|api[-_.]?key|private[-_.]?key|access[-_.]?key|authorization|cookie";

/// kubectl's copy of what was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant, which a test compiles")
}

/// A name of a credential.
static NAME: LazyLock<Regex> = LazyLock::new(|| regex(&format!("(?i){CREDENTIALS}")));

/// A JWT: header and payload begin with `{"` in base64.
static JWT: LazyLock<Regex> =
    LazyLock::new(|| regex(r"eyJ[A-Za-z0-9_-]{6,}\.eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"));

/// RFC 9110, section 11.4: schemes and what follows.
static SCHEME: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]{6,}"));

/// RFC 3986, section 3.2.1: user and password before a host.
static USERINFO: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@"']*:[^\s@"']*@"#));

/// An assignment to a name of a credential, up to the end of its value or quotes; quotes may be escaped, as within JSON.
static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r#"(?i)([A-Za-z0-9_.-]*(?:{CREDENTIALS})[A-Za-z0-9_.-]*\\?["']?\s*[=:]\s*)(?:(\\?")[^"\\]*|(')[^']*|[^\s"'\\,;&}}]+)"#
    ))
});

/// A query in a path of a flow record.
static QUERY: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"((?:"(?:path|url)":|http-request )"[^"?]*)\?[^"]*"#));

/// Text: logs, and what commands write.
#[must_use]
pub fn text(text: &str) -> String {
    QUERY
        .replace_all(&string(text), |parts: &Captures<'_>| {
            format!("{}?{REDACTED}", &parts[1])
        })
        .into_owned()
}

/// Tokens, users of URLs and assignments.
fn string(text: &str) -> String {
    let text = JWT.replace_all(text, REDACTED);
    let text = SCHEME.replace_all(&text, format!("${{1}} {REDACTED}"));
    let text = USERINFO.replace_all(&text, format!("${{1}}{REDACTED}@"));
    ASSIGNMENT
        .replace_all(&text, format!("${{1}}${{2}}${{3}}{REDACTED}"))
        .into_owned()
}

/// An object, and everything in it.
pub fn object(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &mut *value) {
                    ("annotations" | "labels" | "data" | "binaryData", Value::Object(entries)) => {
                        for (name, value) in entries.iter_mut() {
                            if name == LAST_APPLIED || NAME.is_match(name) {
                                *value = REDACTED.into();
                            }
                        }
                    }
                    ("env", Value::Array(variables)) => variables.iter_mut().for_each(variable),
                    ("args" | "command", Value::Array(arguments)) => redact_arguments(arguments),
                    ("headers" | "httpHeaders" | "headerMatches", Value::Array(headers)) => {
                        headers.iter_mut().for_each(header);
                    }
                    _ => {}
                }
                object(value);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(object),
        Value::String(text) => *text = string(text),
        _ => {}
    }
}

fn variable(variable: &mut Value) {
    if let Some(value) = variable.get_mut("value") {
        *value = REDACTED.into();
    }
}

/// `name: value`, or an object with a value.
fn header(header: &mut Value) {
    match header {
        Value::String(header) => {
            if let Some((name, _)) = header.split_once([':', ' ']) {
                *header = format!("{name}: {REDACTED}");
            }
        }
        other => variable(other),
    }
}

/// `--token=x` and `--token x`.
fn redact_arguments(arguments: &mut [Value]) {
    let mut is_value = false;
    for argument in arguments {
        let Value::String(argument) = argument else {
            continue;
        };
        if is_value && !argument.starts_with('-') {
            *argument = REDACTED.into();
            is_value = false;
            continue;
        }
        is_value = false;
        match argument.split_once('=') {
            Some((name, _)) if NAME.is_match(name) => *argument = format!("{name}={REDACTED}"),
            Some(_) => {}
            None => is_value = argument.starts_with('-') && NAME.is_match(argument),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl";

    #[test]
    fn nothing_secret_of_an_object_is_left() {
        let mut pod = json!({
            "metadata": {
                "name": "p", "managedFields": [{"manager": "k"}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "hush1", "example.org/api-key": "hush2",
                    "note": format!("see {TOKEN}"), "team": "blue",
                },
            },
            "spec": {
                "containers": [{
                    "name": "c", "image": "i:1",
                    "env": [
                        {"name": "A", "value": "hush3"},
                        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    ],
                    "command": ["prog", "--password", "hush4"],
                    "args": ["--token=hush5", "--secret-file", "--workers=1", "--auth=Bearer hush6hush6",
                             "postgres://u:hush11@h/db", "X=1; PGPASSWORD='hush12 hush13' psql", "mysql --url=http://u:hush14/@h"],
                    "readinessProbe": {"httpGet": {"httpHeaders": [{"name": "X", "value": "hush7"}]}},
                }],
                "ingress": [{"toPorts": [{"rules": {"http": [
                    {"path": "/", "headers": ["X-Token: hush8"], "headerMatches": [{"name": "Y", "value": "hush9"}]},
                ]}}]}],
            },
            "data": {"db-password": "hush10", "mode": "fast"},
        });
        object(&mut pod);
        let text = pod.to_string();
        assert!(
            !text.contains("hush") && !text.contains("eyJ") && !text.contains("managedFields"),
            "{text}"
        );
        for kept in [
            "blue",
            "i:1",
            "fast",
            "--workers=1",
            "secretKeyRef",
            "--secret-file",
            "postgres://REDACTED@h/db",
            "X=1; PGPASSWORD='REDACTED' psql",
            "X-Token: REDACTED",
        ] {
            assert!(text.contains(kept), "{kept}: {text}");
        }
    }

    #[test]
    fn nothing_secret_of_a_log_is_left() {
        for (line, expected) in [
            (
                format!("token {TOKEN} expired"),
                "token REDACTED expired".to_owned(),
            ),
            (
                "Authorization: Bearer abc.def-123".into(),
                "Authorization: REDACTED REDACTED".into(),
            ),
            (
                "error password=hush123, retry=3".into(),
                "error password=REDACTED, retry=3".into(),
            ),
            (
                r#"{"api_key":"hush123","n":1}"#.into(),
                r#"{"api_key":"REDACTED","n":1}"#.into(),
            ),
            (
                r#"{"path":"/a?session=hush","n":1}"#.into(),
                r#"{"path":"/a?REDACTED","n":1}"#.into(),
            ),
            (
                r#"TCP http-request "GET /a?key=hush" FORWARDED"#.into(),
                r#"TCP http-request "GET /a?REDACTED" FORWARDED"#.into(),
            ),
            (
                "GET https://user:hush@api:6443/version".into(),
                "GET https://REDACTED@api:6443/version".into(),
            ),
            (
                r#"password: "hush 1 2", user: me"#.into(),
                r#"password: "REDACTED", user: me"#.into(),
            ),
            (
                "agent ready, 12 endpoints".into(),
                "agent ready, 12 endpoints".into(),
            ),
        ] {
            assert_eq!(text(&line), expected, "{line}");
        }
    }
}
