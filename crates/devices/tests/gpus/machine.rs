//! A machine whose driver's library is the stand-in.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nvml_stand_in::{CALLS_FILE, SCRIPT_FILE};
use pp_devices::{GpuSampler, Library};
use pp_telemetry::{Event, Gpu};
use tempfile::TempDir;

/// How long a test waits for what has to come: far longer than it ever takes.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The time between two looks.
pub(crate) const EVERY: Duration = Duration::from_millis(50);

/// A folder with a copy of the stand-in, and what it says. Two of them never share anything.
pub(crate) struct Machine {
    folder: TempDir,
}

impl Machine {
    /// A machine with these lines in its script.
    pub(crate) fn new(script: &str) -> Self {
        Self::without("", script)
    }

    /// The same, of an older driver whose library does not have `function`: in this copy it bears
    /// another name.
    pub(crate) fn without(function: &str, script: &str) -> Self {
        let machine = Self { folder: TempDir::with_prefix("pp-devices-").unwrap() };
        let mut library = fs::read(stand_in()).unwrap();
        if !function.is_empty() {
            rename(&mut library, function);
        }
        fs::write(machine.library_path(), library).unwrap();
        machine.says(script);
        machine
    }

    fn library_path(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    pub(crate) fn library(&self) -> Library {
        Library::At(self.library_path())
    }

    /// From the next call on, this is what the library says.
    pub(crate) fn says(&self, script: &str) {
        // Renamed into place, so that no call finds half of it.
        let new = self.folder.path().join("new");
        fs::write(&new, script).unwrap();
        fs::rename(new, self.folder.path().join(SCRIPT_FILE)).unwrap();
    }

    /// How often a function was called.
    pub(crate) fn calls(&self, function: &str) -> usize {
        let calls = fs::read_to_string(self.folder.path().join(CALLS_FILE)).unwrap_or_default();
        calls.lines().filter(|&line| line == function).count()
    }

    /// Waits until a function was called.
    pub(crate) fn until_called(&self, function: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.calls(function) == 0 {
            assert!(Instant::now() < deadline, "{function} was never called");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where a run can be recorded.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Starts to watch it.
    pub(crate) fn watch(&self) -> Watch {
        Watch::of(self.library())
    }
}

/// Where cargo has put the stand-in: beside this program, or one folder above.
fn stand_in() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let file =
        format!("{}nvml_stand_in{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let folders = program.ancestors().skip(1).take(2).map(Path::to_owned);
    let candidates: Vec<PathBuf> = folders.map(|folder| folder.join(&file)).collect();
    let found = candidates.iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("none of these is there: {candidates:?}")).clone()
}

/// Gives a function of a library another name of the same length: who looks it up does not find it.
fn rename(library: &mut [u8], function: &str) {
    let name = [b"\0", function.as_bytes(), b"\0"].concat();
    let places: Vec<usize> = library
        .windows(name.len())
        .enumerate()
        .filter(|(_, w)| *w == name)
        .map(|(at, _)| at)
        .collect();
    assert!(!places.is_empty(), "the library has no {function}");
    for at in places {
        library[at + 1] = b'_';
    }
}

/// The script of GPUs that tell everything, by their UUIDs.
pub(crate) fn healthy(uuids: &[&str]) -> String {
    let mut script = "driver = 580.95.05\ncuda = 13000\n".to_owned();
    for (at, uuid) in uuids.iter().enumerate() {
        let keys = [
            ("pci", format!("00000000:{:02X}:00.0", 0x10 + at)),
            ("name", "NVIDIA H100 80GB HBM3".to_owned()),
            ("utilisation", (70 + at).to_string()),
            ("total_bytes", "85520809984".to_owned()),
            ("used_bytes", "52720000000".to_owned()),
            ("power", "512250".to_owned()),
            ("energy", "1000500".to_owned()),
            ("temperature", "61".to_owned()),
            ("sm_clock", "1845".to_owned()),
            ("memory_clock", "2619".to_owned()),
            ("throttle", "4".to_owned()),
            ("pcie_sent", "1200000".to_owned()),
            ("pcie_received", "800000".to_owned()),
            ("processes", "2".to_owned()),
            ("sm_active", "68.5".to_owned()),
            ("tensor_active", "41".to_owned()),
            ("major", "9".to_owned()),
            ("minor", "0".to_owned()),
        ];
        writeln!(script, "gpu {uuid}").unwrap();
        for (key, value) in keys {
            writeln!(script, "{key} = {value}").unwrap();
        }
    }
    script
}

/// A sampler, and all that it has told.
pub(crate) struct Watch {
    pub(crate) sampler: GpuSampler,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

impl Watch {
    pub(crate) fn of(library: Library) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&events);
        let sink = move |event| into.lock().unwrap().push(event);
        Self { sampler: GpuSampler::start(library, EVERY, Instant::now(), sink), events }
    }

    /// All looks so far.
    pub(crate) fn looks(&self) -> Vec<Gpu> {
        let gpu = |event: &Event| match event {
            Event::Gpu(gpu) => Some((**gpu).clone()),
            _ => None,
        };
        self.events.lock().unwrap().iter().filter_map(gpu).collect()
    }

    /// Looks that come from now on, until one of them is as wanted.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Gpu) -> bool) -> Gpu {
        let begin = self.looks().len();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let looks = self.looks();
            if let Some(look) = looks[begin..].iter().find(|look| wanted(look)) {
                return look.clone();
            }
            assert!(
                Instant::now() < deadline,
                "{what}: no such look; the last: {:?}",
                looks.last()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The first line for the log.
    pub(crate) fn first_log(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(Event::Log(log)) = self.events.lock().unwrap().first() {
                return log.message.clone();
            }
            assert!(Instant::now() < deadline, "nobody says why");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
