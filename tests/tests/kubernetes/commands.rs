//! The commands that look at a whole cluster.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_e2e::cases;
use sluice_e2e::cluster::success;
use sluice_e2e::suite::Case;

use crate::bed::{Installed, PodSpec};

pub const CASES: &[Case<Installed>] = cases![
    status_of_the_cluster_names_every_node_and_waits_for_all_of_them,
    preflight_of_the_cluster_finds_nothing_in_the_way,
    sysdump_has_every_agents_part_and_no_secret,
];

const NAMESPACE: &str = "e2e-commands";

/// What nobody may read in a dump.
const SECRET: &str = "open-sesame-4711";

fn json(what: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("{what}: {text}"))
}

fn status_of_the_cluster_names_every_node_and_waits_for_all_of_them(bed: &mut Installed) -> Result<()> {
    let arguments = ["status", "--cluster", "--wait", "--timeout", "120"];
    let text = success("status", &bed.cluster.sluice(&arguments)?)?;
    for node in &bed.nodes {
        ensure!(text.contains(node.as_str()), "no word of {node}: {text}");
    }
    let output = bed.cluster.sluice(&["status", "--cluster", "-o", "json"])?;
    let status = json("status", &success("status", &output)?)?;
    ensure!(status["is_ready"] == true, "{status}");
    Ok(())
}

fn preflight_of_the_cluster_finds_nothing_in_the_way(bed: &mut Installed) -> Result<()> {
    let text = success("preflight", &bed.cluster.sluice(&["preflight", "--cluster"])?)?;
    ensure!(text.contains(" 0 errors, 0 warnings"), "{text}");
    Ok(())
}

fn sysdump_has_every_agents_part_and_no_secret(bed: &mut Installed) -> Result<()> {
    bed.namespace(NAMESPACE)?;
    bed.pods(NAMESPACE, &[PodSpec::idle("idle", "app: idle", &bed.nodes[0])])?;
    bed.cluster.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: key, namespace: {NAMESPACE}}}\nstringData: {{key: {SECRET}}}\n"
    ))?;
    let annotation = format!("example.org/password={SECRET}");
    bed.kubectl(&["-n", NAMESPACE, "annotate", "pod", "idle", &annotation])?;
    let folder = std::env::temp_dir().join(format!("sluice-e2e-sysdump-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let outcome = look_into_dump(bed, &folder);
    std::fs::remove_dir_all(&folder)?;
    outcome?;
    bed.leave_namespace(NAMESPACE)
}

fn look_into_dump(bed: &Installed, folder: &std::path::Path) -> Result<()> {
    let file = folder.join("dump.tar.gz").display().to_string();
    let output = bed.cluster.sluice(&["sysdump", "--output-file", &file])?;
    success("sysdump", &output)?;
    let output = Command::new("tar")
        .args(["-xzf", &file, "-C"])
        .arg(folder)
        .output()?;
    success("tar", &output)?;
    std::fs::remove_file(&file)?;
    let folder = folder.display().to_string();
    let found = Command::new("find").args([&folder, "-type", "f"]).output()?;
    let files = success("find", &found)?;
    for node in &bed.nodes {
        let of_node = |part: &str| {
            files
                .lines()
                .any(|line| line.contains(node.as_str()) && line.contains(part))
        };
        for part in ["status", "flows", "metrics"] {
            ensure!(of_node(part), "no {part} of {node}: {files}");
        }
    }
    let found = Command::new("grep").args(["-rl", SECRET, &folder]).output()?;
    ensure!(
        found.stdout.is_empty(),
        "the secret is in {}",
        String::from_utf8_lossy(&found.stdout)
    );
    // What tells that the search can find something: the pod that has the annotation.
    let found = Command::new("grep")
        .args(["-rl", "example.org/password", &folder])
        .output()?;
    ensure!(!found.stdout.is_empty(), "the pod is not in the dump");
    Ok(())
}
