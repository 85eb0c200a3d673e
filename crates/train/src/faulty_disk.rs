//! A disk that fails on purpose while a checkpoint is written: for tests.

use std::io;
use std::path::Path;

use pp_executor::{Fault, FaultPoint};
use pp_hybrid::checkpoint::{Disk, DiskFile, HostDisk, MANIFEST};

/// The disk of this machine, with a fault between the tensors of a checkpoint and its manifest.
pub(crate) struct FaultyDisk {
    pub(crate) fault: Option<Fault>,
    /// The step of the checkpoint.
    pub(crate) step: u64,
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        if path.ends_with(MANIFEST)
            && let Some(fault) = self.fault
        {
            fault.strike(self.step, FaultPoint::Write).map_err(io::Error::other)?;
        }
        HostDisk.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostDisk.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.sync_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove_dir(path)
    }
}
