//! Reading a document that is no Kubernetes object field by field, so that each fault has its path and all are found at once.

use serde_json::{Map, Value};

use super::{FaultKind, Faults};

/// A value and its place in an object.
#[derive(Debug, Clone)]
pub struct Field<'a> {
    value: &'a Value,
    path: String,
    faults: &'a Faults,
}

impl<'a> Field<'a> {
    /// The root of an object.
    #[must_use]
    pub fn root(value: &'a Value, faults: &'a Faults) -> Self {
        Self {
            value,
            path: String::new(),
            faults,
        }
    }

    /// Reports a fault of this field.
    pub fn fault(&self, kind: FaultKind) {
        self.faults.push(self.path.clone(), kind);
    }

    fn wrong_type<T>(&self, expected: &'static str) -> Option<T> {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.fault(FaultKind::Type { expected, found });
        None
    }

    /// The value as an object that has no other fields than `known`.
    #[must_use]
    pub fn object(&self, known: &[&str]) -> Option<ObjectField<'a>> {
        let object = self.entries()?;
        for key in object.map.keys().filter(|key| !known.contains(&key.as_str())) {
            self.faults.push(object.child_path(key), FaultKind::Unknown);
        }
        Some(object)
    }

    /// The value as an object with arbitrary keys.
    #[must_use]
    pub fn entries(&self) -> Option<ObjectField<'a>> {
        match self.value {
            Value::Object(map) => Some(ObjectField {
                map,
                path: self.path.clone(),
                faults: self.faults,
            }),
            _ => self.wrong_type("an object"),
        }
    }

    /// The value as a list.
    #[must_use]
    pub fn list(&self) -> Option<Vec<Self>> {
        let Value::Array(items) = self.value else {
            return self.wrong_type("a list");
        };
        let item = |(i, value)| Self {
            value,
            path: format!("{}[{i}]", self.path),
            faults: self.faults,
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The items of a list, or the value itself where it is none: what may be given once or several times.
    #[must_use]
    pub fn one_or_several(&self) -> Vec<Self> {
        match self.value {
            Value::Array(_) => self.list().unwrap_or_default(),
            _ => vec![self.clone()],
        }
    }

    /// The value as a string.
    #[must_use]
    pub fn string(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    /// The value as text, whether it is written as a string or as an integer.
    #[must_use]
    pub fn text_or_integer(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_u64() => Some(number.to_string()),
            _ => self.wrong_type("a string or an integer"),
        }
    }

    /// The value as an integer from 0 to 65535.
    #[must_use]
    pub fn u16(&self) -> Option<u16> {
        let Value::Number(number) = self.value else {
            return self.wrong_type("an integer");
        };
        let value = number.as_u64().and_then(|n| u16::try_from(n).ok());
        if value.is_none() {
            self.fault(FaultKind::Invalid {
                value: number.to_string(),
                expected: "an integer from 0 to 65535",
            });
        }
        value
    }
}

/// An object and its place in another one.
#[derive(Debug, Clone)]
pub struct ObjectField<'a> {
    map: &'a Map<String, Value>,
    path: String,
    faults: &'a Faults,
}

impl<'a> ObjectField<'a> {
    fn child_path(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// A field that may be absent. An explicit null is a value (and will be of the wrong type): an empty `fromEndpoints:` must
    /// not mean "from everyone".
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        let value = self.map.get(key)?;
        Some(Field {
            value,
            path: self.child_path(key),
            faults: self.faults,
        })
    }

    /// A field that must be there.
    #[must_use]
    pub fn required(&self, key: &str) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            self.faults.push(self.child_path(key), FaultKind::Missing);
        }
        field
    }

    /// Every key and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        self.map.iter().map(|(key, value)| {
            (
                key.as_str(),
                Field {
                    value,
                    path: self.child_path(key),
                    faults: self.faults,
                },
            )
        })
    }
}
