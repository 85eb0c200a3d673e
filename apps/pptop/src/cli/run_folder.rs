//! The folder of a run that the user named: whether a run may go there, and how it is made.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use pp_telemetry::{COMPRESSED_FILE, EVENTS_FILE, OWN_FILES, STDERR_FILE, refuse_shared_dir};
use pptop::monitor::NEW_MESSAGES;
use rustix::fs::{Access, OFlags, access};

use super::CliError;
use super::refusal::excerpt;

/// Looks whether a run may go into a folder, or make it; nothing is written. Gives its path with
/// links resolved, so that it stays the same folder from here on.
///
/// # Errors
/// [`CliError::Usage`] with what to do instead.
pub(crate) fn given(dir: &Path) -> Result<PathBuf, CliError> {
    let refused = |why: &dyn std::fmt::Display| {
        CliError::Usage(format!("--run-dir {} {why}", excerpt(&dir.display().to_string())))
    };
    let may_write = |dir: &Path| access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    match dir.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let whole = std::path::absolute(dir).map_err(|e| refused(&format_args!(": {e}")))?;
            let near = whole.ancestors().find(|path| path.symlink_metadata().is_ok());
            return match near {
                Some(near) if near.is_dir() && may_write(near) => Ok(whole),
                _ => Err(refused(&"cannot be created; name a folder below a writable one")),
            };
        }
        Err(error) => return Err(refused(&format_args!("cannot be used: {error}; name a folder"))),
    }
    let whole = dir.canonicalize().map_err(|error| {
        refused(&format_args!("is a broken symbolic link: {error}; name a folder"))
    })?;
    if !whole.is_dir() {
        return Err(refused(&"is not a folder; name a folder"));
    }
    refuse_shared_dir(&whole).map_err(|why| refused(&format_args!("cannot be used: {why}")))?;
    for name in OWN_FILES {
        let Ok(about) = whole.join(name).symlink_metadata() else { continue };
        match name {
            // A log that is compressed is a run as well.
            EVENTS_FILE | COMPRESSED_FILE => {
                return Err(refused(&format_args!(
                    "already contains a run ({name}); name another folder"
                )));
            }
            // The run appends to it.
            STDERR_FILE if about.is_file() => {}
            _ => {
                return Err(refused(&format_args!(
                    "contains {name}, which a run would replace; name another folder"
                )));
            }
        }
    }
    if !may_write(&whole) {
        return Err(refused(&"is not writable; name another folder"));
    }
    Ok(whole)
}

/// Makes the folder of a run where it is missing, for its owner alone.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Opens the file that receives the standard error of a run in the background. It keeps what an
/// earlier run wrote and appends a line after it.
///
/// # Errors
/// It cannot be written.
pub(crate) fn messages(dir: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let path = dir.join(STDERR_FILE);
    let mut options = OpenOptions::new();
    let mut file = options.append(true).create(true).mode(0o600).custom_flags(flags).open(&path)?;
    if file.metadata()?.len() > 0 {
        writeln!(file, "{NEW_MESSAGES}")?;
    }
    Ok(file)
}
