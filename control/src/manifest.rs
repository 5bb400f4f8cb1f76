//! One file of manifests: documents, objects, and faults with the line and field they are at.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_saphyr::granit_parser::{Event, Parser};

use crate::field::{Fault, Faults, Field};
use crate::object::{self, Decoded, Object, ObjectKey};

/// A fault and the line of the file it is at (1 is the first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedFault {
    /// Line in the file.
    pub line: u32,
    /// Path of the field; empty when the document could not be read at all.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// What one document holds.
#[derive(Debug)]
pub enum Document {
    /// An object.
    Object {
        /// Line at which the document starts.
        line: u32,
        /// The object.
        object: Box<Object>,
    },
    /// A document that is refused.
    Invalid {
        /// The object's name, if that much could be read.
        key: Option<ObjectKey>,
        /// What is wrong; never empty.
        faults: Vec<LocatedFault>,
    },
}

/// Reads a file of YAML documents (JSON is YAML). Kinds that have nothing to do with policy are left out; the items of a `List` are
/// objects of their own.
#[must_use]
pub fn parse(text: &str, cluster: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    documents(text)
        .into_iter()
        .flat_map(|chunk| chunk.parse(cluster))
        .collect()
}

/// Reads a file of one YAML document that is no Kubernetes object. `read` reports what is wrong with its fields; the lines are added
/// here.
///
/// # Errors
/// Every fault; never an empty list.
pub fn read_document<T>(
    text: &str,
    read: impl FnOnce(&Field<'_>) -> Option<T>,
) -> Result<T, Vec<LocatedFault>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let chunks = documents(text);
    let [chunk] = chunks.as_slice() else {
        let message = format!("holds {} documents, not one", chunks.len());
        return Err(vec![LocatedFault::new(1, "", message)]);
    };
    let value = chunk.value().map_err(|fault| vec![fault])?;
    let faults = Faults::default();
    let outcome = read(&Field::root(&value, &faults));
    match (outcome, faults.into_vec()) {
        (Some(outcome), faults) if faults.is_empty() => Ok(outcome),
        (_, faults) if faults.is_empty() => {
            let message = "cannot be read".to_owned();
            Err(vec![LocatedFault::new(chunk.start(), "", message)])
        }
        (_, faults) => Err(chunk.locate(faults, "")),
    }
}

/// Part of a file between document markers.
struct Chunk {
    /// Line of the file before the chunk's first one.
    offset: u32,
    text: String,
}

fn documents(text: &str) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut chunk = Chunk {
        offset: 0,
        text: String::new(),
    };
    for (number, line) in (1u32..).zip(text.lines()) {
        // A marker at the start of a line is one in any context (YAML 1.2.2, section 9.1.2).
        let marker = ["---", "..."].into_iter().find(|marker| {
            line.strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        });
        match marker {
            Some(_) => {
                let next = Chunk {
                    offset: number - 1,
                    text: format!("   {}\n", line.get(3..).unwrap_or_default()),
                };
                chunks.push(std::mem::replace(&mut chunk, next));
            }
            None => {
                chunk.text.push_str(line);
                chunk.text.push('\n');
            }
        }
    }
    chunks.push(chunk);
    chunks.retain(|chunk| chunk.first_line().is_some());
    chunks
}

impl Chunk {
    /// First line of the file that holds more than comments and directives.
    fn first_line(&self) -> Option<u32> {
        let empty = |line: &str| {
            line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%')
        };
        let at = self.text.lines().position(|line| !empty(line))?;
        Some(self.offset + u32::try_from(at).unwrap_or(u32::MAX) + 1)
    }

    fn start(&self) -> u32 {
        self.first_line().unwrap_or(self.offset + 1)
    }

    fn value(&self) -> Result<Value, LocatedFault> {
        serde_saphyr::from_str(&self.text).map_err(|error| {
            let line = error
                .location()
                .and_then(|location| u32::try_from(location.line()).ok());
            let line = line.map_or_else(|| self.start(), |line| self.offset + line);
            LocatedFault::new(line, "", error.without_snippet().to_string())
        })
    }

    fn parse(&self, cluster: &str) -> Vec<Document> {
        let value = match self.value() {
            Ok(value) => value,
            Err(fault) => {
                return vec![Document::Invalid {
                    key: None,
                    faults: vec![fault],
                }];
            }
        };
        let is_list = value
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        match value.get("items").and_then(Value::as_array).filter(|_| is_list) {
            Some(items) => {
                let items = items.iter().enumerate();
                items
                    .filter_map(|(i, item)| self.object(item, &format!("items[{i}]"), cluster))
                    .collect()
            }
            None => self.object(&value, "", cluster).into_iter().collect(),
        }
    }

    fn object(&self, value: &Value, place: &str, cluster: &str) -> Option<Document> {
        match object::decode(value, cluster) {
            Decoded::Ignored => None,
            Decoded::Object(object) => Some(Document::Object {
                line: self.start(),
                object,
            }),
            Decoded::Invalid { key, faults } => Some(Document::Invalid {
                key,
                faults: self.locate(faults, place),
            }),
        }
    }

    /// Adds lines to faults of the value at `place`.
    fn locate(&self, faults: Vec<Fault>, place: &str) -> Vec<LocatedFault> {
        let lines = field_lines(&self.text);
        let locate = |Fault { field, kind }: Fault| {
            let field = match (place, field.as_str()) {
                ("", _) => field,
                (place, "") => place.to_owned(),
                (place, field) => format!("{place}.{field}"),
            };
            let line = line_of(&field, &lines).map_or_else(|| self.start(), |line| self.offset + line);
            LocatedFault::new(line, field, kind.to_string())
        };
        faults.into_iter().map(locate).collect()
    }
}

impl LocatedFault {
    /// A fault.
    #[must_use]
    pub fn new(line: u32, field: impl Into<String>, message: String) -> Self {
        Self {
            line,
            field: field.into(),
            message,
        }
    }
}

/// Line of a field or, where it is missing, of the nearest field around it.
fn line_of(path: &str, lines: &BTreeMap<String, u32>) -> Option<u32> {
    let mut path = path;
    loop {
        if let Some(line) = lines.get(path) {
            return Some(*line);
        }
        path = &path[..path.rfind(['.', '['])?];
    }
}

/// Line of every field of a YAML document, by path; what an alias repeats is not listed.
fn field_lines(text: &str) -> BTreeMap<String, u32> {
    enum Place {
        Map { path: String, key: Option<String> },
        List { path: String, next: usize },
    }
    let mut lines = BTreeMap::new();
    let mut places: Vec<Place> = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
        let scalar = match &event {
            Event::Scalar(text, ..) => Some(text.to_string()),
            _ => None,
        };
        let opens = matches!(event, Event::MappingStart(..) | Event::SequenceStart(..));
        let closes = matches!(event, Event::MappingEnd | Event::SequenceEnd);
        if closes {
            places.pop();
            continue;
        }
        if scalar.is_none() && !opens && !matches!(event, Event::Alias(_)) {
            continue;
        }
        // The path of the value that begins here; a key is no value yet.
        let path = match places.last_mut() {
            None => Some(String::new()),
            Some(Place::List { path, next }) => {
                *next += 1;
                Some(format!("{path}[{}]", *next - 1))
            }
            Some(Place::Map { path, key }) => match key.take() {
                Some(key) => Some(if path.is_empty() {
                    key
                } else {
                    format!("{path}.{key}")
                }),
                None => {
                    let name = scalar.clone().unwrap_or_default();
                    lines.insert(
                        if path.is_empty() {
                            name.clone()
                        } else {
                            format!("{path}.{name}")
                        },
                        line,
                    );
                    *key = Some(name);
                    None
                }
            },
        };
        if let Some(path) = &path
            && !path.is_empty()
        {
            lines.entry(path.clone()).or_insert(line);
        }
        let path = path.unwrap_or_default();
        match event {
            Event::MappingStart(..) => places.push(Place::Map { path, key: None }),
            Event::SequenceStart(..) => places.push(Place::List { path, next: 0 }),
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests;
