//! The file: parts of bounded size, and a list of what is missing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use super::{MOST_PART, Summary};

/// A file that is being written.
pub(super) struct Archive {
    tar: Builder<GzEncoder<File>>,
    time: u64,
    parts: usize,
    errors: Vec<String>,
}

impl Archive {
    /// A new file, which only its owner may read; one that is there is not overwritten.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            tar: Builder::new(GzEncoder::new(file, Compression::default())),
            time: time.map_or(0, |time| time.as_secs()),
            parts: 0,
            errors: Vec::new(),
        })
    }

    /// Adds a part, and cuts off what is too much of it.
    pub(super) fn add(&mut self, path: &str, mut text: Vec<u8>) -> io::Result<()> {
        if text.len() > MOST_PART {
            self.fail(&format!(
                "{path}: cut off after {MOST_PART} of {} bytes",
                text.len()
            ));
            text.truncate(MOST_PART);
        }
        self.parts += 1;
        self.append(path, &text)
    }

    fn append(&mut self, path: &str, text: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        self.tar
            .append_data(&mut header, format!("sluice-sysdump/{path}"), text)
    }

    /// Notes what is missing.
    pub(super) fn fail(&mut self, message: &str) {
        self.errors.push(message.replace('\n', " "));
    }

    /// Writes the rest.
    pub(super) fn finish(mut self) -> io::Result<Summary> {
        let mut text = self.errors.join("\n");
        text.push('\n');
        if !self.errors.is_empty() {
            self.append("errors.txt", text.as_bytes())?;
        }
        self.tar.into_inner()?.finish()?.flush()?;
        Ok(Summary {
            parts: self.parts,
            errors: self.errors.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_part_that_fails_or_is_too_large_is_a_line_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.tar.gz");
        let mut archive = Archive::create(&path).unwrap();
        archive.fail("nodes/a/status.json: no answer\nat all");
        archive.add("large", vec![b'x'; MOST_PART + 1]).unwrap();
        archive.add("small", b"text".to_vec()).unwrap();
        assert_eq!(archive.finish().unwrap(), Summary { parts: 2, errors: 2 });
        let mut tar = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let mut entries = std::collections::BTreeMap::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = Vec::new();
            entry.read_to_end(&mut text).unwrap();
            entries.insert(entry.path().unwrap().display().to_string(), text);
        }
        assert_eq!(entries["sluice-sysdump/large"].len(), MOST_PART);
        assert_eq!(entries["sluice-sysdump/small"], b"text");
        let errors = String::from_utf8(entries["sluice-sysdump/errors.txt"].clone()).unwrap();
        assert!(
            errors.starts_with("nodes/a/status.json: no answer at all\nlarge: cut off after "),
            "{errors}"
        );
        assert!(
            Archive::create(&path).is_err(),
            "a file that is there is not overwritten"
        );
    }
}
