//! `pptop man`: manual pages, made from the same table as `--help`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap_mangen::Man;

use super::endings::Content;
use super::output::Output;
use super::outputs::Files;
use super::refusal::excerpt;
use super::{CliError, print};

/// Where the pages go.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write one page per command into this folder, which is created if missing
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Replace existing pages
    #[arg(long, requires = "dir")]
    force: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, mut program: clap::Command) -> Result<(), CliError> {
    // Gives every command its whole name: `pptop schedule show`.
    program.build();
    let Some(dir) = &args.dir else {
        let page = page(&Man::new(program)).map_err(|error| CliError::Failed(error.to_string()))?;
        return print(&String::from_utf8_lossy(&page));
    };
    let refused = |error: io::Error| {
        CliError::Usage(format!(
            "cannot write manual pages to {}: {error}; name a folder that can be written to",
            excerpt(&dir.to_string_lossy())
        ))
    };
    let mut pages = Vec::new();
    collect(program, &mut pages).map_err(refused)?;
    fs::create_dir_all(dir).map_err(refused)?;
    write(dir, &pages, args.force)?;
    let names: Vec<String> =
        pages.iter().map(|(name, _)| format!("{}\n", dir.join(name).display())).collect();
    print(&names.concat())
}

fn page(man: &Man) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(page)
}

/// The page of a command and those of all commands below it, each under its file name.
fn collect(command: clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let below: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    let man = Man::new(command);
    pages.push((man.get_filename(), page(&man)?));
    below.into_iter().try_for_each(|command| collect(command, pages))
}

/// Writes all pages, or none where one of them would replace something else. A page that is there
/// as it would be written is left.
fn write(dir: &Path, pages: &[(String, Vec<u8>)], force: bool) -> Result<(), CliError> {
    let is_there = |(name, page): &&(String, Vec<u8>)| {
        let path = dir.join(name);
        path.symlink_metadata().is_ok_and(|about| about.is_file())
            && fs::read(&path).is_ok_and(|bytes| bytes == *page)
    };
    let new: Vec<_> = pages.iter().filter(|page| !is_there(page)).collect();
    let mut files = Files::new(force);
    for (name, _) in &new {
        files.output("--dir", &dir.join(name), Content::Manual)?;
    }
    files.check()?;
    new.into_iter().try_for_each(|(name, page)| {
        let path = dir.join(name);
        let mut output = Output::to(&path, force)?;
        output.write_all(page).map_err(|error| CliError::Failed(error.to_string()))?;
        output.finish(&path)
    })
}
