//! The least objects that show a difference.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

use serde_json::Value;
use sluice_control::object::{self, Decoded};

use crate::generate::{Flow, Scenario};
use crate::verdicts;

/// The flow, both verdicts and the objects that are needed for them to differ.
pub fn report(scenario: &Scenario, flow: &Flow) -> String {
    let mut objects = scenario.objects();
    let differs = |objects: &[Value]| {
        let valid = objects
            .iter()
            .all(|object| matches!(object::decode(object, "default"), Decoded::Object(_)));
        let both = || verdicts(objects, flow);
        valid && catch_unwind(AssertUnwindSafe(both)).is_ok_and(|(a, b)| a != b)
    };
    // What is tried may be no cluster at all: nobody needs to read of that.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    loop {
        let smaller = candidates(&objects).find(|candidate| differs(candidate));
        let Some(smaller) = smaller else { break };
        objects = smaller;
    }
    set_hook(hook);
    let (expected, found) = verdicts(&objects, flow);
    let objects: Vec<String> = objects.iter().map(Value::to_string).collect();
    format!(
        "{} -> {} {}/{} {:?}: expected {expected:?}, found {found:?}\n{}",
        flow.from,
        flow.to,
        flow.protocol,
        flow.port,
        flow.http,
        objects.join("\n")
    )
}

/// Everything that is one object, list entry or field smaller.
fn candidates(objects: &[Value]) -> impl Iterator<Item = Vec<Value>> {
    // A namespace is there as long as its pods are, and under its own name.
    let kept = |i: &usize| objects[*i]["kind"] == "Namespace";
    let fewer = (0..objects.len()).filter(move |i| !kept(i)).map(move |i| {
        let mut fewer = objects.to_vec();
        fewer.remove(i);
        fewer
    });
    let free = (0..objects.len()).filter(move |i| !kept(i));
    let places = free.flat_map(|i| ["spec", "specs", "metadata"].map(|part| (i, part)));
    let smaller = places.flat_map(move |(i, part)| {
        let change = move |smaller: Value| {
            let mut other = objects.to_vec();
            other[i][part] = smaller;
            other
        };
        parts(&objects[i][part]).into_iter().map(change)
    });
    fewer.chain(smaller)
}

/// A value with one part less, anywhere in it.
fn parts(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Array(items) => {
            for i in 0..items.len() {
                let mut fewer = items.clone();
                fewer.remove(i);
                all.push(Value::Array(fewer));
            }
            for (i, item) in items.iter().enumerate() {
                for smaller in parts(item) {
                    let mut other = items.clone();
                    other[i] = smaller;
                    all.push(Value::Array(other));
                }
            }
        }
        Value::Object(fields) => {
            for key in fields.keys() {
                let mut fewer = fields.clone();
                fewer.remove(key);
                all.push(Value::Object(fewer));
            }
            for (key, field) in fields {
                for smaller in parts(field) {
                    let mut other = fields.clone();
                    other.insert(key.clone(), smaller);
                    all.push(Value::Object(other));
                }
            }
        }
        _ => {}
    }
    all
}
