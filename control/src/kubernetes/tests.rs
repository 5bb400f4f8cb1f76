//! The whole of control over an API server that the test plays.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Mutex;

use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use policy::{EndpointKey, Identity, Slot, SlotGeneration};
use serde_json::json;
use tower::service_fn;

use super::*;
use crate::index::LocalEndpoint;
use crate::service::{Control, ControlConfig, ControlHandle};

/// What the server has, and what it was asked for.
#[derive(Debug)]
struct Server {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    /// What its lists hold; its watches tell of nothing.
    pods: Vec<Value>,
    namespaces: Vec<Value>,
    /// Whether it answers nothing.
    is_away: bool,
    /// Paths of single objects that were asked for, and when.
    asked: Vec<(String, Instant)>,
}

impl Default for Server {
    fn default() -> Self {
        let db = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "db"}});
        Self {
            objects: BTreeMap::new(),
            pods: Vec::new(),
            namespaces: vec![db],
            is_away: false,
            asked: Vec::new(),
        }
    }
}

fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string().into_bytes()));
    *response.status_mut() = status;
    response
}

fn not_found() -> Response<Body> {
    let status = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound",
        "message": "not found", "code": 404});
    answer(StatusCode::NOT_FOUND, &status)
}

impl Server {
    /// `None`: it does not answer.
    fn answer(&mut self, path: &str, query: &str) -> Option<Response<Body>> {
        let list = |items: &[Value]| {
            let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items});
            answer(StatusCode::OK, &list)
        };
        if query.contains("watch=true") || self.is_away {
            return None;
        }
        Some(match path {
            "/version" => answer(
                StatusCode::OK,
                &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0",
                "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}),
            ),
            "/api/v1/pods" if query.contains("nodeName%3Down") => list(&self.pods),
            "/api/v1/namespaces" => list(&self.namespaces),
            "/api/v1/pods" | "/api/v1/nodes" | "/api/v1/services" => list(&[]),
            // Its own kinds are there and empty; no definition is installed.
            "/apis" => answer(
                StatusCode::OK,
                &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                    {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]}]}),
            ),
            "/apis/discovery.k8s.io/v1/endpointslices" | "/apis/networking.k8s.io/v1/networkpolicies" => {
                list(&[])
            }
            path if path.starts_with("/apis/") => not_found(),
            path => {
                self.asked.push((path.to_owned(), Instant::now()));
                match self.objects.get(path) {
                    Some(object) => answer(StatusCode::OK, object),
                    None => not_found(),
                }
            }
        })
    }
}

async fn control(server: &Arc<Mutex<Server>>) -> ControlHandle {
    let server = Arc::clone(server);
    let client = Client::new(
        service_fn(move |request: Request<Body>| {
            let uri = request.uri();
            let query = uri.query().unwrap_or_default();
            let answer = server.lock().unwrap().answer(uri.path(), query);
            async move {
                match answer {
                    Some(answer) => Ok::<_, Infallible>(answer),
                    None => std::future::pending().await,
                }
            }
        }),
        "default",
    );
    let config = ControlConfig {
        kubernetes: Some(ApiServer {
            client,
            url: "http://test".into(),
        }),
        node_name: "own".into(),
        ..ControlConfig::default()
    };
    let control = Control::start(config).await;
    let mut snapshots = control.snapshots();
    let listed = async {
        while snapshots.borrow_and_update().revision.0 == 0 {
            snapshots.changed().await.unwrap();
        }
    };
    time::timeout(Duration::from_secs(10), listed)
        .await
        .expect("everything is listed");
    control
}

const fn key(slot: u16) -> EndpointKey {
    EndpointKey {
        slot: Slot(slot),
        generation: SlotGeneration(1),
    }
}

fn attach(control: &ControlHandle, slot: u16, pod: &str) {
    control.endpoint_add(LocalEndpoint {
        key: key(slot),
        pod: format!("db/{pod}").parse().unwrap(),
        uid: Some("u-1".into()),
        addresses: vec![IpAddr::from([10, 1, 0, slot.to_be_bytes()[1]])],
        audit: false,
    });
}

fn is_known(control: &ControlHandle, slot: u16) -> bool {
    let snapshot = Arc::clone(&control.snapshots().borrow());
    snapshot.endpoint(key(slot)).unwrap().identity != Identity::INIT
}

fn pod(name: &str, uid: &str, node: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": node, "containers": []},
        "metadata": {"namespace": "db", "name": name, "uid": uid, "labels": {"app": "a"}}})
}

/// Makes the server answer for the pod.
fn put(server: &Mutex<Server>, name: &str, uid: &str, node: &str) {
    let path = format!("/api/v1/namespaces/db/pods/{name}");
    server.lock().unwrap().objects.insert(path, pod(name, uid, node));
}

fn asked(server: &Mutex<Server>) -> Vec<String> {
    let server = server.lock().unwrap();
    server.asked.iter().map(|(path, _)| path.clone()).collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_the_watch_does_not_tell_of_is_asked_for_once_and_known() {
    let server = Arc::new(Mutex::new(Server::default()));
    put(&server, "a", "u-1", "own");
    let control = control(&server).await;
    let attached = Instant::now();
    attach(&control, 8, "a");
    assert!(!is_known(&control, 8));
    until("the pod is known", || is_known(&control, 8)).await;
    let asked = std::mem::take(&mut server.lock().unwrap().asked);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].0, "/api/v1/namespaces/db/pods/a");
    assert!(
        asked[0].1 - attached >= Duration::from_secs(1),
        "the watch had its time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_about_a_pod_of_another_node_or_uid_or_none_makes_no_endpoint_ready() {
    let server = Arc::new(Mutex::new(Server::default()));
    put(&server, "elsewhere", "u-1", "other");
    put(&server, "former", "u-0", "own");
    put(&server, "own", "u-1", "own");
    let control = control(&server).await;
    for (slot, name) in [(8, "elsewhere"), (9, "former"), (10, "nobody")] {
        attach(&control, slot, name);
    }
    until("they were asked for", || asked(&server).len() == 3).await;
    // What is asked for later is answered later.
    attach(&control, 11, "own");
    until("the last one is known", || is_known(&control, 11)).await;
    assert!((8..11).all(|slot| !is_known(&control, slot)));
    assert_eq!(asked(&server).len(), 4, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_was_listed_is_not_asked_for() {
    let server = Arc::new(Mutex::new(Server::default()));
    server.lock().unwrap().pods = vec![pod("a", "u-1", "own")];
    let control = control(&server).await;
    attach(&control, 8, "a");
    assert!(is_known(&control, 8));
    attach(&control, 9, "b");
    until("another pod was asked for", || !asked(&server).is_empty()).await;
    assert_eq!(asked(&server), ["/api/v1/namespaces/db/pods/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_that_is_listed_without_its_namespace_is_not_known() {
    let server = Arc::new(Mutex::new(Server::default()));
    server.lock().unwrap().namespaces.clear();
    server.lock().unwrap().pods = vec![pod("a", "u-1", "own")];
    let control = control(&server).await;
    attach(&control, 8, "a");
    assert_eq!(control.status().objects["Pod"], 1);
    assert!(!is_known(&control, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_this_node_that_are_no_endpoint_are_told() {
    let server = Arc::new(Mutex::new(Server::default()));
    let mut listed = pod("a", "u-1", "own");
    listed["status"] = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.8"}]});
    server.lock().unwrap().pods = vec![listed];
    let control = control(&server).await;
    let names = |control: &ControlHandle| {
        let pods = control.pods_without_endpoint();
        pods.map(|pods| pods.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(names(&control), Some(vec!["db/a".to_owned()]));
    attach(&control, 8, "a");
    assert_eq!(names(&control), Some(vec![]));
    server.lock().unwrap().is_away = true;
    until("nobody tells", || names(&control).is_none()).await;
    server.lock().unwrap().is_away = false;
    until("they are told again", || names(&control).is_some()).await;
}
