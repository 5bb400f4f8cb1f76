//! The running agent: one task owns the endpoints, the node's state, the dataplane and what control publishes.
//!
//! Start: node state, dataplane, host pairs, control, then the endpoints of the last run. Nothing opens earlier than it is safe: an
//! endpoint whose policy is not published yet drops everything. The agent leaves pins and node state behind when it ends, so that pods
//! stay cut off and not open; `sluice cleanup` removes them.

mod addresses;
mod cni;
mod endpoints;
mod handover;
mod status;
mod sweep;
mod tuner;
mod unenforced;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::{ApiServer, Control, ControlConfig, ControlHandle, KubernetesConfig};
use datapath::graph::GraphConfig;
use policy::{EndpointKey, Frontend, PodName, Slot, SlotGeneration, Snapshot};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::MissedTickBehavior;

use self::cni::Runtime;
use self::tuner::Tuner;
use self::unenforced::Unenforced;
use crate::api::{AgentState, Command, Server};
use crate::cli::AgentArgs;
use crate::dataplane::{Dataplane, DataplaneConfig};
use crate::endpoint_registry::{self, EndpointRegistry};
use crate::log;
use crate::metrics::MetricsServer;
use crate::node::{
    Devices, FORWARD_PAIR, HOST_PAIR, KEEPER_PAIR, NodeEvent, NodeMonitor, NodeState, Pair, Reconciler,
    conflict, napi,
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

/// The pairs that carry packets, and the slots of their inner ends.
const SERVED_PAIRS: [(&Pair, Slot); 2] = [(&HOST_PAIR, Slot::HOST), (&FORWARD_PAIR, Slot::FORWARD)];

/// Name of a pod's interface in its own namespace.
const POD_INTERFACE: &str = "eth0";

/// Runs the agent until it is told to end.
///
/// # Errors
/// It cannot start, or the node refuses what it cannot do without.
pub async fn run(run_dir: &Path, args: AgentArgs, worker_cpu: Option<usize>) -> anyhow::Result<ExitCode> {
    log::init();
    fs::create_dir_all(run_dir).with_context(|| format!("cannot create {}", run_dir.display()))?;
    let _lock = lock(run_dir).await?;
    let (state, commands) = AgentState::new();
    let mut supervisor = Supervisor::start(run_dir, &args, worker_cpu, state.clone()).await?;
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
    tuner: Tuner,
    /// Where what pods send is received, if not in softirqs.
    napi_cpu: Option<usize>,
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
    /// Index of the keeper that the UMEM is bound to.
    keeper: u32,
    monitor: NodeMonitor,
    terminate: Signal,
    interrupt: Signal,
    dataplane: Dataplane,
    control: ControlHandle,
    warnings: BTreeMap<Slot, Vec<String>>,
    node_warnings: Vec<String>,
    /// What went wrong at the start, and stays so.
    start_warnings: Vec<String>,
    repairs: u64,
    /// ClusterIPs that the last pass over the node's state led to the worker.
    served: BTreeSet<IpAddr>,
    runtime: Runtime,
    unenforced: Unenforced,
    /// Endpoints of the former agent that could not be served yet; the one that has waited longest comes first.
    cut_off: VecDeque<EndpointKey>,
}

impl Supervisor {
    async fn start(
        run_dir: &Path,
        args: &AgentArgs,
        worker_cpu: Option<usize>,
        state: AgentState,
    ) -> anyhow::Result<Self> {
        let devices = Devices::new()?;
        // Before anything on the node is touched.
        if args.kubernetes || args.cni.cni_conf_dir.is_some() || args.cni.cni_bin_dir.is_some() {
            conflict::refuse(&devices).await?;
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
            huge_pages: args.umem_huge_pages,
            spin: Duration::from_micros(u64::from(args.spin_us)),
            cpu: worker_cpu,
            graph: GraphConfig {
                translate_host: args.kube_proxy_replacement,
                ..GraphConfig::default()
            },
        };
        let keeper = devices.find(KEEPER_PAIR.inner).await;
        let keeper = keeper
            .with_context(|| format!("{} is missing", KEEPER_PAIR.inner))?
            .index;
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
        // Before the former agent's connections are taken: told to end from here on, it hands over what it took.
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut supervisor = Self {
            terminate,
            interrupt,
            node_name,
            source,
            tuner: Tuner::new(args.pod_tuning),
            napi_cpu: worker_cpu.filter(|_| args.worker_napi),
            audit: args.policy_audit_mode,
            excluded: args.excluded_namespaces.iter().cloned().collect(),
            kube_proxy_replacement: args.kube_proxy_replacement,
            state,
            registry,
            reconciler,
            devices,
            keeper,
            // Before endpoints are taken up: what goes away meanwhile is told of later, and not lost.
            monitor: NodeMonitor::new()?,
            dataplane,
            control,
            warnings: BTreeMap::new(),
            node_warnings: Vec::new(),
            start_warnings: Vec::new(),
            repairs: 0,
            served: BTreeSet::new(),
            runtime: Runtime::new(&args.cni),
            unenforced: Unenforced::default(),
            cut_off: VecDeque::new(),
        };
        if args.pin_worker && worker_cpu.is_none() {
            let warning = "the agent may use one CPU only: its worker has none to itself";
            supervisor.start_warnings.push(warning.to_owned());
        }
        if supervisor.napi_cpu.is_some() && !napi::sees_kernel_threads() {
            supervisor.napi_cpu = None;
            let warning =
                "--worker-napi does nothing: the kernel's threads are in the node's PID namespace (hostPID)";
            supervisor.start_warnings.push(warning.to_owned());
        }
        supervisor.follow_addresses().await;
        supervisor.inherit(run_dir);
        for (pair, slot) in SERVED_PAIRS {
            supervisor.serve_pair(pair, slot).await?;
        }
        supervisor.adopt().await?;
        supervisor.dataplane.adoption_ends()?;
        let published = Arc::clone(&supervisor.control.snapshots().borrow_and_update());
        supervisor.publish(published);
        Ok(supervisor)
    }

    /// Answers commands and follows control and the kernel until the process is told to end.
    async fn serve(&mut self, mut commands: mpsc::Receiver<Command>) -> anyhow::Result<()> {
        let mut snapshots = self.control.snapshots();
        // What was published while the node was prepared is news, too.
        snapshots.mark_changed();
        // The first tick is now.
        let mut ticks = tokio::time::interval(RECONCILE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.state.heartbeat.beat();
            tokio::select! {
                Some(command) = commands.recv() => self.obey(command).await,
                Ok(()) = snapshots.changed() => {
                    let snapshot = Arc::clone(&snapshots.borrow_and_update());
                    self.publish(snapshot);
                    if self.kube_proxy_replacement && self.services() != self.served {
                        self.reconcile().await;
                    }
                }
                event = self.monitor.next() => match event {
                    Some(NodeEvent::LinkRemoved { index, name }) => self.link_removed(index, &name).await,
                    Some(NodeEvent::Touched) => self.reconcile().await,
                    Some(NodeEvent::AddressesChanged) => self.follow_addresses().await,
                    Some(NodeEvent::Overrun) => {
                        self.follow_addresses().await;
                        self.reconcile().await;
                        self.sweep().await;
                    }
                    None => bail!("the kernel's notifications ended"),
                },
                _ = ticks.tick() => {
                    self.follow_addresses().await;
                    self.reconcile().await;
                    self.sweep().await;
                    self.retry_cut_off().await;
                    self.adopt_cached().await;
                    self.place_napi().await;
                    self.unenforced.has_adopted();
                    self.look_for_unenforced();
                }
                Some(tuned) = self.tuner.next() => self.tuned(tuned),
                _ = self.terminate.recv() => return Ok(()),
                _ = self.interrupt.recv() => return Ok(()),
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
                self.look_for_unenforced();
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
        if let Some(keeper) = self.devices.find(KEEPER_PAIR.inner).await
            && keeper.index != self.keeper
        {
            // The UMEM's own device is gone and no socket can be bound any more: only a new process can.
            tracing::error!(
                "{} was removed: ending, so that the agent is started anew",
                KEEPER_PAIR.outer
            );
            std::process::exit(1);
        }
        for (pair, slot) in SERVED_PAIRS {
            if let Err(error) = self.serve_pair(pair, slot).await {
                tracing::error!(error = format!("{error:#}"), "cannot serve {}", pair.inner);
                self.node_warnings.push(format!("{}: {error:#}", pair.inner));
            }
        }
    }

    /// Serves the inner end that a pair has now, if it is another one than that which is served.
    async fn serve_pair(&mut self, pair: &Pair, slot: Slot) -> anyhow::Result<()> {
        let inner = self.devices.find(pair.inner).await;
        let inner = inner.with_context(|| format!("{} is missing", pair.inner))?;
        let key = EndpointKey {
            slot,
            generation: SlotGeneration(0),
        };
        let served = self.dataplane.attached(key).map(|attached| attached.device.index);
        if served == Some(inner.index) {
            return Ok(());
        }
        block_in_place(|| {
            self.dataplane.stop(key)?;
            self.dataplane.attach_pair(pair, slot, &inner)
        })?;
        Ok(())
    }
}
