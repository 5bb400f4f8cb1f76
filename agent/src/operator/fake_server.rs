//! As much of an API server as the operator talks to, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A request that was answered, or is not.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Value,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    asked: Vec<Asked>,
    failures: Vec<u16>,
}

/// Clones are the same server.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeServer(Arc<Mutex<State>>);

/// Whether a client's requests reach the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Cable(Arc<Mutex<bool>>);

impl Cable {
    pub(super) fn cut(&self) {
        *self.0.lock().unwrap() = true;
    }

    pub(super) fn mend(&self) {
        *self.0.lock().unwrap() = false;
    }
}

type Answer = Result<Value, u16>;

impl FakeServer {
    pub(super) fn client(&self, cable: &Cable) -> Client {
        let (server, cable) = (self.clone(), cable.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, cable) = (server.clone(), cable.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let asked = Asked {
                    method: head.method,
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                };
                let is_cut = *cable.0.lock().unwrap();
                if is_cut {
                    server.state().asked.push(asked);
                    std::future::pending::<()>().await;
                    unreachable!();
                }
                let (code, body) = match server.answer(asked) {
                    Ok(object) => (200, object),
                    Err(code) => (code, failure(code)),
                };
                let body = Full::new(Bytes::from(body.to_string()));
                let answer = Response::builder().status(code).body(body);
                Ok::<_, hyper::http::Error>(answer.unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Puts an object there as its users do, and returns it as a watch would report it.
    pub(super) fn put(&self, path: &str, mut object: Value) -> Box<Value> {
        self.state().store(path, &mut object);
        Box::new(object)
    }

    pub(super) fn get(&self, path: &str) -> Box<Value> {
        Box::new(self.state().objects.get(path).cloned().expect("an object"))
    }

    pub(super) fn paths(&self, prefix: &str) -> Vec<String> {
        let state = self.state();
        let paths = state.objects.keys().filter(|path| path.starts_with(prefix));
        paths.cloned().collect()
    }

    /// Requests since the last time.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state().asked)
    }

    /// The next requests fail with these codes.
    pub(super) fn fail(&self, codes: &[u16]) {
        self.state().failures = codes.to_vec();
    }

    fn answer(&self, asked: Asked) -> Answer {
        let mut state = self.state();
        state.asked.push(asked.clone());
        if !state.failures.is_empty() {
            return Err(state.failures.remove(0));
        }
        let Asked {
            method, path, body, ..
        } = asked;
        match method {
            Method::GET => state.objects.get(&path).cloned().ok_or(404),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&path) {
                    return Err(409);
                }
                let mut object = body;
                state.store(&path, &mut object);
                Ok(object)
            }
            Method::PUT => {
                let stored = state.objects.get(&path).ok_or(404_u16)?;
                if stored["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Err(409);
                }
                let mut object = body;
                state.store(&path, &mut object);
                Ok(object)
            }
            Method::PATCH if body.is_array() => state.json_patch(&path, &body),
            Method::PATCH => state.apply_status(&path, &body),
            _ => Err(405),
        }
    }
}

impl State {
    fn store(&mut self, path: &str, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
    }

    /// RFC 6902, `test` and `replace` only.
    fn json_patch(&mut self, path: &str, patch: &Value) -> Answer {
        let mut object = self.objects.get(path).cloned().ok_or(404_u16)?;
        for operation in patch.as_array().unwrap() {
            let place = object
                .pointer_mut(operation["path"].as_str().unwrap())
                .ok_or(422_u16)?;
            match operation["op"].as_str().unwrap() {
                "test" if *place == operation["value"] => {}
                "replace" => *place = operation["value"].clone(),
                _ => return Err(422),
            }
        }
        self.store(path, &mut object);
        Ok(object)
    }

    /// Server-side apply to the status subresource: conditions are a map by type, uid and resourceVersion are preconditions.
    fn apply_status(&mut self, path: &str, body: &Value) -> Answer {
        let path = path.strip_suffix("/status").ok_or(405_u16)?.to_owned();
        let mut object = self.objects.get(&path).cloned().ok_or(404_u16)?;
        for precondition in ["uid", "resourceVersion"] {
            let wanted = &body["metadata"][precondition];
            if !wanted.is_null() && *wanted != object["metadata"][precondition] {
                return Err(409);
            }
        }
        let mut conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for condition in body["status"]["conditions"].as_array().unwrap() {
            conditions.retain(|known| known["type"] != condition["type"]);
            conditions.push(condition.clone());
        }
        object["status"]["conditions"] = json!(conditions);
        self.store(&path, &mut object);
        Ok(object)
    }
}

fn failure(code: u16) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "AlreadyExists",
        _ => "Other",
    };
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "no"})
}
