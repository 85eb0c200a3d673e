//! What the control groups of this process leave it: cores, memory, threads.
//!
//! A limit holds for a group and all groups below it, so the least on the way from the own group up
//! to the root of the mount is the one that counts. Both versions of the interface are read, also
//! side by side. In a container the mount begins at the container's own group; `mountinfo` says so.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

/// Version 1 says "no limit" by a number of about this size.
const NO_LIMIT: u64 = 1 << 62;

/// What the groups of a process leave it; `None` where no group limits it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Cores' worth of time.
    pub cores: Option<f64>,
    /// Bytes of memory in all.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory that are still free. What is held of files counts as free.
    pub memory_free_bytes: Option<u64>,
    /// Processes and threads.
    pub threads: Option<u64>,
}

/// One of the hierarchies of groups: where its files are, for the own group first.
struct Groups {
    dirs: Vec<PathBuf>,
    is_v2: bool,
}

impl Limits {
    /// The limits of this process.
    pub fn here() -> Self {
        Self::of(Path::new("/"))
    }

    /// The limits of the process whose `/proc/self` and mounted groups are below `root`.
    pub fn of(root: &Path) -> Self {
        let mut limits = Self::default();
        let read = |name: &str| fs::read(root.join("proc/self").join(name)).unwrap_or_default();
        let (own, mounts) = (read("cgroup"), read("mountinfo"));
        for (controllers, group) in own.split(|&byte| byte == b'\n').filter_map(own_group) {
            for controller in ["cpu", "memory", "pids"] {
                let is_v2 = controllers.is_empty();
                if !is_v2
                    && !controllers.split(|&byte| byte == b',').any(|c| c == controller.as_bytes())
                {
                    continue;
                }
                let mounted = mounts
                    .split(|&byte| byte == b'\n')
                    .find_map(|line| mount_of(line, (!is_v2).then_some(controller)));
                let Some((mount_root, point)) = mounted else { continue };
                let groups = Groups { dirs: dirs_of(root, &mount_root, &point, group), is_v2 };
                match controller {
                    "cpu" => least(&mut limits.cores, groups.cores()),
                    "memory" => {
                        let (all, free) = groups.memory();
                        least(&mut limits.memory_bytes, all);
                        least(&mut limits.memory_free_bytes, free);
                    }
                    _ => least(&mut limits.threads, groups.least("pids.max")),
                }
            }
        }
        limits
    }
}

/// Cores that this process may use, by affinity and by the limits of its groups; at least one.
pub fn cores() -> u32 {
    let by_affinity = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    whole_cores(by_affinity, Limits::here().cores)
}

/// Bytes of this machine's memory, or of this process's limit if that is less; `None` if the system
/// does not report them.
pub fn host_memory_bytes() -> Option<u64> {
    let bytes = meminfo_bytes("MemTotal:")?;
    Some(Limits::here().memory_bytes.map_or(bytes, |limit| limit.min(bytes)))
}

/// A number of `/proc/meminfo` in bytes, by its key with the colon.
fn meminfo_bytes(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Rounds down: no rank can use a fraction of a core.
#[expect(clippy::cast_sign_loss, reason = "a limit is not negative")]
fn whole_cores(by_affinity: u32, limit: Option<f64>) -> u32 {
    limit.map_or(by_affinity, |limit| by_affinity.min((limit as u32).max(1)))
}

fn least<T: PartialOrd + Copy>(limit: &mut Option<T>, other: Option<T>) {
    if let Some(other) = other.filter(|other| limit.is_none_or(|limit| *other < limit)) {
        *limit = Some(other);
    }
}

/// Which controllers a line of `/proc/self/cgroup` is about, and the group; none are named for
/// version 2.
fn own_group(line: &[u8]) -> Option<(&[u8], &Path)> {
    let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    Some((controllers, Path::new(std::ffi::OsStr::from_bytes(group))))
}

/// The group at the root of a mount and where it is mounted, if the line of `mountinfo` is about
/// this controller, or about version 2.
fn mount_of(line: &[u8], controller: Option<&str>) -> Option<(PathBuf, PathBuf)> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    // Any number of optional fields ends with a hyphen.
    let end = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    let [kind, _, options, ..] = fields.get(end + 1..)? else { return None };
    let fits = match controller {
        None => *kind == b"cgroup2",
        Some(name) => {
            *kind == b"cgroup" && options.split(|&byte| byte == b',').any(|o| o == name.as_bytes())
        }
    };
    fits.then(|| (unescaped(fields[3]), unescaped(fields[4])))
}

/// A path of `mountinfo`: `\040` is a space.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(code) = code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            bytes.push(code);
            rest = &after[3..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    OsString::from_vec(bytes).into()
}

/// The folders of a group and of those above it, up to where the groups are mounted.
fn dirs_of(root: &Path, mount_root: &Path, point: &Path, group: &Path) -> Vec<PathBuf> {
    let point = root.join(point.strip_prefix("/").unwrap_or(point));
    // A group that is not below the mount is one that cannot be seen from here, nor those between.
    let below = group.strip_prefix(mount_root).unwrap_or(Path::new(""));
    let is_plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let below = if is_plain { below } else { Path::new("") };
    below.ancestors().map(|path| point.join(path)).collect()
}

impl Groups {
    /// The least of the numbers in the files of this name; a word, such as `max`, is no limit.
    fn least(&self, file: &str) -> Option<u64> {
        self.dirs.iter().filter_map(|dir| number(&dir.join(file))).min()
    }

    fn cores(&self) -> Option<f64> {
        let of = |dir: &PathBuf| {
            let (quota, period) = if self.is_v2 {
                let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            } else {
                (number(&dir.join("cpu.cfs_quota_us"))?, number(&dir.join("cpu.cfs_period_us"))?)
            };
            (period > 0).then(|| quota as f64 / period as f64)
        };
        self.dirs.iter().filter_map(of).min_by(f64::total_cmp)
    }

    /// The least limit, and the least that one of the groups has left of its own.
    fn memory(&self) -> (Option<u64>, Option<u64>) {
        let (most, current, file) = if self.is_v2 {
            ("memory.max", "memory.current", "file ")
        } else {
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache ")
        };
        let (mut all, mut free) = (None, None);
        for dir in &self.dirs {
            let Some(limit) = number(&dir.join(most)).filter(|&limit| limit < NO_LIMIT) else {
                continue;
            };
            let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            let of_files =
                stat.lines().find_map(|line| line.strip_prefix(file)?.trim().parse().ok());
            let held = number(&dir.join(current)).unwrap_or(0);
            least(&mut all, Some(limit));
            least(
                &mut free,
                Some(limit.saturating_sub(held.saturating_sub(of_files.unwrap_or(0)))),
            );
        }
        (all, free)
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Bytes of memory that can be had now without swapping: those of the machine, or what the control
/// groups leave of them. `None` where the system does not say.
pub fn memory_available() -> Option<u64> {
    let free = meminfo_bytes("MemAvailable:")?;
    // A container may have less than the machine.
    let left = Limits::here().memory_free_bytes;
    Some(left.map_or(free, |left| free.min(left)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A made-up system.
    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const V2: &str = "22 1 0:20 / /proc rw - proc proc rw\n\
                      30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_machine_says_how_much_memory_it_has() {
        assert!(host_memory_bytes().is_some_and(|bytes| bytes > 1 << 26));
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let group = "sys/fs/cgroup/user.slice/job.scope";
        let tree = tree(&[
            ("proc/self/cgroup", "0::/user.slice/job.scope/inner\n"),
            ("proc/self/mountinfo", V2),
            (&format!("{group}/inner/cpu.max"), "max 100000\n"),
            (&format!("{group}/inner/memory.max"), "max\n"),
            (&format!("{group}/cpu.max"), "250000 100000\n"),
            (&format!("{group}/memory.max"), "4000\n"),
            (&format!("{group}/memory.current"), "3000\n"),
            (&format!("{group}/memory.stat"), "anon 2000\nfile 1000\nkernel 1\n"),
            (&format!("{group}/pids.max"), "70\n"),
            ("sys/fs/cgroup/user.slice/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "9000\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "8500\n"),
            ("sys/fs/cgroup/user.slice/pids.max", "max\n"),
            // Of another group.
            ("sys/fs/cgroup/other/cpu.max", "1000 100000\n"),
        ]);
        let limits = Limits {
            cores: Some(2.5),
            memory_bytes: Some(4000),
            // The outer group has less left than the inner one, though its limit is higher.
            memory_free_bytes: Some(500),
            threads: Some(70),
        };
        assert_eq!(Limits::of(tree.path()), limits);
    }

    #[test]
    fn in_a_container_the_mount_begins_at_its_own_group() {
        let mount = "30 22 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        for (group, cores) in [
            ("0::/docker/abc/job\n", Some(1.5)),
            ("0::/docker/abc\n", Some(2.0)),
            // With a namespace of its own, and seen from within another.
            ("0::/\n", Some(2.0)),
            ("0::/../../elsewhere\n", Some(2.0)),
            ("", None),
        ] {
            let tree = tree(&[
                ("proc/self/cgroup", group),
                ("proc/self/mountinfo", mount),
                ("sys/fs/cgroup/cpu.max", "200000 100000\n"),
                ("sys/fs/cgroup/job/cpu.max", "150000 100000\n"),
            ]);
            assert_eq!(Limits::of(tree.path()).cores, cores, "{group}");
        }
    }

    #[test]
    fn the_first_version_has_a_mount_for_each_controller() {
        let tree = tree(&[
            ("proc/self/cgroup", "9:memory:/job\n4:cpu,cpuacct:/job/inner\n0::/unified\n"),
            (
                "proc/self/mountinfo",
                "31 25 0:27 / /mnt/with\\040space/cpu rw shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct\n\
                     32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                     33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            ),
            ("mnt/with space/cpu/job/inner/cpu.cfs_quota_us", "-1\n"),
            ("mnt/with space/cpu/job/inner/cpu.cfs_period_us", "100000\n"),
            ("mnt/with space/cpu/job/cpu.cfs_quota_us", "50000\n"),
            ("mnt/with space/cpu/job/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1000\n"),
            ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "900\n"),
            ("sys/fs/cgroup/memory/job/memory.stat", "cache 1\ntotal_cache 300\n"),
        ]);
        let limits = Limits {
            cores: Some(0.5),
            memory_bytes: Some(1000),
            memory_free_bytes: Some(400),
            threads: None,
        };
        assert_eq!(Limits::of(tree.path()), limits);
    }

    #[test]
    fn a_part_of_a_core_is_none_but_the_first() {
        for (limit, n_cores) in
            [(None, 8), (Some(0.2), 1), (Some(1.0), 1), (Some(2.9), 2), (Some(99.0), 8)]
        {
            assert_eq!(whole_cores(8, limit), n_cores, "{limit:?}");
        }
        assert!(cores() >= 1);
        assert_eq!(Limits::of(Path::new("/nonexistent")), Limits::default());
    }
}
