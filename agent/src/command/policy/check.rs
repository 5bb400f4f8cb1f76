//! `sluice policy check`

use std::path::PathBuf;
use std::process::ExitCode;

use control::advice::{self, Advice};
use control::object::ObjectKey;
use control::{Index, ObjectError};
use serde::Serialize;

use super::manifests::{Manifests, fault_line};
use crate::cli::{CheckArgs, Output};
use crate::command::{print_json, print_line};

/// What `-o json` writes.
#[derive(Debug, Serialize)]
struct Report<'a> {
    faults: &'a [ObjectError],
    warnings: Vec<ObjectError>,
    objects: std::collections::BTreeMap<&'static str, usize>,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let manifests = Manifests::read(&args.manifests.manifests, &args.manifests.cluster)?;
    let advice = advice::advise(&manifests.index);
    let warnings: Vec<_> = advice
        .into_iter()
        .map(|advice| warning(&manifests, advice))
        .collect();
    let faults = manifests.faults();
    match args.output {
        Output::Json => {
            print_json(&Report {
                faults,
                warnings,
                objects: manifests.index.counts(),
            })?;
        }
        Output::Text => {
            for fault in faults {
                print_line(&fault_line(fault))?;
            }
            for warning in &warnings {
                print_line(&format!("{} (warning)", fault_line(warning)))?;
            }
            print_line(&format!(
                "{}: {}, {}",
                objects(&manifests.index),
                count(faults.len(), "fault"),
                count(warnings.len(), "warning")
            ))?;
        }
    }
    Ok(if faults.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn warning(manifests: &Manifests, advice: Advice) -> ObjectError {
    let Advice {
        object,
        rule,
        message,
    } = advice;
    let place = manifests.place(&object);
    ObjectError {
        file: place.map_or_else(PathBuf::new, |(file, _)| file.to_path_buf()),
        line: place.map(|(_, line)| line),
        field: rule,
        object: Some(ObjectKey::to_string(&object)),
        message,
    }
}

fn count(number: usize, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

fn objects(index: &Index) -> String {
    let policies = index.policies().len();
    let policies = if policies == 1 {
        "1 policy".to_owned()
    } else {
        format!("{policies} policies")
    };
    format!("{policies}, {}", count(index.pods().len(), "pod"))
}
