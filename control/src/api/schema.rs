//! Schemas of the types, and the check of documents against them.
//!
//! The check covers what an OpenAPI schema can say: types, missing and unknown fields, lengths, choices. Patterns and conditions
//! between fields are the decoders', which say more clearly what is wrong. All faults of an object are found at once.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::field::{Fault, FaultKind, Faults, Place};

/// Keeps fields that the schema does not list: the agent must see them, to refuse the object, where the API server would drop them.
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
/// A string or an integer.
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
/// Fields of every object that are not checked here: `metadata` is read for its own sake, and nothing is taken from `status`.
const ENVELOPE: [&str; 4] = ["apiVersion", "kind", "metadata", "status"];

/// The schema of `T` in the structural form that CustomResourceDefinitions take.
#[must_use]
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let generator = settings.with_transform(Structural).into_generator();
    generator.into_root_schema_for::<T>().to_value()
}

/// Reads an object by `schema`, that of `T`: what could be read, and every fault that the schema finds, each with its field path.
/// What is read of a faulty object is for finding further faults only: fields that are at fault are left out of it.
#[must_use]
pub fn read<T: DeserializeOwned>(object: &Value, schema: &Value) -> (Option<T>, Vec<Fault>) {
    let faults = Faults::default();
    let readable = check(object, schema, &Place::root(&faults), &ENVELOPE);
    let mut found = faults.into_vec();
    let Some(readable) = readable else {
        return (None, found);
    };
    match serde_path_to_error::deserialize(readable) {
        Ok(object) => (Some(object), found),
        Err(error) => {
            if found.is_empty() {
                found.push(Fault {
                    field: error.path().to_string(),
                    kind: FaultKind::Typed {
                        message: error.inner().to_string(),
                    },
                });
            }
            (None, found)
        }
    }
}

/// The faults that the schema found, and those found after it, without what only follows from the former: what is said of a field
/// that is at fault already, of one in it or around it.
#[must_use]
pub fn joined(mut found: Vec<Fault>, further: Vec<Fault>) -> Vec<Fault> {
    let within = |path: &str, outer: &str| {
        path.strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let follows = |fault: &Fault, cause: &Fault| {
        within(&fault.field, &cause.field) || within(&cause.field, &fault.field)
    };
    let further: Vec<Fault> = further
        .into_iter()
        .filter(|fault| !found.iter().any(|cause| follows(fault, cause)))
        .collect();
    found.extend(further);
    found
}

/// Makes a schema structural: one type per value, no titles, unknown fields kept. Null is no value of any field: in a policy an
/// empty `fromEndpoints:` must not mean "from everyone".
#[derive(Debug, Clone)]
struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(map) = schema.as_object_mut() else { return };
        map.remove("title");
        if let Some(Value::Array(types)) = map.get("type") {
            let named: Vec<_> = types.iter().filter(|name| *name != "null").cloned().collect();
            if let [only] = named.as_slice() {
                map.insert("type".to_owned(), only.clone());
            }
        }
        if let Some(Value::Array(forms)) = map.remove("anyOf") {
            let forms = forms
                .into_iter()
                .filter(|form| form.get("type") != Some(&json!("null")));
            for (key, value) in forms
                .filter_map(|form| match form {
                    Value::Object(form) => Some(form),
                    _ => None,
                })
                .flatten()
            {
                map.entry(key).or_insert(value);
            }
        }
        let free = map.get("additionalProperties") == Some(&json!(true));
        if free {
            map.remove("additionalProperties");
        }
        if free || map.contains_key("properties") {
            map.insert(PRESERVE.to_owned(), json!(true));
        }
    }
}

/// Reports what is wrong with `value`; returns what of it has the right types, `None` if the value itself has not.
fn check(value: &Value, schema: &Value, place: &Place<'_>, exempt: &[&str]) -> Option<Value> {
    let wrong_type = |expected| {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        place.fault(FaultKind::Type { expected, found });
        None
    };
    if schema.get(INT_OR_STRING).is_some() {
        if value.is_string() || value.is_i64() {
            return Some(value.clone());
        }
        return wrong_type("a string or an integer");
    }
    match (schema.get("type").and_then(Value::as_str), value) {
        (Some("object"), Value::Object(map)) => {
            return Some(Value::Object(check_object(map, schema, place, exempt)));
        }
        (Some("array"), Value::Array(items)) => return check_list(items, schema, place),
        (Some("string"), Value::String(text)) => check_text(text, schema, place),
        (Some("integer"), Value::Number(number)) if number.is_i64() => {
            let bound = |key| schema.get(key).and_then(Value::as_i64);
            let (least, most) = (bound("minimum"), bound("maximum"));
            let outside = |n| least.is_some_and(|least| n < least) || most.is_some_and(|most| n > most);
            if number.as_i64().is_some_and(outside) {
                place.fault(FaultKind::Outside {
                    value: number.to_string(),
                    least: least.unwrap_or(i64::MIN),
                    most: most.unwrap_or(i64::MAX),
                });
                return None;
            }
        }
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some("object"), _) => return wrong_type("an object"),
        (Some("array"), _) => return wrong_type("a list"),
        (Some("integer"), _) => return wrong_type("an integer"),
        (Some("boolean"), _) => return wrong_type("a boolean"),
        (Some(_), _) => return wrong_type("a string"),
    }
    Some(value.clone())
}

/// `None` if an entry has the wrong type: without it the others would have other places.
fn check_list(items: &[Value], schema: &Value, place: &Place<'_>) -> Option<Value> {
    let found = items.len();
    if let Some(most) = limit(schema, "maxItems").filter(|most| found > *most) {
        place.fault(FaultKind::TooMany { found, most });
    }
    if let Some(least) = limit(schema, "minItems").filter(|least| found < *least) {
        place.fault(FaultKind::TooFew { found, least });
    }
    let items = items
        .iter()
        .enumerate()
        .map(|(i, item)| match schema.get("items") {
            Some(schema) => check(item, schema, &place.item(i), &[]),
            None => Some(item.clone()),
        });
    // Every entry is looked at before the list is given up.
    let items: Vec<Option<Value>> = items.collect();
    items
        .into_iter()
        .collect::<Option<Vec<Value>>>()
        .map(Value::Array)
}

fn check_text(text: &str, schema: &Value, place: &Place<'_>) {
    let found = text.chars().count();
    if let Some(most) = limit(schema, "maxLength").filter(|most| found > *most) {
        place.fault(FaultKind::TooLong { found, most });
    }
    if limit(schema, "minLength").is_some_and(|least| found < least) {
        place.fault(FaultKind::Empty);
    }
    let Some(Value::Array(choices)) = schema.get("enum") else {
        return;
    };
    let choices: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
    if !choices.contains(&text) {
        place.fault(FaultKind::Choice {
            value: text.to_owned(),
            choices: choices.join(", "),
        });
    }
}

fn check_object(
    map: &Map<String, Value>,
    schema: &Value,
    place: &Place<'_>,
    exempt: &[&str],
) -> Map<String, Value> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let values = schema.get("additionalProperties");
    let mut readable = Map::new();
    for (key, value) in map.iter().filter(|(key, _)| !exempt.contains(&key.as_str())) {
        let place = place.field(key);
        let schema = match properties {
            Some(properties) => properties.get(key),
            None => values,
        };
        let value = match schema {
            Some(schema) => check(value, schema, &place, &[]),
            None if properties.is_some() => {
                place.fault(FaultKind::Unknown);
                None
            }
            None => Some(value.clone()),
        };
        readable.extend(value.map(|value| (key.clone(), value)));
    }
    let required = schema.get("required").and_then(Value::as_array);
    for key in required.into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(key) {
            place.field(key).fault(FaultKind::Missing);
        }
    }
    let found = map.len();
    if limit(schema, "minProperties").is_some_and(|least| found < least)
        || limit(schema, "maxProperties").is_some_and(|most| found > most)
    {
        place.fault(FaultKind::Rule("must have exactly one field"));
    }
    readable
}

fn limit(schema: &Value, key: &str) -> Option<usize> {
    schema
        .get(key)?
        .as_u64()
        .and_then(|limit| usize::try_from(limit).ok())
}
