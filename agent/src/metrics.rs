//! Prometheus metrics over HTTP.
//!
//! Nothing is counted here: each scrape asks for the agent's [`Status`] and renders it, so that metrics and `sluice status`
//! cannot disagree. `/healthz` answers 200 while the agent's state has an owner.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use policy::Direction;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::api::{AgentState, Command, Status};

/// Connections at a time; a further one takes the place of the oldest. Whoever opens many must not keep the kubelet from asking
/// whether the agent lives.
const CONNECTIONS: usize = 16;

/// Age of the last heartbeat of an agent that is stuck: its turns are seconds, and the next comes with the next tick.
const DEAD: Duration = Duration::from_secs(90);

/// Longest life of a connection.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// OpenMetrics 1.0.0, section "Overall Structure".
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics on {address}: {source}")]
pub struct MetricsError {
    /// The address asked for.
    pub address: SocketAddr,
    /// The reason.
    pub source: io::Error,
}

/// A bound listener.
#[derive(Debug)]
pub struct MetricsServer {
    listener: TcpListener,
}

impl MetricsServer {
    /// Binds `address`.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub async fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| MetricsError { address, source })?;
        Ok(Self { listener })
    }

    /// The address bound, for port 0.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped.
    pub async fn serve<S: MetricsSource>(self, source: S) {
        let mut connections = VecDeque::with_capacity(CONNECTIONS);
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a metrics client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let source = source.clone();
            connections.retain(|connection: &AbortOnDrop| !connection.0.is_finished());
            if connections.len() == CONNECTIONS {
                connections.pop_front();
            }
            let connection = tokio::spawn(async move {
                let service = service_fn(|request| {
                    let source = source.clone();
                    async move { Ok::<_, Infallible>(answer(&request, &source).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(CONNECTION_TIME)
                    .serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIME, connection).await {
                    tracing::debug!(%error, "metrics client went away");
                }
            });
            connections.push_back(AbortOnDrop(connection));
        }
    }
}

/// A connection's task; ends with its place.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is served.
pub trait MetricsSource: Clone + Send + Sync + 'static {
    /// Why there are no metrics.
    type Error: fmt::Display + Send;

    /// Metrics in OpenMetrics text format.
    fn scrape(&self) -> impl Future<Output = Result<String, Self::Error>> + Send;

    /// Whether it lives, for `/healthz`; told without waiting for anybody.
    fn is_alive(&self) -> bool;
}

impl MetricsSource for AgentState {
    type Error = crate::api::ApiError;

    async fn scrape(&self) -> Result<String, Self::Error> {
        self.ask(Command::Status).await.map(render)
    }

    fn is_alive(&self) -> bool {
        self.heartbeat.age() < DEAD
    }
}

async fn answer<B, S: MetricsSource>(request: &Request<B>, source: &S) -> Response<Full<Bytes>> {
    let text = "text/plain";
    let (status, content_type, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match source.scrape().await {
            Ok(metrics) => (StatusCode::OK, OPEN_METRICS, metrics),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("{error}\n")),
        },
        (&Method::GET, "/healthz") if source.is_alive() => (StatusCode::OK, text, "ok\n".to_owned()),
        (&Method::GET, "/healthz") => (StatusCode::SERVICE_UNAVAILABLE, text, "stuck\n".to_owned()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, text, "try /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, text, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    response
}

/// `status` in OpenMetrics text format.
#[must_use]
pub fn render(status: Status) -> String {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Scrape(status)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Scrape(Status);

type Labels = Vec<(&'static str, String)>;

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        if labels.is_empty() {
            return encode_value(kind, value, metric);
        }
        encode_value(kind, value, metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_value(kind: MetricType, value: u64, metric: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(metric),
        _ => ConstGauge::new(value).encode(metric),
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        use MetricType::{Counter, Gauge};
        let status = &self.0;
        let e = &mut encoder;
        let single = |value: u64| [(Labels::new(), value)];

        let drops = status.drops.iter().map(|drop| {
            let direction = drop.direction.map_or("none", Direction::name);
            let labels = vec![
                ("reason", drop.reason.clone()),
                ("code", drop.code.to_string()),
                ("direction", direction.to_owned()),
            ];
            (labels, drop.packets)
        });
        family(
            e,
            Counter,
            "drops",
            "Packets and requests dropped, by reason and policy direction",
            drops,
        )?;
        let audited = [
            ("ingress", status.audited.ingress),
            ("egress", status.audited.egress),
        ];
        let audited = audited.map(|(direction, value)| (vec![("direction", direction.to_owned())], value));
        family(
            e,
            Counter,
            "policy_audited",
            "Flows and HTTP requests that policy denies and that passed in audit mode",
            audited,
        )?;
        family(
            e,
            Counter,
            "forwarded_packets",
            "Packets sent on",
            single(status.forwarded),
        )?;
        let stages = status
            .stages
            .iter()
            .map(|s| (vec![("stage", s.stage.clone())], s.packets));
        family(
            e,
            Counter,
            "stage_packets",
            "Packets that entered a stage of the workers",
            stages,
        )?;

        let pods = |value: fn(&crate::api::status::EndpointStatus) -> u64| {
            status.endpoints.iter().map(move |endpoint| {
                let pod = &endpoint.endpoint.spec.pod;
                (
                    vec![("namespace", pod.namespace.clone()), ("pod", pod.name.clone())],
                    value(endpoint),
                )
            })
        };
        family(
            e,
            Counter,
            "endpoint_forwarded_packets",
            "Packets of a pod sent on",
            pods(|p| p.forwarded),
        )?;
        family(
            e,
            Counter,
            "endpoint_dropped_packets",
            "Packets of a pod dropped",
            pods(|p| p.dropped),
        )?;
        family(
            e,
            Gauge,
            "endpoint_ready",
            "Whether a pod's packets flow",
            pods(|p| u64::from(p.is_ready)),
        )?;
        let count = u64::try_from(status.endpoints.len()).unwrap_or(u64::MAX);
        family(e, Gauge, "endpoints", "Local pods under policy", single(count))?;
        let count = u64::try_from(status.unenforced_pods.len()).unwrap_or(u64::MAX);
        family(
            e,
            Gauge,
            "unenforced_pods",
            "Local pods of the API server that are under no policy",
            single(count),
        )?;
        let count = u64::try_from(status.adoption_problems.len()).unwrap_or(u64::MAX);
        family(
            e,
            Gauge,
            "adoption_problems",
            "Pods of the runtime's cache that could not be put under policy",
            single(count),
        )?;

        let workers = |value: fn(&crate::api::status::WorkerStatus) -> u64| {
            status
                .workers
                .iter()
                .map(move |w| (vec![("worker", w.id.to_string())], value(w)))
        };
        family(
            e,
            Counter,
            "worker_received_packets",
            "Packets received",
            workers(|w| w.received),
        )?;
        family(
            e,
            Counter,
            "worker_transmitted_packets",
            "Packets transmitted",
            workers(|w| w.transmitted),
        )?;
        family(
            e,
            Counter,
            "worker_receive_dropped_packets",
            "Packets that found no frame",
            workers(|w| w.receive_dropped),
        )?;
        family(
            e,
            Counter,
            "worker_transmit_dropped_packets",
            "Packets that found no room in their interface's queue",
            workers(|w| w.transmit_dropped),
        )?;
        family(
            e,
            Counter,
            "worker_lost_events",
            "Flow events lost",
            workers(|w| w.lost_events),
        )?;
        family(
            e,
            Counter,
            "worker_held_packets",
            "First packets held because their peer was not known yet",
            workers(|w| w.held_packets),
        )?;
        family(
            e,
            Counter,
            "worker_adopted_flows",
            "Connections older than the agent that went on",
            workers(|w| w.adopted_flows),
        )?;
        family(
            e,
            Counter,
            "worker_lost_affinities",
            "New flows to Services with session affinity that found its table full",
            workers(|w| w.lost_affinities),
        )?;
        family(
            e,
            Gauge,
            "worker_revision",
            "Revision that a worker enforces",
            workers(|w| w.revision),
        )?;
        family(
            e,
            Gauge,
            "conntrack_entries",
            "Conntrack entries in use",
            workers(|w| w.flows),
        )?;
        family(
            e,
            Gauge,
            "conntrack_capacity",
            "Conntrack entries there is room for",
            workers(|w| w.flow_capacity),
        )?;

        let frames = &status.frames;
        let frames = [
            ("free", frames.free),
            ("rings", frames.in_rings),
            ("held", frames.held),
        ];
        let frames = frames.map(|(state, value)| (vec![("state", state.to_owned())], value));
        family(e, Gauge, "frames", "UMEM frames by owner", frames)?;
        family(
            e,
            Gauge,
            "frames_capacity",
            "UMEM frames",
            single(status.frames.total),
        )?;

        family(
            e,
            Gauge,
            "policy_revision",
            "Revision published last",
            single(status.revision),
        )?;
        let problems = u64::try_from(status.source.problems.len()).unwrap_or(u64::MAX);
        family(
            e,
            Gauge,
            "policy_problems",
            "Objects that were refused",
            single(problems),
        )?;
        let compiled = &status.source.compiled;
        family(
            e,
            Gauge,
            "policy_rules",
            "Rules that select a local pod",
            single(compiled.rules),
        )?;
        family(
            e,
            Gauge,
            "policy_decisions",
            "Decisions in all policy tables, each of some 30 bytes",
            single(compiled.decisions),
        )?;
        family(
            e,
            Counter,
            "node_repairs",
            "Repairs of node state",
            single(status.repairs),
        )?;
        family(
            e,
            Gauge,
            "ready",
            "Whether policies are enforced everywhere",
            single(u64::from(status.is_ready)),
        )
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::api::status::{AuditCount, CompiledSize, DropCount, SourceStatus, WorkerStatus};

    fn status() -> Status {
        Status {
            is_ready: true,
            revision: 7,
            source: SourceStatus {
                compiled: CompiledSize {
                    decisions: 12,
                    ..CompiledSize::default()
                },
                ..SourceStatus::default()
            },
            forwarded: 41,
            drops: vec![DropCount {
                code: 133,
                reason: "Policy denied".into(),
                direction: Some(Direction::Ingress),
                packets: 3,
            }],
            audited: AuditCount {
                ingress: 5,
                egress: 0,
            },
            workers: vec![WorkerStatus {
                id: 0,
                revision: 6,
                ..WorkerStatus::default()
            }],
            unenforced_pods: vec!["app/open".parse().unwrap()],
            ..Status::default()
        }
    }

    #[test]
    fn metrics_show_what_status_shows() {
        let text = render(status());
        for line in [
            r#"sluice_drops_total{reason="Policy denied",code="133",direction="ingress"} 3"#,
            "sluice_forwarded_packets_total 41",
            r#"sluice_policy_audited_total{direction="ingress"} 5"#,
            r#"sluice_policy_audited_total{direction="egress"} 0"#,
            "sluice_policy_revision 7",
            "sluice_policy_decisions 12",
            r#"sluice_worker_revision{worker="0"} 6"#,
            "sluice_unenforced_pods 1",
            "sluice_adoption_problems 0",
            "sluice_ready 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in:\n{text}");
        }
    }

    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn scrape_asks_the_owner_and_other_paths_are_not_found() {
        let (state, mut commands) = AgentState::new();
        let server = MetricsServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local_addr().unwrap();
        let serving = tokio::spawn(server.serve(state));
        let owner = tokio::spawn(async move {
            while let Some(Command::Status(answer)) = commands.recv().await {
                answer.send(status()).unwrap();
            }
        });
        let ask = |method: &str, path: &str| {
            format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        };
        let answer = get(address, &ask("GET", "/metrics")).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("sluice_ready 1"),
            "{answer}"
        );
        assert!(
            get(address, &ask("GET", "/healthz"))
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(get(address, &ask("GET", "/")).await.starts_with("HTTP/1.1 404"));
        assert!(
            get(address, &ask("POST", "/metrics"))
                .await
                .starts_with("HTTP/1.1 405")
        );
        // Whoever opens connections and says nothing does not keep others out, nor does an owner that is busy.
        let mut silent = Vec::new();
        for _ in 0..4 * CONNECTIONS {
            silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        owner.abort();
        // The owner's end is dropped with it.
        let _aborted = owner.await;
        assert!(
            get(address, &ask("GET", "/metrics"))
                .await
                .starts_with("HTTP/1.1 503")
        );
        assert!(
            get(address, &ask("GET", "/healthz"))
                .await
                .starts_with("HTTP/1.1 200")
        );
        serving.abort();
    }
}
