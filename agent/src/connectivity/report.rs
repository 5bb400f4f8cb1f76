//! What came of scenarios, and how it is told.

use super::probe::{Outcome, ProbeSpec};
use super::scenario::Expectation;
use crate::junit::{Case, Failure};

/// What has been tried.
#[derive(Debug, Default)]
pub struct Report {
    /// A case for each scenario.
    pub cases: Vec<Case>,
}

impl Report {
    /// Scenarios that hold.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.cases.len() - self.failed() - self.skipped()
    }

    /// Scenarios that do not.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.cases.iter().filter(|case| case.failure.is_some()).count()
    }

    /// Scenarios that could not be tried here.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.cases.iter().filter(|case| case.skipped.is_some()).count()
    }
}

/// A probe of a scenario.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) from: String,
    pub(super) spec: ProbeSpec,
    pub(super) expect: Expectation,
}

pub(super) fn failure(message: &str, lines: Vec<String>) -> Failure {
    let mut explanation = lines.join("\n");
    if !explanation.is_empty() {
        explanation.push('\n');
    }
    Failure {
        message: message.into(),
        explanation,
    }
}

/// `from -> METHOD url [headers]: expected X, seen Y`
pub(super) fn line(trial: &Trial, outcome: &Outcome) -> String {
    let method = trial.spec.method.as_ref().map(|method| format!("{method} "));
    let headers: Vec<_> = trial
        .spec
        .headers
        .iter()
        .map(|(name, value)| format!(" {name}: {value}"))
        .collect();
    let seen = match outcome {
        Outcome::Answered {
            status: Some(status),
            echo: Some(echo),
        } => {
            format!("status {status} to {}", echo.from)
        }
        Outcome::Answered {
            status: Some(status), ..
        } => format!("status {status}"),
        Outcome::Answered { status: None, .. } => "an answer".into(),
        Outcome::Spread { servers } => {
            let servers: Vec<_> = servers.iter().map(String::as_str).collect();
            format!("answers by {}", servers.join(" and "))
        }
        Outcome::TimedOut => "silence".into(),
        other => serde_json::to_string(other).unwrap_or_default(),
    };
    format!(
        "{} -> {}{}{}: expected {}, seen {seen}",
        trial.from,
        method.unwrap_or_default(),
        trial.spec.url,
        headers.concat(),
        trial.expect
    )
}
