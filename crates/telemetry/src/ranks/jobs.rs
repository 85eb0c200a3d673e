//! Which files of a folder belong to one job.
//!
//! A folder may hold files of several jobs: of one that was restarted, or of two at once. The
//! launcher's variables tell jobs apart, and a rank that has several files with the same variables
//! wrote one in each job, in the order of their numbers.

use std::collections::{HashMap, HashSet};

use pp_trace::RankHead;

use super::lane::Lane;

/// The files of one job, as places in the list of lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    /// What tells it from other jobs of the folder.
    pub(super) key: (String, usize),
    /// When its first rank began, in nanoseconds of Unix time by that rank's machine.
    pub(super) began_unix_ns: u64,
    /// Its files.
    pub(super) lanes: Vec<usize>,
}

/// The jobs of a folder, the newest last, from the files' places, global ranks and first lines in
/// the order of their names.
pub(super) fn jobs<'a>(files: impl Iterator<Item = (usize, u32, &'a RankHead)>) -> Vec<Job> {
    let mut n_before: HashMap<(u32, &str), usize> = HashMap::new();
    let mut jobs: Vec<Job> = Vec::new();
    for (at, number, head) in files {
        let n_before = n_before.entry((number, head.job.as_str())).or_default();
        let key = (head.job.clone(), *n_before);
        *n_before += 1;
        match jobs.iter_mut().find(|job| job.key == key) {
            Some(job) => {
                job.lanes.push(at);
                job.began_unix_ns = job.began_unix_ns.min(head.unix_ns);
            }
            None => jobs.push(Job { key, began_unix_ns: head.unix_ns, lanes: vec![at] }),
        }
    }
    jobs.sort_by_key(|job| job.began_unix_ns);
    jobs
}

/// The job that is meant: that of the file with these numbers, if one was named, or the newest.
/// `numbers` gives the numbers in the name of a file by its place.
pub(super) fn meant(
    jobs: &[Job],
    named: Option<(u32, u32)>,
    numbers: impl Fn(usize) -> (u32, u32),
) -> Option<&Job> {
    match named {
        Some(named) => jobs.iter().find(|job| job.lanes.iter().any(|&at| numbers(at) == named)),
        None => jobs.last(),
    }
}

/// A rank of a job: its replica, its rank, and its place in the list of lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) replica: u32,
    pub(super) rank: u32,
    pub(super) lane: usize,
}

/// The ranks of a job in the order of replicas and ranks. Each pipeline is a replica, and they are
/// in the order of their global ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Crew {
    pub(super) members: Vec<Member>,
    pub(super) pp: u32,
    pub(super) dp: u32,
    /// Ranks that have no file.
    pub(super) missing: Vec<(u32, u32)>,
    /// Files that do not fit the rest, each with the reason.
    pub(super) odd: Vec<(usize, String)>,
}

/// Ranks of a job at most, as of any log that is shown.
const RANKS_MAX: u64 = 65_536;

impl Crew {
    pub(super) fn of(lanes: &[Lane], job: &Job) -> Self {
        let head_of = |&at: &usize| lanes[at].held.head.as_ref().map(|head| (at, head));
        let heads: Vec<(usize, &RankHead)> = job.lanes.iter().filter_map(head_of).collect();
        let mut crew = Self::default();
        // One odd file does not hide the others.
        let mut sizes: HashMap<u32, usize> = HashMap::new();
        for (_, head) in &heads {
            *sizes.entry(head.pp).or_default() += 1;
        }
        let most = sizes.into_iter().max_by_key(|&(pp, n)| (n, std::cmp::Reverse(pp)));
        let Some((pp, _)) = most else { return crew };
        crew.pp = pp;
        let mut pipelines: Vec<&[u32]> = heads.iter().map(|(_, head)| &*head.pipeline).collect();
        pipelines.sort_unstable();
        pipelines.dedup();
        crew.dp = u32::try_from(pipelines.len()).unwrap_or(u32::MAX);
        let mut seen: HashSet<(u32, u32)> = HashSet::new();
        let is_too_large = u64::from(crew.pp) * u64::from(crew.dp) > RANKS_MAX;
        for (at, head) in heads {
            let replica = pipelines.binary_search(&&*head.pipeline).unwrap_or(0) as u32;
            let (rank, pp) = (head.rank, head.pp);
            let twice = !seen.insert((replica, rank));
            let odd = if is_too_large {
                Some(format!("it says {pp} ranks; at most {RANKS_MAX} are shown"))
            } else if pp != crew.pp {
                Some(format!("it says {pp} ranks, and most files {}", crew.pp))
            } else if rank >= pp {
                Some(format!("it says rank {rank} of {pp}"))
            } else if twice {
                Some(format!("another file is of rank {rank} too"))
            } else {
                None
            };
            match odd {
                Some(why) => crew.odd.push((at, why)),
                None => crew.members.push(Member { replica, rank, lane: at }),
            }
        }
        crew.members.sort_unstable();
        if !is_too_large {
            let has = |replica, rank| {
                crew.members
                    .binary_search_by_key(&(replica, rank), |member| (member.replica, member.rank))
                    .is_ok()
            };
            crew.missing = (0..crew.dp)
                .flat_map(|replica| (0..crew.pp).map(move |rank| (replica, rank)))
                .filter(|&(replica, rank)| !has(replica, rank))
                .collect();
        }
        crew
    }
}

impl Crew {
    /// What a member is called in a message.
    pub(super) fn name(&self, member: &Member) -> String {
        self.name_of(member.replica, member.rank)
    }

    pub(super) fn name_of(&self, replica: u32, rank: u32) -> String {
        if self.dp > 1 {
            format!("rank {rank} of replica {replica}")
        } else {
            format!("rank {rank}")
        }
    }
}
