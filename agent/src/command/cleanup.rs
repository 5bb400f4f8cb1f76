//! `sluice cleanup`

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use control::last_good;
use datapath::loader::Loader;

use crate::api::SOCKET_NAME;
use crate::cli::CleanupArgs;
use crate::cni::installation;
use crate::endpoint_registry::{self, EndpointRegistry};
use crate::handover;
use crate::node::tuning::{TuningError, TuningStep};
use crate::node::{Devices, Reconciler, napi, tuning};
use crate::supervisor::{self, SNAPSHOT_NAME};

/// Interfaces of pods that are still there.
async fn pod_interfaces(run_dir: &Path) -> anyhow::Result<Vec<String>> {
    let path = run_dir.join(endpoint_registry::FILE_NAME);
    let registry = match EndpointRegistry::open(&path, supervisor::ENDPOINTS) {
        Ok(registry) => registry,
        Err(error) => {
            eprintln!("sluice: queues and offloads of pods stay as they are: {error}");
            return Ok(Vec::new());
        }
    };
    let devices = Devices::new()?;
    let mut interfaces = Vec::new();
    for endpoint in registry.endpoints() {
        let interface = &endpoint.spec.interface;
        if devices.find(interface).await.is_some() {
            interfaces.push(interface.clone());
        }
    }
    Ok(interfaces)
}

/// Tells what could not be taken back at a pod's interface; a pod works with these settings, too.
fn report(interface: &str, step: TuningStep, outcome: Result<(), TuningError>) {
    if let Err(error) = outcome {
        eprintln!("sluice: {interface}: {step}: cannot be taken back: {error}");
    }
}

pub(super) async fn run(run_dir: &Path, args: &CleanupArgs) -> anyhow::Result<ExitCode> {
    let socket = run_dir.join(SOCKET_NAME);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        bail!("an agent is running on {}: stop it first", socket.display());
    }
    // First, so that no pod comes up by a plugin whose agent is gone.
    let uninstalled = installation::remove(args.cni_conf_dir.as_deref(), args.cni_bin_dir.as_deref())?;
    for path in uninstalled {
        eprintln!("sluice: removed {}", path.display());
    }
    // Routes before guards: at no time does the kernel have a way to a pod that is neither guarded nor wanted.
    let removed = Reconciler::new()?.remove_all().await?;
    let interfaces = pod_interfaces(run_dir).await?;
    for interface in &interfaces {
        // As long as there is XDP: without it a veth has no NAPI whose threads could be taken away.
        let outcome = napi::place(interface, None).await;
        report(interface, TuningStep::HostThreadedNapi, outcome);
    }
    Loader::remove_all(&args.bpffs)?;
    for interface in &interfaces {
        for (step, outcome) in tuning::restore(interface).await {
            report(interface, step, outcome);
        }
    }
    let snapshot = run_dir.join(SNAPSHOT_NAME);
    for path in [
        socket,
        run_dir.join(endpoint_registry::FILE_NAME),
        run_dir.join(handover::FILE_NAME),
        snapshot.with_added_extension(last_good::EXTENSION),
        snapshot.with_added_extension(last_good::OBJECTS_EXTENSION),
        snapshot,
        run_dir.join(supervisor::LOCK_NAME),
    ] {
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    // In a container it is a mount, and stays; so does what others have put there.
    let _ = fs::remove_dir(run_dir);
    eprintln!(
        "sluice: removed {removed} links, rules and routes, all programs and the state in {}",
        run_dir.display()
    );
    Ok(ExitCode::SUCCESS)
}
