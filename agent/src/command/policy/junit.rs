//! JUnit reports, in the form that CI systems read (`testsuites`, `testsuite`, `testcase`, `failure`).

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::test::Case;

/// A report of one suite.
///
/// # Errors
/// None but those of the XML writer, which writes to memory.
pub fn report(suite: &str, cases: &[Case]) -> io::Result<Vec<u8>> {
    let tests = cases.len().to_string();
    let failures = cases
        .iter()
        .filter(|case| case.failure.is_some())
        .count()
        .to_string();
    let suite = printable(suite);
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let counts = [
        ("tests", tests.as_str()),
        ("failures", failures.as_str()),
        ("errors", "0"),
    ];
    writer
        .create_element("testsuites")
        .with_attributes([("name", "sluice policy test")])
        .with_attributes(counts)
        .write_inner_content(|writer| {
            writer
                .create_element("testsuite")
                .with_attributes([("name", suite.as_str())])
                .with_attributes(counts)
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
    match &case.failure {
        None => element.write_empty()?,
        Some(failure) => element.write_inner_content(|writer| {
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
    use crate::command::policy::test::Failure;

    #[test]
    fn names_from_users_cannot_break_out_of_the_report() {
        let case = Case {
            name: "\"><x a='&\u{1}".into(),
            failure: Some(Failure {
                message: "<&\">".into(),
                explanation: "]]></failure>".into(),
            }),
        };
        let text = String::from_utf8(report("s", &[case]).unwrap()).unwrap();
        assert!(
            !text.contains("<x") && !text.contains('\u{1}') && !text.contains("]]></failure></failure>"),
            "{text}"
        );
        assert!(text.contains("&quot;&gt;&lt;x a=&apos;&amp;\u{fffd}"), "{text}");
    }
}
