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

/// Lists by path; what is not there is no resource of the server. Watches stay open without an event.
type Lists = Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>>;

fn server(lists: &Lists) -> Client {
    let lists = Arc::clone(lists);
    let answer = move |request: Request<Body>| {
        let lists = Arc::clone(&lists);
        async move {
            let names = lists.lock().unwrap().get(request.uri().path()).cloned();
            let is_watch = request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch="));
            let (status, body) = match names {
                None => (
                    StatusCode::NOT_FOUND,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "not found",
                           "reason": "NotFound", "code": 404}),
                ),
                Some(_) if is_watch => std::future::pending().await,
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
                .body(Body::from(body.to_string().into_bytes()));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    };
    Client::new(service_fn(answer), "default")
}

/// Reports of a watch of ClusterNetworkPolicies.
fn follow(lists: &Lists) -> mpsc::Receiver<(WatchId, Observed)> {
    let (reports, observed) = mpsc::channel(64);
    let watch = Watch::all(Kind::ClusterNetworkPolicy);
    tokio::spawn(watch.run(WatchId(0), server(lists), reports));
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
