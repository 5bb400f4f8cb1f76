//! What would keep sluice from working on a node or in a cluster, and what to change. Nothing is changed here.

pub mod cluster;
pub mod node;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// sluice works, with a restriction.
    Warning,
    /// sluice does not work, or does not protect.
    Error,
}

impl Level {
    /// The level as users read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// Why that matters, and what to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Warning,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    fn error(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level: Level::Error,
            ..Self::warning(name, found, remedy)
        }
    }
}

/// Least kernel: AF_XDP with fragments (`XDP_USE_SG`) and tcx.
const LEAST_KERNEL: (u32, u32) = (6, 6);

/// Whether a kernel of this release has what the programs need; `None`: the release cannot be read.
fn is_new_enough(release: &str) -> Option<bool> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    Some((number()?, number()?) >= LEAST_KERNEL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        for (release, expected) in [
            ("6.6.0", Some(true)),
            ("6.18.44-cloud", Some(true)),
            ("10.0", Some(true)),
            ("6.5.13", Some(false)),
            ("5.15.0-1041-gke", Some(false)),
            ("linux", None),
        ] {
            assert_eq!(is_new_enough(release), expected, "{release}");
        }
    }
}
