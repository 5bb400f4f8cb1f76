//! Sysctls of the pairs' ends, as files below a directory that is the `/proc/sys/net` of the calling thread: in a container the
//! usual one is read-only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::desired::Setting;
use super::{Family, NodeError};

/// Where it usually is.
pub const PROC_SYS_NET: &str = "/proc/sys/net";

/// The setting's file for an interface.
pub(super) fn path(root: &Path, setting: &Setting, interface: &str) -> PathBuf {
    root.join(setting.family)
        .join("conf")
        .join(interface)
        .join(setting.name)
}

/// Makes sure of one setting. Returns the file when it had to be changed.
///
/// # Errors
/// [`NodeError::Sysctl`] when the file cannot be read or written; a kernel without IPv6 has no such files, which is no error.
pub(super) fn ensure(root: &Path, setting: &Setting, interface: &str) -> Result<Option<PathBuf>, NodeError> {
    let path = path(root, setting, interface);
    let error = |source| NodeError::Sysctl {
        path: path.clone(),
        source,
    };
    let current = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && setting.family == "ipv6" => return Ok(None),
        Err(e) => return Err(error(e)),
    };
    if current.trim() == setting.value {
        return Ok(None);
    }
    fs::write(&path, setting.value).map_err(error)?;
    Ok(Some(path))
}

/// Whether the node forwards packets of the family at all (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`). A family
/// that the kernel lacks counts as forwarding: there is nothing to warn of.
pub(super) fn forwards(root: &Path, family: Family) -> bool {
    let path = match family {
        Family::Ipv4 => "ipv4/ip_forward",
        Family::Ipv6 => "ipv6/conf/all/forwarding",
    };
    fs::read_to_string(root.join(path)).map_or(true, |text| text.trim() != "0")
}
