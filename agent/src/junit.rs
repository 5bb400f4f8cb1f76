//! JUnit reports, in the form that CI systems read (`testsuites`, `testsuite`, `testcase`, `failure`).

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

/// A test, or a flow of an expectation.
#[derive(Debug)]
pub struct Case {
    /// Its name; where an expectation has several flows, which one.
    pub name: String,
    /// What is wrong; none if it holds.
    pub failure: Option<Failure>,
    /// Why it was not made, if it was not.
    pub skipped: Option<String>,
}

/// A test that did not pass.
#[derive(Debug)]
pub struct Failure {
    /// In one line.
    pub message: String,
    /// Why.
    pub explanation: String,
}

/// A report of the one suite that `command` ran.
///
/// # Errors
/// None but those of the XML writer, which writes to memory.
pub fn report(command: &str, suite: &str, cases: &[Case]) -> io::Result<Vec<u8>> {
    let tests = cases.len().to_string();
    let failures = cases
        .iter()
        .filter(|case| case.failure.is_some())
        .count()
        .to_string();
    let skipped = cases
        .iter()
        .filter(|case| case.skipped.is_some())
        .count()
        .to_string();
    let suite = printable(suite);
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let mut counts = vec![
        ("tests", tests.as_str()),
        ("failures", failures.as_str()),
        ("errors", "0"),
    ];
    if skipped != "0" {
        counts.push(("skipped", skipped.as_str()));
    }
    writer
        .create_element("testsuites")
        .with_attributes([("name", command)])
        .with_attributes(counts.clone())
        .write_inner_content(|writer| {
            writer
                .create_element("testsuite")
                .with_attributes([("name", suite.as_str())])
                .with_attributes(counts.clone())
                .write_inner_content(|writer| {
                    cases.iter().try_for_each(|case| write_case(writer, &suite, case))
                })?;
            Ok(())
        })?;
    let mut report = writer.into_inner();
    report.push(b'\n');
    Ok(report)
}

fn write_case(writer: &mut Writer<Vec<u8>>, suite: &str, case: &Case) -> io::Result<()> {
    let name = printable(&case.name);
    let element = writer
        .create_element("testcase")
        .with_attributes([("name", name.as_str()), ("classname", suite)]);
    match (&case.failure, &case.skipped) {
        (None, Some(reason)) => element.write_inner_content(|writer| {
            let skipped = writer.create_element("skipped");
            skipped
                .with_attribute(("message", printable(reason).as_str()))
                .write_empty()?;
            Ok(())
        })?,
        (None, None) => element.write_empty()?,
        (Some(failure), _) => element.write_inner_content(|writer| {
            let message = printable(&failure.message);
            writer
                .create_element("failure")
                .with_attributes([("message", message.as_str())])
                .write_text_content(BytesText::new(&printable(&failure.explanation)))?;
            Ok(())
        })?,
    };
    Ok(())
}

/// Characters that XML 1.0 cannot say (section 2.2) are replaced.
fn printable(text: &str) -> String {
    let allowed =
        |c: char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    text.chars()
        .map(|c| if allowed(c) { c } else { '\u{fffd}' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_was_not_made_is_counted_and_told_why() {
        let case = Case {
            name: "n".into(),
            failure: None,
            skipped: Some("one node".into()),
        };
        let text = String::from_utf8(report("sluice", "s", &[case]).unwrap()).unwrap();
        assert!(
            text.contains(r#"tests="1" failures="0" errors="0" skipped="1""#),
            "{text}"
        );
        assert!(text.contains(r#"<skipped message="one node"/>"#), "{text}");
    }

    #[test]
    fn names_from_users_cannot_break_out_of_the_report() {
        let case = Case {
            name: "\"><x a='&\u{1}".into(),
            failure: Some(Failure {
                message: "<&\">".into(),
                explanation: "]]></failure>".into(),
            }),
            skipped: None,
        };
        let text = String::from_utf8(report("sluice", "s", &[case]).unwrap()).unwrap();
        assert!(
            !text.contains("<x") && !text.contains('\u{1}') && !text.contains("]]></failure></failure>"),
            "{text}"
        );
        assert!(text.contains("&quot;&gt;&lt;x a=&apos;&amp;\u{fffd}"), "{text}");
    }
}
