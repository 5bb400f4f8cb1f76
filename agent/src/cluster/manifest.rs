//! Manifests that the commands apply: documents of YAML as objects.

use kube::api::DynamicObject;

/// A text that is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML.
    #[error("not YAML: {0}")]
    Syntax(String),
    /// A document that is no object.
    #[error("document {number}: {message}")]
    Object {
        /// Which, from 1.
        number: usize,
        /// What is wrong.
        message: String,
    },
}

/// The objects of a text with documents of YAML; empty ones are passed over.
///
/// # Errors
/// [`ManifestError`]
pub fn documents(text: &str) -> Result<Vec<DynamicObject>, ManifestError> {
    let values: Vec<serde_json::Value> =
        serde_saphyr::from_multiple(text).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let mut objects = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        if value.is_null() {
            continue;
        }
        objects.push(
            serde_json::from_value(value).map_err(|error| ManifestError::Object {
                number: at + 1,
                message: error.to_string(),
            })?,
        );
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_no_object_is_named_by_its_number() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
        let objects = documents(&format!("# a comment\n{pod}---\n{pod}")).unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[1].metadata.name.as_deref(), Some("a"));
        let error = documents(&format!("{pod}---\nmetadata: 5\n")).unwrap_err();
        assert!(
            matches!(error, ManifestError::Object { number: 2, .. }),
            "{error}"
        );
        assert!(matches!(documents("{"), Err(ManifestError::Syntax(_))));
    }
}
