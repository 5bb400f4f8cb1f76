//! The running agent: one task owns the endpoints, the node's state, the dataplane and what control publishes.
//!
//! Start: node state, dataplane, host pairs, control, then the endpoints of the last run. Nothing opens earlier than it is safe: an
//! endpoint whose policy is not published yet drops everything. The agent leaves pins and node state behind when it ends, so that pods
//! stay cut off and not open; `sluice cleanup` removes them.

mod cni;
mod handover;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::{ApiServer, Control, ControlConfig, ControlHandle, KubernetesConfig, LocalEndpoint};
use datapath::graph::GraphConfig;
use policy::{EndpointKey, Frontend, PodName, Slot, Snapshot};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::block_in_place;

use self::cni::Runtime;
use crate::api::status::EndpointStatus;
use crate::api::{AgentState, ApiError, Command, ErrorCode, Server};
use crate::cli::{AgentArgs, PodTuning};
use crate::dataplane::{Dataplane, DataplaneConfig};
use crate::endpoint_registry::{
    self, Attachment, AuditMode, Endpoint, EndpointRegistry, EndpointSpec, RegistryError,
};
use crate::log;
use crate::metrics::MetricsServer;
use crate::node::{
    Devices, FORWARD_PAIR, HOST_PAIR, KEEPER_PAIR, NodeEvent, NodeMonitor, NodeState, Reconciler, cilium,
    tuning,
};
use crate::pump;

/// File of the last published snapshot in the run directory.
pub const SNAPSHOT_NAME: &str = "snapshot.json";

/// File that a running agent holds locked.
pub const LOCK_NAME: &str = "agent.lock";

/// How long a starting agent waits for the former one to be gone: closing a socket takes the kernel up to 40 ms, and there is
/// one per pod.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Between two tries.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Endpoints that the node may have: the XSKMAP's entries less those of the host pairs.
pub const ENDPOINTS: u16 = 4000;

/// How often node state is checked without a notification.
const RECONCILE: Duration = Duration::from_secs(30);

/// Name of a pod's interface in its own namespace.
const POD_INTERFACE: &str = "eth0";

/// Runs the agent until it is told to end.
///
/// # Errors
/// It cannot start, or the node refuses what it cannot do without.
pub async fn run(run_dir: &Path, args: AgentArgs) -> anyhow::Result<ExitCode> {
    log::init();
    fs::create_dir_all(run_dir).with_context(|| format!("cannot create {}", run_dir.display()))?;
    let _lock = lock(run_dir).await?;
    let (state, commands) = AgentState::new();
    let mut supervisor = Supervisor::start(run_dir, &args, state.clone()).await?;
    let server = Server::bind(run_dir)?;
    let metrics = MetricsServer::bind(args.metrics_address).await?;
    let worker = supervisor.dataplane.worker().clone();
    let mut tasks = vec![
        tokio::spawn({
            let state = state.clone();
            async move { server.serve(state).await }
        }),
        tokio::spawn(metrics.serve(state.clone())),
        tokio::spawn(pump::run(state.clone(), worker)),
    ];
    tasks.extend(supervisor.runtime.install(run_dir, &args.cni)?);
    tracing::info!(run_dir = %run_dir.display(), "sluice is running");
    let outcome = supervisor.serve(commands).await;
    if outcome.is_ok() {
        supervisor.hand_over(run_dir);
    }
    for task in tasks {
        task.abort();
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Takes the run directory. An agent that was killed holds it until the kernel has closed its sockets, so this waits a little.
async fn lock(run_dir: &Path) -> anyhow::Result<File> {
    let path = run_dir.join(LOCK_NAME);
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => tokio::time::sleep(LOCK_POLL).await,
            Err(TryLockError::WouldBlock) => bail!("another agent runs with {}", run_dir.display()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[derive(Debug)]
struct Supervisor {
    node_name: String,
    /// Where policies come from, for people.
    source: String,
    pod_tuning: PodTuning,
    /// `--policy-audit-mode`.
    audit: bool,
    /// `--exclude-namespace`.
    excluded: BTreeSet<String>,
    /// `--kube-proxy-replacement`.
    kube_proxy_replacement: bool,
    state: AgentState,
    registry: EndpointRegistry,
    reconciler: Reconciler,
    devices: Devices,
    dataplane: Dataplane,
    control: ControlHandle,
    warnings: BTreeMap<Slot, Vec<String>>,
    node_warnings: Vec<String>,
    /// Why nothing of the former agent's connections through Services is known.
    handover_problem: Option<String>,
    repairs: u64,
    /// ClusterIPs that the last pass over the node's state led to the worker.
    served: BTreeSet<IpAddr>,
    runtime: Runtime,
}

impl Supervisor {
    async fn start(run_dir: &Path, args: &AgentArgs, state: AgentState) -> anyhow::Result<Self> {
        let devices = Devices::new()?;
        // Before anything on the node is touched.
        if args.kubernetes || args.cni.cni_conf_dir.is_some() || args.cni.cni_bin_dir.is_some() {
            cilium::refuse(&devices).await?;
        }
        let registry = EndpointRegistry::open(&run_dir.join(endpoint_registry::FILE_NAME), ENDPOINTS)?;
        let mut reconciler = Reconciler::new()?.with_proc_sys_net(args.proc_sys_net.clone());
        // The pairs without any route yet: pods' routes come when their interfaces are closed.
        reconciler
            .reconcile(&NodeState::default())
            .await
            .context("cannot set up the node")?;
        let config = DataplaneConfig {
            frames: args.umem_frames,
            spin: Duration::from_micros(u64::from(args.spin_us)),
            graph: GraphConfig {
                translate_host: args.kube_proxy_replacement,
                ..GraphConfig::default()
            },
        };
        let dataplane = block_in_place(|| Dataplane::start(&args.bpffs, &config))?;
        let node_name = match &args.node_name {
            Some(name) => name.clone(),
            None => fs::read_to_string("/proc/sys/kernel/hostname")
                .context("host name")?
                .trim()
                .to_owned(),
        };
        let kubernetes = match args.kubernetes {
            true => Some(
                ApiServer::new(&KubernetesConfig {
                    kubeconfig: args.kubeconfig.clone(),
                })
                .await?,
            ),
            false => None,
        };
        let folder = args.manifests.as_ref().map(|folder| folder.display().to_string());
        let server = kubernetes
            .as_ref()
            .map(|server| format!("API server {}", server.url()));
        let source = folder.or(server).unwrap_or_default();
        let control = Control::start(ControlConfig {
            manifests: args.manifests.clone(),
            kubernetes,
            persist: Some(run_dir.join(SNAPSHOT_NAME)),
            node_name: node_name.clone(),
            node_addresses: args.node_addresses.clone(),
            pod_cidrs: args.pod_cidrs.clone(),
            ..ControlConfig::default()
        })
        .await;
        let mut supervisor = Self {
            node_name,
            source,
            pod_tuning: args.pod_tuning,
            audit: args.policy_audit_mode,
            excluded: args.excluded_namespaces.iter().cloned().collect(),
            kube_proxy_replacement: args.kube_proxy_replacement,
            state,
            registry,
            reconciler,
            devices,
            dataplane,
            control,
            warnings: BTreeMap::new(),
            node_warnings: Vec::new(),
            handover_problem: None,
            repairs: 0,
            served: BTreeSet::new(),
            runtime: Runtime::new(&args.cni),
        };
        supervisor.inherit(run_dir);
        supervisor.attach_pairs().await?;
        supervisor.adopt().await;
        let published = Arc::clone(&supervisor.control.snapshots().borrow_and_update());
        supervisor.publish(published);
        Ok(supervisor)
    }

    async fn attach_pairs(&mut self) -> anyhow::Result<()> {
        for pair in [&HOST_PAIR, &FORWARD_PAIR] {
            let inner = self
                .devices
                .find(pair.inner)
                .await
                .with_context(|| format!("{} is missing", pair.inner))?;
            block_in_place(|| self.dataplane.attach_pair(pair, &inner))
                .with_context(|| format!("cannot serve {}", pair.inner))?;
        }
        Ok(())
    }

    /// Takes the endpoints of the last run up again; those whose interface is gone, or whose namespace is excluded now, are forgotten.
    async fn adopt(&mut self) {
        let known: Vec<Endpoint> = self.registry.endpoints().cloned().collect();
        for endpoint in known {
            let is_gone = self.devices.is_gone(&endpoint.spec.interface).await;
            if is_gone || self.excluded.contains(&endpoint.spec.pod.namespace) {
                let why = if is_gone {
                    "interface is gone"
                } else {
                    "namespace is excluded"
                };
                tracing::info!(pod = %endpoint.spec.pod, "{why}: endpoint forgotten");
                self.forget(&endpoint).await;
                self.release(&endpoint.spec.interface);
                continue;
            }
            if let Err(error) = self.attach(&endpoint, true).await {
                tracing::error!(pod = %endpoint.spec.pod, error = format!("{error:#}"), "pod stays cut off");
                self.warnings
                    .entry(endpoint.key.slot)
                    .or_default()
                    .push(format!("{error:#}"));
            }
        }
        self.reconcile().await;
    }

    /// Answers commands and follows control and the kernel until the process is told to end.
    async fn serve(&mut self, mut commands: mpsc::Receiver<Command>) -> anyhow::Result<()> {
        let mut snapshots = self.control.snapshots();
        // What was published while the node was prepared is news, too.
        snapshots.mark_changed();
        let mut monitor = NodeMonitor::new()?;
        // The first tick is now.
        let mut ticks = tokio::time::interval(RECONCILE);
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        loop {
            tokio::select! {
                Some(command) = commands.recv() => self.obey(command).await,
                Ok(()) = snapshots.changed() => {
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    self.publish(snapshot);
                    if self.kube_proxy_replacement && self.services() != self.served {
                        self.reconcile().await;
                    }
                }
                event = monitor.next() => match event {
                    Some(NodeEvent::LinkRemoved { index, name }) => self.link_removed(index, &name).await,
                    Some(NodeEvent::Touched | NodeEvent::Overrun) => self.reconcile().await,
                    None => bail!("the kernel's notifications ended"),
                },
                _ = ticks.tick() => {
                    self.reconcile().await;
                    self.release_gone().await;
                    self.adopt_cached().await;
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        let pods: HashMap<IpAddr, PodName> = self.control.pod_addresses();
        self.state.names.store(Arc::new(pump::names(&snapshot, pods)));
        self.state.snapshot.store(Arc::clone(&snapshot));
        if let Err(error) = self.dataplane.worker().publish(snapshot) {
            tracing::warn!(%error, "the worker sees the new snapshot a little later");
        }
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked may have gone away; that is no error.
        match command {
            Command::Status(answer) => {
                answer.send(self.status()).ok();
            }
            Command::ListEndpoints(answer) => {
                answer.send(self.endpoints()).ok();
            }
            Command::AddEndpoint(spec, answer) => {
                answer.send(self.add(spec, false).await).ok();
            }
            Command::ConfigureEndpoint(pod, audit, answer) => {
                answer.send(self.configure(&pod, audit)).ok();
            }
            Command::DeleteEndpoint(pod, attachment, answer) => {
                answer.send(self.delete(&pod, attachment.as_ref()).await).ok();
            }
            Command::ExplainPolicy(question, answer) => {
                answer
                    .send(block_in_place(|| self.control.explain(&question)))
                    .ok();
            }
            Command::Synchronise(answer) => {
                let revision = self.control.rescan().await.0;
                let snapshot = Arc::clone(&self.control.snapshots().borrow());
                self.publish(snapshot);
                answer.send(revision).ok();
            }
        }
    }

    /// `adopted`: its pod was there before the agent.
    async fn add(&mut self, spec: EndpointSpec, adopted: bool) -> Result<EndpointStatus, ApiError> {
        if self.excluded.contains(&spec.pod.namespace) {
            let message = format!(
                "pod: namespace {} is excluded (--exclude-namespace)",
                spec.pod.namespace
            );
            return Err(ApiError::new(ErrorCode::Excluded, &message));
        }
        let device = self.devices.find(&spec.interface).await;
        if device.is_none() {
            return Err(ApiError::new(
                ErrorCode::InvalidArgument,
                &format!("interface: `{}` does not exist", spec.interface),
            ));
        }
        let known = self
            .registry
            .get(&spec.pod)
            .is_some_and(|endpoint| endpoint.spec == spec && self.dataplane.attached(endpoint.key).is_some());
        let endpoint = self.registry.add(spec).map_err(|error| refused(&error))?;
        if !known && let Err(error) = self.attach(&endpoint, adopted).await {
            self.detach(&endpoint).await;
            if endpoint.spec.attachment.is_none() {
                self.release(&endpoint.spec.interface);
            }
            return Err(ApiError::new(ErrorCode::Failed, &format!("{error:#}")));
        }
        Ok(self.endpoint_status(&endpoint))
    }

    fn configure(&mut self, pod: &PodName, audit: AuditMode) -> Result<EndpointStatus, ApiError> {
        let endpoint = self
            .registry
            .set_audit(pod, audit)
            .map_err(|error| refused(&error))?;
        tracing::info!(%pod, ?audit, "audit mode");
        self.introduce(&endpoint);
        Ok(self.endpoint_status(&endpoint))
    }

    /// Tells control of an endpoint, and the worker what came of it.
    fn introduce(&mut self, endpoint: &Endpoint) {
        let spec = &endpoint.spec;
        self.control.endpoint_add(LocalEndpoint {
            key: endpoint.key,
            pod: spec.pod.clone(),
            uid: spec.uid.clone(),
            addresses: spec.addresses().collect(),
            audit: endpoint.audit.audits(self.audit),
        });
        let snapshot = Arc::clone(&self.control.snapshots().borrow());
        self.publish(snapshot);
    }

    /// `attachment`: only if the endpoint is this one's.
    async fn delete(
        &mut self,
        pod: &PodName,
        attachment: Option<&Attachment>,
    ) -> Result<EndpointStatus, ApiError> {
        let not_found = |what: &str| ApiError::new(ErrorCode::NotFound, &format!("pod: {pod} {what}"));
        let Some(endpoint) = self.registry.get(pod).cloned() else {
            return Err(not_found("is no endpoint"));
        };
        if attachment.is_some() && attachment != endpoint.spec.attachment.as_ref() {
            return Err(not_found("is the endpoint of another attachment"));
        }
        let last = self.endpoint_status(&endpoint);
        self.detach(&endpoint).await;
        // The runtime removes the interface next; until it has, nothing must pass it.
        if attachment.is_none() {
            self.release(&endpoint.spec.interface);
        }
        Ok(last)
    }

    /// Guard, XDP with an empty slot, routes, socket, slot.
    async fn attach(&mut self, endpoint: &Endpoint, adopted: bool) -> anyhow::Result<()> {
        let spec = &endpoint.spec;
        let device = self
            .devices
            .find(&spec.interface)
            .await
            .with_context(|| format!("interface {} is gone", spec.interface))?;
        let mode = block_in_place(|| self.dataplane.close(endpoint, &device))?;
        self.reconcile().await;
        self.introduce(endpoint);
        block_in_place(|| self.dataplane.open(endpoint, &device, mode, adopted))?;
        let mut warnings = Vec::new();
        if self.pod_tuning != PodTuning::Off {
            let threaded = self.pod_tuning == PodTuning::Throughput;
            for (step, outcome) in
                tuning::tune(&spec.interface, spec.netns.as_deref(), POD_INTERFACE, threaded).await
            {
                if let Err(error) = outcome {
                    warnings.push(format!("{step}: {error}"));
                }
            }
        }
        self.warnings.insert(endpoint.key.slot, warnings);
        Ok(())
    }

    /// Everything back, in the opposite order, but for the programs: the interface stays closed until it is released. What fails is
    /// reported and the rest goes on.
    async fn detach(&mut self, endpoint: &Endpoint) {
        let interface = &endpoint.spec.interface;
        if let Err(error) = block_in_place(|| self.dataplane.stop(endpoint.key)) {
            tracing::error!(%interface, %error, "cannot stop serving");
        }
        self.forget(endpoint).await;
        self.reconcile().await;
    }

    /// Removes an endpoint from all books, routes last.
    async fn forget(&mut self, endpoint: &Endpoint) {
        self.control.endpoint_delete(endpoint.key);
        let snapshot = Arc::clone(&self.control.snapshots().borrow());
        self.publish(snapshot);
        if let Err(error) = self.registry.remove(&endpoint.spec.pod) {
            tracing::error!(pod = %endpoint.spec.pod, %error, "cannot forget the endpoint");
        }
        self.reconcile().await;
        self.warnings.remove(&endpoint.key.slot);
    }

    /// Lets an interface go that is no endpoint any more: from then on the kernel serves it.
    fn release(&mut self, interface: &str) {
        if let Err(error) = block_in_place(|| self.dataplane.release(interface)) {
            tracing::error!(%interface, %error, "cannot remove programs");
        }
    }

    /// Removes what is pinned of interfaces that are gone.
    async fn release_gone(&mut self) {
        let pinned = match block_in_place(|| self.dataplane.pinned()) {
            Ok(pinned) => pinned,
            Err(error) => {
                tracing::error!(%error, "cannot look for pins of interfaces that are gone");
                return;
            }
        };
        for interface in pinned {
            if self.registry.by_interface(&interface).is_none() && self.devices.is_gone(&interface).await {
                self.release(&interface);
            }
        }
    }

    async fn link_removed(&mut self, index: u32, name: &str) {
        let endpoint = self.registry.by_interface(name).cloned();
        match endpoint {
            Some(endpoint)
                if self
                    .dataplane
                    .attached(endpoint.key)
                    .is_none_or(|attached| attached.device.index == index) =>
            {
                tracing::info!(pod = %endpoint.spec.pod, interface = name, "interface is gone");
                self.detach(&endpoint).await;
                self.release(&endpoint.spec.interface);
            }
            _ => self.reconcile().await,
        }
        self.release_gone().await;
    }

    /// ClusterIPs that are served to the node's own processes.
    fn services(&self) -> BTreeSet<IpAddr> {
        let snapshots = self.control.snapshots();
        let snapshot = snapshots.borrow();
        let cluster_ips = snapshot
            .services
            .iter()
            .filter(|service| self.kube_proxy_replacement && service.frontend == Frontend::ClusterIp);
        cluster_ips.map(|service| service.key.addr).collect()
    }

    /// Brings the node to what the endpoints need, and serves the host pairs again if somebody removed them.
    async fn reconcile(&mut self) {
        let pods = self
            .registry
            .endpoints()
            .flat_map(|endpoint| endpoint.spec.addresses().collect::<Vec<_>>());
        self.served = self.services();
        let desired = NodeState {
            pods: pods.collect(),
            services: self.served.clone(),
            ..NodeState::default()
        };
        let report = match self.reconciler.reconcile(&desired).await {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(%error, "node state is not as it should be");
                self.node_warnings = vec![error.to_string()];
                return;
            }
        };
        self.repairs += report.repaired.len() as u64;
        self.node_warnings = report.warnings.iter().map(ToString::to_string).collect();
        if report.has_recreated(&KEEPER_PAIR) {
            // The UMEM's own device is gone and no socket can be bound any more: only a new process can.
            tracing::error!(
                "{} was removed: ending, so that the agent is started anew",
                KEEPER_PAIR.outer
            );
            std::process::exit(1);
        }
        for (pair, slot) in [(&HOST_PAIR, Slot::HOST), (&FORWARD_PAIR, Slot::FORWARD)] {
            if !report.has_recreated(pair) {
                continue;
            }
            let key = EndpointKey {
                slot,
                generation: policy::SlotGeneration(0),
            };
            let served = block_in_place(|| self.dataplane.stop(key));
            let inner = self.devices.find(pair.inner).await;
            let served = served.map_err(anyhow::Error::from).and_then(|()| {
                let inner = inner.with_context(|| format!("{} is missing", pair.inner))?;
                Ok(block_in_place(|| self.dataplane.attach_pair(pair, &inner))?)
            });
            if let Err(error) = served {
                tracing::error!(error = format!("{error:#}"), "cannot serve {}", pair.inner);
                self.node_warnings.push(format!("{}: {error:#}", pair.inner));
            }
        }
    }
}

fn refused(error: &RegistryError) -> ApiError {
    let code = match error {
        RegistryError::Full { .. } => ErrorCode::Exhausted,
        RegistryError::AddressInUse { .. }
        | RegistryError::InterfaceInUse { .. }
        | RegistryError::PodInUse { .. } => ErrorCode::Conflict,
        RegistryError::Io { .. } => ErrorCode::Failed,
        RegistryError::Unknown { .. } => ErrorCode::NotFound,
        _ => ErrorCode::InvalidArgument,
    };
    ApiError::new(code, error)
}
