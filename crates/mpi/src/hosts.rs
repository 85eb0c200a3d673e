//! The processes on their hosts: which index each has, and whether each has a core.

use rustix::thread::CpuSet;

/// Words of what a process tells about itself: its host's name, and the cores that it may use.
pub(crate) const WORDS: usize = NAME_WORDS + CORE_WORDS;
const NAME_WORDS: usize = 32;
const CORE_WORDS: usize = 16;

/// What a process tells about itself.
pub(crate) fn tell(host: &str) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words[..NAME_WORDS].iter_mut().zip(host.as_bytes().chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        let cores = (0..CpuSet::MAX_CPU.min(64 * CORE_WORDS)).filter(|&core| allowed.is_set(core));
        cores.for_each(|core| words[NAME_WORDS + core / 64] |= 1 << (core % 64));
    }
    words
}

fn name(words: &[u64]) -> String {
    let bytes: Vec<u8> = words[..NAME_WORDS].iter().flat_map(|word| word.to_le_bytes()).collect();
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Where the processes of a run are.
#[derive(Debug, PartialEq)]
pub(crate) struct Hosts {
    /// The MPI rank of each process, by index. Processes of one host are next to each other, so
    /// that the neighbours in a pipeline are, and replicas are on different hosts where possible.
    pub(crate) mpi_ranks: Vec<i32>,
    /// The host of each process, by index.
    pub(crate) names: Vec<String>,
    /// Whether there is a core for each process of its host, by index.
    pub(crate) has_core: Vec<bool>,
    /// The cores that the processes may use, over all hosts.
    pub(crate) n_cores: u32,
}

impl Hosts {
    /// `told` is what each process told, by MPI rank.
    pub(crate) fn new(told: &[[u64; WORDS]]) -> Self {
        let of_rank: Vec<String> = told.iter().map(|words| name(words)).collect();
        let mut hosts: Vec<&String> = Vec::new();
        for host in &of_rank {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let on = |host: &String| {
            let of_rank = of_rank.iter().enumerate();
            of_rank.filter(|(_, other)| *other == host).map(|(rank, _)| rank).collect::<Vec<_>>()
        };
        let (mut mpi_ranks, mut names, mut has_core) = (Vec::new(), Vec::new(), Vec::new());
        let mut n_cores_of_all = 0;
        for host in hosts {
            let ranks = on(host);
            let mut cores = [0_u64; CORE_WORDS];
            for &rank in &ranks {
                let of_rank = &told[rank][NAME_WORDS..];
                cores.iter_mut().zip(of_rank).for_each(|(all, cores)| *all |= cores);
            }
            let n_cores = cores.iter().map(|word| word.count_ones() as usize).sum::<usize>();
            n_cores_of_all += n_cores as u32;
            for rank in &ranks {
                mpi_ranks.push(*rank as i32);
                names.push(host.clone());
                has_core.push(n_cores >= ranks.len());
            }
        }
        Self { mpi_ranks, names, has_core, n_cores: n_cores_of_all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host: &str, cores: u64) -> [u64; WORDS] {
        let mut words = tell(host);
        words[NAME_WORDS..].fill(0);
        words[NAME_WORDS] = cores;
        words
    }

    #[test]
    fn processes_of_one_host_are_next_to_each_other() {
        // As `--map-by node` starts them.
        let hosts = Hosts::new(&[told("a", 1), told("b", 3), told("a", 1), told("b", 3)]);
        assert_eq!(hosts.mpi_ranks, [0, 2, 1, 3]);
        assert_eq!(hosts.names, ["a", "a", "b", "b"]);
        // Both of a may use the same core alone.
        assert_eq!(hosts.has_core, [false, false, true, true]);
        assert_eq!(hosts.n_cores, 1 + 2);
        // Each bound to a core of its own.
        let hosts = Hosts::new(&[told("a", 1), told("a", 2)]);
        assert_eq!(hosts.has_core, [true, true]);
    }

    #[test]
    fn a_long_name_is_cut_and_a_real_one_comes_back() {
        assert_eq!(name(&tell("node-17.cluster.example")), "node-17.cluster.example");
        assert_eq!(name(&tell(&"x".repeat(1000))), "x".repeat(256));
        let own = tell("here");
        assert!(own[NAME_WORDS..].iter().any(|&word| word != 0), "this process has a core");
    }
}
