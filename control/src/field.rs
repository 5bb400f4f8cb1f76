//! Faults of objects and the fields that they are at.
//!
//! An object with any fault is refused whole: one with a field that sluice does not know or enforce is never half-enforced.

mod reader;

use std::cell::RefCell;

use ipnet::IpNet;

pub use self::reader::{Field, ObjectField};

/// What is wrong with an object, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {kind}")]
pub struct Fault {
    /// Path of the field, e.g. `spec.ingress[0].toPorts[0].ports[0].port`.
    pub field: String,
    /// What is wrong with it.
    pub kind: FaultKind,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// Neither known nor ignorable.
    #[error("unknown field")]
    Unknown,
    /// Valid, but not enforced by sluice; the text says what of it.
    #[error("not supported by sluice: {0}")]
    Unsupported(&'static str),
    /// Absent, but needed.
    #[error("required, but missing")]
    Missing,
    /// Of another JSON type.
    #[error("must be {expected}, but is {found}")]
    Type {
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value outside its domain.
    #[error("`{value}` is not {expected}")]
    Invalid {
        /// The value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Excluded by another field.
    #[error("cannot be combined with {0}")]
    Conflict(&'static str),
    /// Too many entries.
    #[error("has {found} entries, at most {most} are allowed")]
    TooMany {
        /// Number of entries.
        found: usize,
        /// Largest number allowed.
        most: usize,
    },
    /// Too few entries.
    #[error("has {found} entries, at least {least} are needed")]
    TooFew {
        /// Number of entries.
        found: usize,
        /// Smallest number allowed.
        least: usize,
    },
    /// Too long a text.
    #[error("has {found} characters, at most {most} are allowed")]
    TooLong {
        /// Number of characters.
        found: usize,
        /// Largest number allowed.
        most: usize,
    },
    /// An empty text.
    #[error("must not be empty")]
    Empty,
    /// A text that is none of those allowed.
    #[error("`{value}` is not one of {choices}")]
    Choice {
        /// The text.
        value: String,
        /// Those allowed.
        choices: String,
    },
    /// A number outside its range.
    #[error("{value} is not from {least} to {most}")]
    Outside {
        /// The number.
        value: String,
        /// Smallest number allowed.
        least: i64,
        /// Largest number allowed.
        most: i64,
    },
    /// A condition that the object as a whole does not meet.
    #[error("{0}")]
    Rule(&'static str),
    /// A regular expression that does not compile.
    #[error("does not compile: {message}")]
    Regex {
        /// The compiler's message.
        message: String,
    },
    /// Refused by a typed Kubernetes object.
    #[error("{message}")]
    Typed {
        /// The deserialiser's message.
        message: String,
    },
}

/// Collected faults.
#[derive(Debug, Default)]
pub struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    /// The faults in the order of their discovery.
    #[must_use]
    pub fn into_vec(self) -> Vec<Fault> {
        self.0.into_inner()
    }

    /// Adds a fault.
    pub fn push(&self, field: impl Into<String>, kind: FaultKind) {
        self.0.borrow_mut().push(Fault {
            field: field.into(),
            kind,
        });
    }
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    path: String,
    faults: &'a Faults,
}

impl<'a> Place<'a> {
    /// The object itself.
    #[must_use]
    pub fn root(faults: &'a Faults) -> Self {
        Self {
            path: String::new(),
            faults,
        }
    }

    /// The field at `path`.
    #[must_use]
    pub fn at(path: String, faults: &'a Faults) -> Self {
        Self { path, faults }
    }

    /// Field `name` of the object that is here.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Self {
            path,
            faults: self.faults,
        }
    }

    /// Entry `i` of the list that is here.
    #[must_use]
    pub fn item(&self, i: usize) -> Self {
        Self {
            path: format!("{}[{i}]", self.path),
            faults: self.faults,
        }
    }

    /// Reports a fault of this field.
    pub fn fault(&self, kind: FaultKind) {
        self.faults.push(self.path.clone(), kind);
    }

    /// Reports that this field's value is outside its domain.
    pub fn invalid(&self, value: impl Into<String>, expected: &'static str) {
        self.fault(FaultKind::Invalid {
            value: value.into(),
            expected,
        });
    }

    /// Reads an address with prefix length; `None`, and a fault of this field, if `text` is something else.
    #[must_use]
    pub fn prefix(&self, text: &str) -> Option<IpNet> {
        let prefix = text.parse::<IpNet>().ok();
        if prefix.is_none() {
            self.invalid(text, "an address with prefix length");
        }
        prefix.map(|prefix| prefix.trunc())
    }
}
