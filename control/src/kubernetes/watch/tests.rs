//! Watches against a played API server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use hyper::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;
use tokio::time::timeout;
use tower::service_fn;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);
const V1BETA1: &str = "/apis/policy.networking.k8s.io/v1beta1/clusternetworkpolicies";
const V1ALPHA2: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

/// Lists by path; what is not there is no resource of the server. Watches stay open without an event as long as it is there.
type Lists = Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>>;

fn server(lists: &Lists) -> Client {
    let lists = Arc::clone(lists);
    let answer = move |request: Request<Body>| {
        let lists = Arc::clone(&lists);
        async move {
            let path = request.uri().path().to_owned();
            let names = lists.lock().unwrap().get(path.as_str()).cloned();
            let is_watch = request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch="));
            let (status, body) = match names {
                None if path == "/apis" && !lists.lock().unwrap().is_empty() => {
                    (StatusCode::OK, groups(&lists))
                }
                None => (
                    StatusCode::NOT_FOUND,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "not found",
                           "reason": "NotFound", "code": 404}),
                ),
                Some(_) if is_watch => {
                    while lists.lock().unwrap().contains_key(path.as_str()) {
                        time::sleep(Duration::from_millis(5)).await;
                    }
                    (StatusCode::OK, Value::Null)
                }
                Some(names) => {
                    let items: Vec<Value> = names
                        .iter()
                        .map(|name| json!({"metadata": {"name": name}}))
                        .collect();
                    (
                        StatusCode::OK,
                        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
                    )
                }
            };
            let response = Response::builder()
                .status(status)
                .header("content-type", "application/json")
                // The end of a watch.
                .body(Body::from(if body.is_null() {
                    Vec::new()
                } else {
                    body.to_string().into_bytes()
                }));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    };
    Client::new(service_fn(answer), "default")
}

/// What the server says of its API groups; one that is always there among them.
fn groups(lists: &Lists) -> Value {
    let lists = lists.lock().unwrap();
    let version = |path: &str| {
        let group_version = path
            .trim_start_matches("/apis/")
            .rsplit_once('/')
            .unwrap_or_default()
            .0;
        json!({"groupVersion": group_version, "version": group_version.rsplit_once('/').unwrap_or_default().1})
    };
    let versions: Vec<Value> = lists
        .keys()
        .filter(|path| path.starts_with("/apis/policy"))
        .map(|path| version(path))
        .collect();
    let apps = json!({"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}]});
    let policy = json!({"name": "policy.networking.k8s.io", "versions": versions});
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [apps, policy]})
}

/// Reports of a watch of ClusterNetworkPolicies.
fn follow(lists: &Lists) -> mpsc::Receiver<(WatchId, Observed)> {
    follow_kind(Kind::ClusterNetworkPolicy, lists)
}

fn follow_kind(kind: Kind, lists: &Lists) -> mpsc::Receiver<(WatchId, Observed)> {
    let (reports, observed) = mpsc::channel(64);
    tokio::spawn(Watch::all(kind).run(WatchId(0), server(lists), reports));
    observed
}

/// What is reported up to the end of a list or the absence of the resource.
async fn first(observed: &mut mpsc::Receiver<(WatchId, Observed)>) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let next = timeout(DEADLINE, observed.recv()).await;
        let (_, report) = next.expect("in time").expect("still watched");
        match report {
            Observed::ListBegins => {}
            Observed::Listed(value) => {
                let text = |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                seen.push(format!("{} {}", text("/apiVersion"), text("/metadata/name")));
            }
            Observed::ListEnds => {
                seen.push("end".into());
                return seen;
            }
            Observed::Absent => {
                seen.push("absent".into());
                return seen;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_preferred_version_is_watched_where_the_server_has_it() {
    let lists = Lists::default();
    lists
        .lock()
        .unwrap()
        .extend([(V1BETA1, vec!["deny"]), (V1ALPHA2, vec!["deny"])]);
    assert_eq!(
        first(&mut follow(&lists)).await,
        ["policy.networking.k8s.io/v1beta1 deny", "end"]
    );
}

/// A report of absence between the versions would open what the objects deny.
#[tokio::test]
async fn an_older_version_is_watched_without_ever_calling_its_objects_absent() {
    let lists = Lists::default();
    lists.lock().unwrap().insert(V1ALPHA2, vec!["deny"]);
    assert_eq!(
        first(&mut follow(&lists)).await,
        ["policy.networking.k8s.io/v1alpha2 deny", "end"]
    );
}

#[tokio::test]
async fn a_resource_that_no_version_has_is_absent_until_its_definition_is_installed() {
    let lists = Lists::default();
    lists.lock().unwrap().insert("/api/v1/pods", Vec::new());
    let mut observed = follow(&lists);
    assert_eq!(first(&mut observed).await, ["absent"]);
    lists.lock().unwrap().insert(V1BETA1, vec!["deny"]);
    let installed = async {
        loop {
            let seen = first(&mut observed).await;
            if seen != ["absent"] {
                return seen;
            }
        }
    };
    assert_eq!(
        timeout(DEADLINE, installed).await.expect("in time"),
        ["policy.networking.k8s.io/v1beta1 deny", "end"]
    );
}

/// The next report that is not the start of a list.
async fn next(observed: &mut mpsc::Receiver<(WatchId, Observed)>) -> Observed {
    loop {
        let next = timeout(DEADLINE, observed.recv()).await;
        let (_, report) = next.expect("in time").expect("still watched");
        if !matches!(report, Observed::ListBegins) {
            return report;
        }
    }
}

#[tokio::test]
async fn objects_go_on_when_the_server_moves_them_to_another_version() {
    for (old, new) in [(V1ALPHA2, V1BETA1), (V1BETA1, V1ALPHA2)] {
        let lists = Lists::default();
        lists.lock().unwrap().insert(old, vec!["deny"]);
        let mut observed = follow(&lists);
        assert_eq!(first(&mut observed).await.last().map(String::as_str), Some("end"));
        {
            let mut lists = lists.lock().unwrap();
            lists.remove(old);
            lists.insert(new, vec!["deny"]);
        }
        let moved = first(&mut observed).await;
        assert!(
            moved.first().is_some_and(|object| object.ends_with(" deny")),
            "{moved:?}"
        );
    }
}

#[tokio::test]
async fn a_definition_that_is_deleted_takes_its_objects_along() {
    let lists = Lists::default();
    lists
        .lock()
        .unwrap()
        .extend([(V1BETA1, vec!["deny"]), ("/api/v1/pods", Vec::new())]);
    let mut observed = follow(&lists);
    first(&mut observed).await;
    lists.lock().unwrap().remove(V1BETA1);
    assert_eq!(first(&mut observed).await, ["absent"]);
}

/// What a balancer answers whose server is away would open what the objects deny.
#[tokio::test]
async fn a_404_of_somebody_else_and_of_kinds_that_are_always_there_is_a_failure() {
    let lists = Lists::default();
    assert!(matches!(next(&mut follow(&lists)).await, Observed::Failed(_)));
    lists.lock().unwrap().insert(V1BETA1, Vec::new());
    let mut pods = follow_kind(Kind::NetworkPolicy, &lists);
    assert!(matches!(next(&mut pods).await, Observed::Failed(_)));
}
