//! Runs the cases of a topic one after another over one lab.
//!
//! Understands of libtest's command line what `cargo test` users need: name filters, `--exact` and `--list`.

use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow};
use nix::unistd::Uid;

/// A claim and its proof.
pub struct Case<B> {
    /// The claim.
    pub name: &'static str,
    /// Proves it, or fails.
    pub run: fn(&mut B) -> Result<()>,
}

impl<B> Clone for Case<B> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            run: self.run,
        }
    }
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

    /// Why it cannot be made here; `None` if it can.
    fn missing() -> Option<String> {
        missing_privilege().map(str::to_owned)
    }

    /// What a failed case shows of the agent.
    fn log(&self) -> String;
}

/// Why labs cannot be made here; `None` if they can.
#[must_use]
pub fn missing_privilege() -> Option<&'static str> {
    (!Uid::effective().is_root()).then_some("not root: network namespaces, AF_XDP and BPF need it")
}

/// Runs the cases that the command line asks for.
#[must_use]
pub fn run<B: Bed>(cases: &[Case<B>]) -> ExitCode {
    run_with_gaps(cases, &[])
}

/// As [`run`], and then the known gaps: claims that do not hold yet, tried and shown as such. They count neither as passed nor as
/// failed.
#[must_use]
pub fn run_with_gaps<B: Bed>(cases: &[Case<B>], known_gaps: &[Case<B>]) -> ExitCode {
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
    let [wanted, gaps]: [Vec<&Case<B>>; 2] = [cases, known_gaps].map(|cases| {
        if has("--ignored") {
            Vec::new()
        } else {
            cases.iter().filter(is_wanted).collect()
        }
    });
    if has("--list") {
        for case in wanted.iter().chain(&gaps) {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    if wanted.is_empty() && gaps.is_empty() {
        println!("\nrunning 0 of {} tests", cases.len());
        return ExitCode::SUCCESS;
    }
    if let Some(reason) = B::missing() {
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
            println!("nothing to test on: {error:?}\n\ntest result: FAILED");
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
                println!("    agent's log:\n      {}", bed.log().replace('\n', "\n      "));
                failed.push(case.name);
            }
        }
    }
    for case in &gaps {
        match caught(|| (case.run)(&mut bed)) {
            Ok(()) => println!("known gap {} ... holds this time", case.name),
            Err(error) => println!(
                "known gap {} ... does not hold\n    {}",
                case.name,
                format!("{error:#}").replace('\n', "\n    ")
            ),
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
