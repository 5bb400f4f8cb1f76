//! `sluice-cni`: see [`sluice_cni`].
#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use sluice_cni::command;
use sluice_cni::config::Config;
use sluice_cni::error::{CniError, ErrorCode};
use sluice_cni::invocation::{Invocation, Operation};

/// Longest configuration, bytes: results of hundreds of interfaces.
const CONFIG_BYTES: u64 = 4 * 1024 * 1024;

/// Version of answers to configurations that cannot be read.
const FALLBACK_VERSION: &str = "1.0.0";

fn main() -> ExitCode {
    let started = Instant::now();
    let mut version = FALLBACK_VERSION.to_owned();
    let outcome = answer(started, &mut version);
    let (output, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(&version)), ExitCode::FAILURE),
    };
    let Some(output) = output else { return code };
    match writeln!(io::stdout(), "{output}") {
        Ok(()) => code,
        Err(error) => {
            eprintln!("sluice-cni: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads what the runtime wants and does it; `version` becomes that of the configuration.
fn answer(started: Instant, version: &mut String) -> Result<Option<Value>, CniError> {
    let invocation = Invocation::read(|name| std::env::var(name).ok())?;
    let mut input = Vec::new();
    io::stdin()
        .take(CONFIG_BYTES)
        .read_to_end(&mut input)
        .map_err(|error| CniError::new(ErrorCode::Io, format!("standard input: {error}")))?;
    let parsed = Config::parse(&input);
    if invocation.operation == Operation::Version {
        // Asked to find out whether the versions match.
        return Ok(Some(command::versions(
            parsed
                .as_ref()
                .map_or(FALLBACK_VERSION, |config| &config.cni_version),
        )));
    }
    let config = parsed?;
    version.clone_from(&config.cni_version);
    let outcome = command::run(&invocation, &config);
    log(&config, &invocation, outcome.as_ref().err(), started.elapsed());
    outcome
}

/// Appends a line to the log file. What the plugin does does not depend on it.
fn log(config: &Config, invocation: &Invocation, error: Option<&CniError>, took: Duration) {
    let Some(path) = &config.log_file else { return };
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let pod = invocation.pod.as_ref().map(ToString::to_string);
    let line = format!(
        "{}.{:03} {:?} pod={} container={} took={} ms: {}\n",
        time.as_secs(),
        time.subsec_millis(),
        invocation.operation,
        pod.as_deref().unwrap_or("-"),
        invocation.container_id,
        took.as_millis(),
        error.map_or("ok", |error| &error.message)
    );
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("sluice-cni: logFile: {}: {error}", path.display());
    }
}
