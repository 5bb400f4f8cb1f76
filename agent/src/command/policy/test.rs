//! `sluice policy test`: expectations against policies.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, bail};
use control::{Engine, ExplainError, Explanation, Outcome, Question};

use super::manifests::{Manifests, located_line};
use super::test_file::{self, Expectation};
use crate::cli::TestArgs;
use crate::command::print_line;
use crate::explanation;
use crate::junit::{self, Case, Failure};

pub(super) fn run(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let manifests = Manifests::read_valid(&args.manifests.manifests, &args.manifests.cluster)?;
    let text =
        fs::read_to_string(&args.tests).with_context(|| format!("cannot read {}", args.tests.display()))?;
    let expectations = match test_file::read(&text) {
        Ok(expectations) => expectations,
        Err(faults) => {
            let lines: Vec<_> = faults
                .iter()
                .map(|fault| located_line(&args.tests, fault))
                .collect();
            bail!("the tests have faults:\n{}", lines.join("\n"));
        }
    };
    let mut engine = Engine::new(&manifests.index);
    let cases: Vec<Case> = expectations
        .iter()
        .flat_map(|expectation| {
            expectation
                .questions
                .iter()
                .map(move |question| (expectation, question))
        })
        .map(|(expectation, question)| case(&mut engine, expectation, question))
        .collect();
    let mut failed = 0;
    for case in &cases {
        if let Some(failure) = &case.failure {
            failed += 1;
            print_line(&format!("FAILED {}: {}", case.name, failure.message))?;
            for line in failure.explanation.lines() {
                print_line(&format!("  {line}"))?;
            }
        }
    }
    print_line(&format!("{} passed, {failed} failed", cases.len() - failed))?;
    if let Some(path) = &args.junit {
        let suite = args.tests.display().to_string();
        let report =
            junit::report("sluice policy test", &suite, &cases).context("cannot make the JUnit report")?;
        fs::write(path, report).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn case(engine: &mut Engine<'_>, expectation: &Expectation, question: &Question) -> Case {
    let name = if expectation.questions.len() > 1 {
        format!("{} ({} -> {})", expectation.name, question.from, question.to)
    } else {
        expectation.name.clone()
    };
    let failure = match engine.explain(question) {
        Ok(explanations) => differs(expectation, &explanations),
        // Nobody is behind the Service, or it is not for this client: nothing passes.
        Err(
            ExplainError::NoBackend { .. }
            | ExplainError::NoSuchPort { .. }
            | ExplainError::OutsideSourceRanges { .. },
        ) if expectation.expect == Outcome::Deny && expectation.rule.is_none() => None,
        Err(error) => Some(Failure {
            message: error.to_string(),
            explanation: String::new(),
        }),
    };
    Case {
        name,
        failure,
        skipped: None,
    }
}

/// What is not as expected. Of a Service every backend must be: any of them may be chosen.
fn differs(expectation: &Expectation, explanations: &[Explanation]) -> Option<Failure> {
    explanations.iter().find_map(|explanation| {
        let (expected, got) = (expectation.expect, explanation.verdict);
        let rules = || {
            let sides = [&explanation.egress, &explanation.ingress].into_iter().flatten();
            sides
                .filter(|side| side.verdict.decides(got))
                .flat_map(|side| &side.rules)
        };
        let message = if got != expected {
            format!(
                "expected {}, got {} ({})",
                expected.name(),
                got.name(),
                explanation.reason.name()
            )
        } else {
            let wanted = expectation.rule.as_ref()?;
            if rules().any(|rule| rule.contains(wanted.as_str())) {
                return None;
            }
            format!(
                "{} as expected, but not decided by a rule with `{wanted}`",
                got.name()
            )
        };
        Some(Failure {
            message,
            explanation: explanation::text(explanation, false),
        })
    })
}
