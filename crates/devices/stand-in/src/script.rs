//! What the library says: the file, and how it is read.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// The file beside the library that says what it answers.
pub const SCRIPT_FILE: &str = "nvml.txt";
/// The file beside the library that lists the functions that were called.
pub const CALLS_FILE: &str = "calls.txt";

/// What a function of NVML returns.
pub(crate) type Code = u32;
pub(crate) const SUCCESS: Code = 0;
pub(crate) const NOT_SUPPORTED: Code = 3;
pub(crate) const NOT_FOUND: Code = 6;
pub(crate) const INSUFFICIENT_SIZE: Code = 7;
pub(crate) const GPU_IS_LOST: Code = 15;

/// The keys of the library itself, or of one GPU.
#[derive(Default)]
pub(crate) struct Keys(HashMap<String, String>);

impl Keys {
    fn push(&mut self, line: &str) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        self.0.insert(key.trim().to_owned(), value.trim().to_owned());
    }

    /// The value, or the error that stands in its place.
    pub(crate) fn text(&self, key: &str) -> Result<String, Code> {
        let value = self.0.get(key).ok_or(NOT_SUPPORTED)?;
        match value.strip_prefix("error ") {
            Some(code) => Err(code.trim().parse().unwrap_or(NOT_SUPPORTED)),
            None => Ok(value.clone()),
        }
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, Code> {
        self.text(key)?.parse().map_err(|_| NOT_SUPPORTED)
    }
}

/// The whole file.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) library: Keys,
    pub(crate) gpus: Vec<(String, Keys)>,
}

impl Script {
    fn read() -> Self {
        let mut script = Self::default();
        let text = fs::read_to_string(folder().join(SCRIPT_FILE)).unwrap_or_default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(uuid) = line.strip_prefix("gpu ") {
                script.gpus.push((uuid.trim().to_owned(), Keys::default()));
            } else {
                let keys = script.gpus.last_mut().map_or(&mut script.library, |(_, keys)| keys);
                keys.push(line);
            }
        }
        script
    }

    /// The file as it is at this call, which is noted.
    pub(crate) fn at_call(function: &str) -> Self {
        let calls = OpenOptions::new().append(true).create(true).open(folder().join(CALLS_FILE));
        // A call that could not be noted fails the test that looks for it.
        let _ = calls.and_then(|mut calls| calls.write_all(format!("{function}\n").as_bytes()));
        Self::read()
    }

    /// The keys of a GPU, once it answers.
    pub(crate) fn gpu(mut self, uuid: &str) -> Result<Keys, Code> {
        let began = Instant::now();
        loop {
            let at = self.gpus.iter().position(|(name, _)| name == uuid).ok_or(GPU_IS_LOST)?;
            let (_, keys) = self.gpus.swap_remove(at);
            let hang = Duration::from_millis(keys.number("hang_ms").unwrap_or(0));
            if began.elapsed() >= hang {
                let waits = keys.number("lost_until_init").is_ok_and(|n: usize| n_inits() < n);
                let lost = waits || keys.text("lost").is_ok();
                return if lost { Err(GPU_IS_LOST) } else { Ok(keys) };
            }
            thread::sleep(Duration::from_millis(20));
            self = Self::read();
        }
    }
}

fn n_inits() -> usize {
    let calls = fs::read_to_string(folder().join(CALLS_FILE)).unwrap_or_default();
    calls.lines().filter(|&line| line == "nvmlInit_v2").count()
}

/// Where this library lies. The system lists which file is mapped at which address; this function
/// is part of it.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let here = folder as fn() -> &'static Path as usize;
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let file = maps.lines().find_map(|line| {
            let (range, _) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let address = |text| usize::from_str_radix(text, 16).ok();
            let file = line.get(line.find('/')?..)?;
            (address(from)?..address(to)?).contains(&here).then(|| PathBuf::from(file))
        });
        file.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default()
    })
}
