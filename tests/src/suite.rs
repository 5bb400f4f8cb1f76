//! Runs the cases of a topic one after another over one lab.
//!
//! Understands of libtest's command line what `cargo test` users need: name filters, `--exact` and `--list`.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use nix::unistd::Uid;

use crate::lab::Lab;

/// A claim and its proof.
pub struct Case<B> {
    /// The claim.
    pub name: &'static str,
    /// Proves it, or fails.
    pub run: fn(&mut B) -> Result<()>,
}

impl<B> std::fmt::Debug for Case<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Cases named like their functions.
#[macro_export]
macro_rules! cases {
    ($($function:ident),* $(,)?) => {
        &[$($crate::suite::Case { name: stringify!($function), run: $function }),*]
    };
}

/// What a case works on.
pub trait Bed: Sized {
    /// Makes it.
    ///
    /// # Errors
    /// The lab does not come up.
    fn prepare() -> Result<Self>;

    /// Its lab.
    fn lab(&self) -> &Lab;
}

/// Why labs cannot be made here; `None` if they can.
#[must_use]
pub fn missing_privilege() -> Option<&'static str> {
    (!Uid::effective().is_root()).then_some("not root: network namespaces, AF_XDP and BPF need it")
}

/// Runs the cases that the command line asks for.
#[must_use]
pub fn run<B: Bed>(cases: &[Case<B>]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_wanted = |case: &&Case<B>| {
        filters.is_empty()
            || filters.iter().any(|filter| {
                if has("--exact") {
                    case.name == *filter
                } else {
                    case.name.contains(*filter)
                }
            })
    };
    // Nothing here is ignored by default.
    let wanted: Vec<&Case<B>> = if has("--ignored") {
        Vec::new()
    } else {
        cases.iter().filter(is_wanted).collect()
    };
    if has("--list") {
        for case in wanted {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if wanted.is_empty() {
        println!("\nrunning 0 of {} tests", cases.len());
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = missing_privilege() {
        if env::var_os("SLUICE_REQUIRE_ROOT").is_some_and(|value| value == "1") {
            eprintln!("FAILED: {reason}");
            return ExitCode::FAILURE;
        }
        println!("\n{} tests skipped: {reason}", wanted.len());
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} of {} tests", wanted.len(), cases.len());
    let mut bed = match caught(B::prepare) {
        Ok(bed) => bed,
        Err(error) => {
            println!("the lab does not come up: {error:?}\n\ntest result: FAILED");
            return ExitCode::FAILURE;
        }
    };
    let mut failed = Vec::new();
    for case in &wanted {
        let started = Instant::now();
        let outcome = caught(|| (case.run)(&mut bed));
        let seconds = started.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("test {} ... ok ({seconds:.1} s)", case.name),
            Err(error) => {
                println!("test {} ... FAILED ({seconds:.1} s)", case.name);
                println!("    {}", format!("{error:#}").replace('\n', "\n    "));
                println!(
                    "    agent's log:\n      {}",
                    bed.lab().agent_log().replace('\n', "\n      ")
                );
                failed.push(case.name);
            }
        }
    }
    let passed = wanted.len() - failed.len();
    if failed.is_empty() {
        println!("\ntest result: ok. {passed} passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    println!(
        "\nfailures: {}\n\ntest result: FAILED. {passed} passed; {} failed",
        failed.join(", "),
        failed.len()
    );
    ExitCode::FAILURE
}

/// A panic is a failure of its case only.
fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panicked| {
        let text = panicked.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panicked.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow!(
            "panicked: {}",
            text.unwrap_or_else(|| "with no message".into())
        ))
    })
}
