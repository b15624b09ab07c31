//! Compiled programs as files, one each, by a hash of all that they depend on.
//!
//! A file is [`MAGIC`], the SHA-256 of what follows it, the 32 bytes of the key, and the driver's
//! binary. It is written under another name and renamed, so readers see all of it or none; one
//! that does not match its hash or its key is not used and is replaced.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use crate::backend::{Backend, ProgramSource};

const MAGIC: &[u8; 16] = b"ellesmere prog 1";

/// A file longer than this is not ours.
const MOST_BYTES: u64 = 256 << 20;

/// The folder of one cache.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    warned: AtomicBool,
}

/// The file of one program, which may not be there.
#[derive(Debug)]
pub struct Entry<'a> {
    disk: &'a Disk,
    path: PathBuf,
    key: [u8; 32],
}

impl Disk {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, warned: AtomicBool::new(false) }
    }

    /// The file of `source` compiled by `backend`.
    pub fn entry(&self, backend: &dyn Backend, source: &ProgramSource) -> Entry<'_> {
        let key = key(backend, source);
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        Entry { disk: self, path: self.folder.join(format!("{}-{name}", source.kernel)), key }
    }

    /// Says once that the folder is of no use.
    fn warn(&self, error: &io::Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("compiled kernels are not kept in {}: {error}", self.folder.display());
        }
    }
}

impl Entry<'_> {
    /// The binary, if the file is there and whole.
    pub fn read(&self) -> Option<Vec<u8>> {
        let bytes = match read_bounded(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                self.disk.warn(&error);
                return None;
            }
        };
        let binary = unwrap(&bytes, &self.key);
        if binary.is_none() {
            tracing::warn!("{} is damaged and will be replaced", self.path.display());
        }
        binary.map(<[u8]>::to_vec)
    }

    /// Keeps `binary`. Failing to is no error: the next run compiles again.
    pub fn write(&self, binary: &[u8]) {
        if let Err(error) = self.try_write(binary) {
            self.disk.warn(&error);
        }
    }

    fn try_write(&self, binary: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.disk.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.disk.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(&hash(&self.key, binary))?;
        file.write_all(&self.key)?;
        file.write_all(binary)?;
        file.persist(&self.path)?;
        Ok(())
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The binary in a file of this key.
fn unwrap<'a>(bytes: &'a [u8], key: &[u8; 32]) -> Option<&'a [u8]> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (sum, rest) = rest.split_first_chunk::<32>()?;
    let (found, binary) = rest.split_first_chunk::<32>()?;
    (found == key && *sum == hash(key, binary)).then_some(binary)
}

fn hash(key: &[u8; 32], binary: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(key).chain_update(binary).finalize().into()
}

/// A hash of everything that a compiled program depends on.
fn key(backend: &dyn Backend, source: &ProgramSource) -> [u8; 32] {
    let info = backend.info();
    let mut hash = Sha256::new();
    // The length first, so that no two lists of texts look alike.
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(env!("CARGO_PKG_VERSION"));
    [info.backend, &info.platform, &info.name, &info.driver].into_iter().for_each(&mut add);
    [source.kernel, source.dtype.name(), source.source].into_iter().for_each(&mut add);
    add(&backend.options(source));
    for (name, value) in &source.parameters {
        add(&format!("{name}={value}"));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::backend::record::Record;
    use crate::device::Device;
    use crate::info::DeviceInfo;

    fn source() -> ProgramSource {
        let parameters = vec![("WG_SIZE", 64)];
        ProgramSource { kernel: "k", dtype: DType::F32, parameters, source: "void k();" }
    }

    fn info() -> DeviceInfo {
        Device::cpu().info().clone()
    }

    #[test]
    fn the_key_changes_with_everything_that_a_program_depends_on() {
        let of = |info: DeviceInfo, source: &ProgramSource| key(&Record::new(info), source);
        let first = of(info(), &source());
        assert_eq!(first, of(info(), &source()));
        let others = [
            ("device", of(DeviceInfo { name: "other".into(), ..info() }, &source())),
            ("driver", of(DeviceInfo { driver: "other".into(), ..info() }, &source())),
            ("platform", of(DeviceInfo { platform: "other".into(), ..info() }, &source())),
            ("kernel", of(info(), &ProgramSource { kernel: "l", ..source() })),
            ("dtype", of(info(), &ProgramSource { dtype: DType::F16, ..source() })),
            ("source", of(info(), &ProgramSource { source: "void k(int);", ..source() })),
            ("value", {
                of(info(), &ProgramSource { parameters: vec![("WG_SIZE", 32)], ..source() })
            }),
            ("parameters", of(info(), &ProgramSource { parameters: vec![], ..source() })),
        ];
        for (why, other) in others {
            assert_ne!(first, other, "{why}");
        }
    }

    #[test]
    fn a_file_that_was_changed_anywhere_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().join("not there yet"));
        let entry = disk.entry(&Record::new(info()), &source());
        assert_eq!(entry.read(), None);
        entry.write(b"binary");
        assert_eq!(entry.read().as_deref(), Some(&b"binary"[..]));
        let whole = fs::read(&entry.path).unwrap();
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] ^= 1;
            fs::write(&entry.path, damaged).unwrap();
            assert_eq!(entry.read(), None, "byte {index} changed");
            fs::write(&entry.path, &whole[..index]).unwrap();
            assert_eq!(entry.read(), None, "cut at byte {index}");
        }
        entry.write(b"binary");
        assert_eq!(entry.read().as_deref(), Some(&b"binary"[..]));
        assert_eq!(fs::read_dir(&disk.folder).unwrap().count(), 1, "no other file is left");
    }
}
