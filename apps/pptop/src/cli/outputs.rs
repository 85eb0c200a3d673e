//! What a command reads, what it writes, and that the two do not meet.
//!
//! A command names every file here before its work begins. Files are compared by what they are and
//! not by how they are spelled: `a`, `./a`, a hard link and a symbolic link are one file. One that
//! does not exist yet is the nearest folder that does, and the rest of the path.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use pp_telemetry::{OWN_FILES, STDERR_FILE, WholeFile};

use super::CliError;
use super::endings::Content;
use super::output::Target;
use super::refusal::excerpt;

/// Links that are followed to a file that does not exist.
const LINKS_MAX: usize = 40;

/// A file by its device and its number on it: the same under all of its names.
type FileId = (u64, u64);

/// What tells a file from every other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// It exists.
    There(FileId),
    /// It does not: the nearest folder that does, and the names below that.
    Missing(FileId, PathBuf),
}

impl Place {
    /// What a path names, links followed.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            match fs::metadata(&path) {
                Ok(about) => return Ok(Self::There((about.dev(), about.ino()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // A link to what does not exist is followed by hand.
            match path.read_link() {
                Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
                Err(_) => return Self::missing(&path),
            }
        }
        Err(io::Error::other("there are too many symbolic links"))
    }

    fn missing(path: &Path) -> io::Result<Self> {
        for ancestor in path.ancestors().skip(1) {
            let dir = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
            let about = match fs::metadata(dir) {
                Ok(about) => about,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut rest = PathBuf::new();
            for part in path.strip_prefix(ancestor).unwrap_or(path).components() {
                match part {
                    // There are no links among names that do not exist.
                    Component::ParentDir => drop(rest.pop()),
                    Component::Normal(name) => rest.push(name),
                    _ => {}
                }
            }
            return Ok(Self::Missing((about.dev(), about.ino()), rest));
        }
        Err(io::Error::from(io::ErrorKind::NotFound))
    }

    /// Whether this is the other, or a folder above it that does not exist yet.
    fn is_or_holds(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Missing(dir, rest), Self::Missing(other_dir, other_rest)) => {
                dir == other_dir && other_rest.starts_with(rest)
            }
            _ => self == other,
        }
    }
}

/// A file that a command writes.
struct Output {
    flag: String,
    path: PathBuf,
    place: Place,
    is_stream: bool,
    /// The run makes its folder.
    is_below_new: bool,
}

/// The files of a command.
#[derive(Default)]
pub(crate) struct Files {
    /// Existing files may be replaced.
    force: bool,
    /// Inputs, with the flag that names each.
    inputs: Vec<(String, Place)>,
    /// What belongs to a run, and what it is.
    own: Vec<(String, Place)>,
    /// Folders of runs, and those that a run will make.
    dirs: Vec<(PathBuf, Place)>,
    outputs: Vec<Output>,
}

impl Files {
    /// No files yet; with `force` existing ones may be replaced. The configuration is always read.
    pub(crate) fn new(force: bool) -> Self {
        let mut files = Self { force, ..Self::default() };
        if let Ok(path) = pptop::config::config_path(|name| std::env::var_os(name)) {
            files.input("the configuration", &path);
        }
        files
    }

    /// A file that is read by `reader`: a flag, or a name of what it is.
    pub(crate) fn input(&mut self, reader: &str, path: &Path) {
        // What cannot be found cannot be destroyed; whoever reads it will say so.
        if let Ok(place) = Place::of(path) {
            self.inputs.push((reader.to_owned(), place));
        }
    }

    /// The folder of a run, with all that it writes there.
    pub(crate) fn run_dir(&mut self, dir: &Path) {
        for name in OWN_FILES {
            if let Ok(place) = Place::of(&dir.join(name)) {
                self.own.push((name.to_owned(), place));
            }
        }
        if let Ok(place) = Place::of(dir) {
            self.dirs.push((dir.to_owned(), place));
        }
    }

    /// A file that is written.
    ///
    /// # Errors
    /// [`CliError::Usage`] if its ending means another format, or no file can be written there.
    pub(crate) fn output(
        &mut self,
        flag: &str,
        path: &Path,
        content: Content,
    ) -> Result<(), CliError> {
        match Target::of(path) {
            Target::Stdout => Ok(()),
            Target::Stream(_) => self.add(flag, path, true),
            Target::File => self.result(flag, path, content),
        }
    }

    /// The same for what can only go into a file.
    ///
    /// # Errors
    /// As [`Files::output`].
    pub(crate) fn result(
        &mut self,
        flag: &str,
        path: &Path,
        content: Content,
    ) -> Result<(), CliError> {
        content.refuse_other_ending(flag, path)?;
        self.add(flag, path, false)
    }

    fn add(&mut self, flag: &str, path: &Path, is_stream: bool) -> Result<(), CliError> {
        let place = Place::of(path).map_err(|error| {
            let remedy = "name a file in a folder that exists and can be written";
            unwritable(flag, path, &error, remedy)
        })?;
        // A folder that the run makes is there when the file is written.
        let is_below_new = match &place {
            Place::Missing(dir, rest) => self.dirs.iter().any(|(_, place)| {
                matches!((place, rest.parent()), (Place::Missing(other, run), Some(parent))
                    if other == dir && run.starts_with(parent) && parent != Path::new(""))
            }),
            Place::There(_) => false,
        };
        let (flag, path) = (flag.to_owned(), path.to_owned());
        self.outputs.push(Output { flag, path, place, is_stream, is_below_new });
        Ok(())
    }

    /// Refuses what would destroy something: before the work begins, and without writing anything.
    ///
    /// # Errors
    /// [`CliError::Usage`] with the flag, the file, and what to do instead.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        self.refuse_into_standard_output()?;
        for (at, output) in self.outputs.iter().enumerate() {
            let refused = |why: &str| {
                let path = excerpt(&output.path.display().to_string());
                CliError::Usage(format!("{} {path} {why}", output.flag))
            };
            if let Some((reader, _)) = self.inputs.iter().find(|(_, place)| *place == output.place)
            {
                return Err(refused(&format!(
                    "is the file that {reader} reads; name another file"
                )));
            }
            if let Some((name, _)) = self.own.iter().find(|(_, place)| *place == output.place) {
                return Err(refused(&format!(
                    "is {name}, which belongs to the run; name another file"
                )));
            }
            if self.dirs.iter().any(|(_, place)| output.place.is_or_holds(place)) {
                return Err(refused("is the folder of the run; name a file"));
            }
            let clash = self.outputs[..at].iter().find(|other| other.place == output.place);
            if let Some(other) = clash.filter(|_| !output.is_stream) {
                return Err(refused(&format!(
                    "is the same file as {}; name two files",
                    other.flag
                )));
            }
            if output.is_stream || output.is_below_new {
                continue;
            }
            // Whether it can be written is tried, and leaves nothing.
            WholeFile::shared(&output.path).map(drop).map_err(|no| {
                let remedy = no.remedy.unwrap_or("name another file");
                unwritable(&output.flag, &output.path, &no.why, remedy)
            })?;
            if !self.force && output.path.symlink_metadata().is_ok() {
                return Err(refused("already exists; name another file, or add --force"));
            }
        }
        Ok(())
    }

    /// What is read must not grow while it is read.
    fn refuse_into_standard_output(&self) -> Result<(), CliError> {
        let streams = [
            ("standard output", regular(&io::stdout())),
            ("standard error", regular(&io::stderr())),
        ];
        for (stream, place) in streams {
            let Some(place) = place else { continue };
            let read = self.inputs.iter().map(|(reader, place)| (reader.as_str(), place));
            // What a run says on standard error is where it should be in its own file of that name.
            let own = self.own.iter().filter(|(name, _)| name != STDERR_FILE);
            let own = own.map(|(name, place)| (name.as_str(), place));
            if let Some((what, _)) = read.chain(own).find(|(_, other)| **other == place) {
                return Err(CliError::Usage(format!(
                    "{stream} goes into the file of {what}, which this command uses; send it to another file"
                )));
            }
        }
        Ok(())
    }
}

fn unwritable(flag: &str, path: &Path, why: &dyn std::fmt::Display, remedy: &str) -> CliError {
    let path = excerpt(&path.display().to_string());
    CliError::Usage(format!("{flag} {path}: cannot write this file: {why}; {remedy}"))
}

/// What an open file is, if it is a regular one.
fn regular(stream: &impl AsFd) -> Option<Place> {
    let file = fs::File::from(stream.as_fd().try_clone_to_owned().ok()?);
    let about = file.metadata().ok()?;
    about.is_file().then(|| Place::There((about.dev(), about.ino())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_what_it_is_however_it_is_spelled() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| Place::of(&folder.path().join(name)).unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        fs::hard_link(folder.path().join("a"), folder.path().join("hard")).unwrap();
        symlink("a", folder.path().join("soft")).unwrap();
        symlink("soft", folder.path().join("softer")).unwrap();
        symlink("new", folder.path().join("dangling")).unwrap();
        symlink("sub", folder.path().join("link")).unwrap();
        symlink("loop", folder.path().join("loop")).unwrap();
        for name in ["./a", "sub/../a", "hard", "soft", "softer", "link/../a"] {
            assert_eq!(place(name), place("a"), "{name}");
        }
        for name in ["./new", "sub/../new", "dangling", "sub/../sub/../new"] {
            assert_eq!(place(name), place("new"), "{name}");
        }
        assert_eq!(place("link/x"), place("sub/x"));
        assert_eq!(place("no/b/../c"), place("no/c"));
        assert_ne!(place("no/c"), place("no/d"));
        assert_ne!(place("sub/new"), place("new"));
        assert!(Place::of(&folder.path().join("loop")).is_err());
        assert!(Place::of(&folder.path().join("a/below")).is_err());
    }

    #[test]
    fn a_file_may_go_into_the_folder_that_the_run_makes() {
        let folder = tempfile::tempdir().unwrap();
        let checked = |outputs: &[&str]| -> Result<(), CliError> {
            let mut files = Files::new(false);
            files.run_dir(&folder.path().join("new/run"));
            for output in outputs {
                files.output("--save", &folder.path().join(output), Content::Weights)?;
            }
            files.check()
        };
        let said = |outputs: &[&str]| checked(outputs).map_err(|no| format!("{no:?}"));
        assert_eq!(said(&["new/run/w.safetensors", "new/w", "w"]), Ok(()));
        for (outputs, why) in [
            (&["new"][..], "is the folder of the run"),
            (&["new/run"], "is the folder of the run"),
            (&["new/run/status.json"], "does not fit"),
            (&["new/other/w"], "No such file"),
            (&["new/run/sub/w"], "No such file"),
            (&["new/w", "new/./w"], "is the same file as --save"),
        ] {
            let said = said(outputs).unwrap_err();
            assert!(said.contains(why), "{outputs:?}: {said}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
