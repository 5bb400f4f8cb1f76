//! What must be so below a BPF file system before anything is pinned there.

use std::io;
use std::path::Path;

use aya::maps::{MapError, MapInfo, MapType};
use rustix::fs::statfs;

use super::LoadError;

/// `BPF_FS_MAGIC` (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

/// `bpffs`, or the nearest directory above it that exists, must be a BPF file system: what is created elsewhere could
/// not hold a pin.
pub(super) fn require_bpffs(bpffs: &Path) -> Result<(), LoadError> {
    let not_bpffs = || LoadError::NotBpffs { path: bpffs.into() };
    let existing = bpffs
        .ancestors()
        .find(|path| path.exists())
        .ok_or_else(not_bpffs)?;
    let kind = statfs(existing).map_err(|source| LoadError::Pins {
        step: "ask for the file system of",
        path: existing.into(),
        source: source.into(),
    })?;
    if kind.f_type == BPF_FS_MAGIC {
        Ok(())
    } else {
        Err(not_bpffs())
    }
}

/// A pinned map is reused by name alone, so its layout (type, key and value bytes, entries) is checked here.
pub(super) fn require_layout(path: &Path, layout: (MapType, u32, u32, u32)) -> Result<(), LoadError> {
    match MapInfo::from_pin(path) {
        Ok(info) => {
            let found = info
                .map_type()
                .map(|kind| (kind, info.key_size(), info.value_size(), info.max_entries()));
            if found.is_ok_and(|found| found == layout) {
                Ok(())
            } else {
                Err(LoadError::MapLayout { path: path.into() })
            }
        }
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_unreadable) => Err(LoadError::MapLayout { path: path.into() }),
    }
}
