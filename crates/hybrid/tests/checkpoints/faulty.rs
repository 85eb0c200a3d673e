//! A disk that fails, stops, or forgets.
//!
//! Operations are those of the real disk, below a folder. Beside them stands a model of what is
//! durable: the content of a file since its last sync, and the names in a folder since its last
//! sync. After a loss of power only that is certain; the rest may be there or not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pp_hybrid::checkpoint::{Disk, DiskFile, HostDisk};

/// The fault of the disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing goes wrong.
    None,
    /// One operation fails, and the next ones work.
    Once(usize),
    /// From this operation on nothing can be made or written; files can still be removed.
    Full(usize),
    /// The process is killed at this operation. A write may have been made in half.
    Killed(usize),
}

#[derive(Default)]
struct State {
    n_ops: usize,
    fault: Option<Fault>,
    nodes: Vec<Node>,
}

enum Node {
    File { now: Vec<u8>, durable: Option<Vec<u8>> },
    Folder { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize> },
}

/// The kinds of operations that a fault tells apart.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Make,
    Remove,
}

#[derive(Clone)]
pub(crate) struct Faulty {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

impl Faulty {
    /// A disk below `root`. Everything that is there is durable.
    pub(crate) fn new(root: &Path, fault: Fault) -> Self {
        let mut state = State { fault: Some(fault), ..State::default() };
        add(&mut state.nodes, root);
        Self { root: root.to_owned(), state: Arc::new(Mutex::new(state)) }
    }

    /// Operations so far.
    pub(crate) fn n_ops(&self) -> usize {
        self.state.lock().unwrap().n_ops
    }

    /// Makes in `to` what may be left after a loss of power. `survives` decides for each name and
    /// content that was not synced whether it made it to the disk.
    pub(crate) fn after_power_loss(&self, to: &Path, survives: &mut dyn FnMut() -> bool) {
        let state = self.state.lock().unwrap();
        restore(&state.nodes, 0, to, survives);
    }

    /// Counts an operation, and says whether it is to be done.
    fn op(&self, kind: Kind) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        let at = state.n_ops;
        state.n_ops += 1;
        let fails = match state.fault {
            None | Some(Fault::None) => false,
            Some(Fault::Once(n)) => at == n,
            Some(Fault::Full(n)) => at >= n && kind == Kind::Make,
            Some(Fault::Killed(n)) => at >= n,
        };
        if fails { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Node>)) {
        change(&mut self.state.lock().unwrap().nodes);
    }

    fn parts(&self, path: &Path) -> Vec<String> {
        let below = path.strip_prefix(&self.root).unwrap();
        below.iter().map(|part| part.to_str().unwrap().to_owned()).collect()
    }
}

/// Adds what is at `path`, and returns its number.
fn add(nodes: &mut Vec<Node>, path: &Path) -> usize {
    let at = nodes.len();
    if path.is_dir() {
        nodes.push(Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new() });
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let node = add(nodes, &entry.path());
            names.insert(entry.file_name().into_string().unwrap(), node);
        }
        nodes[at] = Node::Folder { now: names.clone(), durable: names };
    } else {
        let content = fs::read(path).unwrap();
        nodes.push(Node::File { now: content.clone(), durable: Some(content) });
    }
    at
}

/// Makes what survives of a node at `to`.
fn restore(nodes: &[Node], at: usize, to: &Path, survives: &mut dyn FnMut() -> bool) {
    match &nodes[at] {
        Node::File { now, durable } => {
            let synced = durable.as_ref();
            let content = if synced != Some(now) && survives() {
                Some(&now[..now.len() / 2])
            } else {
                synced.map(Vec::as_slice)
            };
            fs::write(to, content.unwrap_or_default()).unwrap();
        }
        Node::Folder { now, durable } => {
            if !to.is_dir() {
                fs::create_dir(to).unwrap();
            }
            let mut names = BTreeMap::new();
            for (name, node) in durable {
                // A name that was removed or renamed away may be gone or not.
                if now.get(name) == Some(node) || !survives() {
                    names.insert(name, *node);
                }
            }
            for (name, node) in now {
                if durable.get(name) != Some(node) && survives() {
                    names.insert(name, *node);
                }
            }
            for (name, node) in names {
                restore(nodes, node, &to.join(name), survives);
            }
        }
    }
}

/// The names of a folder, as they are now.
fn names<'a>(nodes: &'a mut [Node], parts: &[String]) -> &'a mut BTreeMap<String, usize> {
    let at = find(nodes, parts);
    match &mut nodes[at] {
        Node::Folder { now, .. } => now,
        Node::File { .. } => panic!("{parts:?} is a file"),
    }
}

fn find(nodes: &[Node], parts: &[String]) -> usize {
    parts.iter().fold(0, |at, part| match &nodes[at] {
        Node::Folder { now, .. } => now[part],
        Node::File { .. } => panic!("{part} is in a file"),
    })
}

/// The parts of the folder of a path, and the name in it.
fn split(parts: &[String]) -> (&[String], &String) {
    let (name, folder) = parts.split_last().unwrap();
    (folder, name)
}

impl Disk for Faulty {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.op(Kind::Make)?;
        HostDisk.create_dir(path)?;
        let parts = self.parts(path);
        self.change(|nodes| {
            nodes.push(Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new() });
            let (at, (folder, name)) = (nodes.len() - 1, split(&parts));
            names(nodes, folder).insert(name.clone(), at);
        });
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.op(Kind::Make)?;
        let file = HostDisk.create(path)?;
        let parts = self.parts(path);
        let mut node = 0;
        self.change(|nodes| {
            nodes.push(Node::File { now: Vec::new(), durable: None });
            node = nodes.len() - 1;
            let (folder, name) = split(&parts);
            names(nodes, folder).insert(name.clone(), node);
        });
        Ok(Box::new(Opened { disk: self.clone(), file, node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.op(Kind::Make)?;
        HostDisk.rename(from, to)?;
        let (from, to) = (self.parts(from), self.parts(to));
        self.change(|nodes| {
            let (folder, name) = split(&from);
            let node = names(nodes, folder).remove(name).unwrap();
            let (folder, name) = split(&to);
            names(nodes, folder).insert(name.clone(), node);
        });
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.op(Kind::Make)?;
        let parts = self.parts(path);
        self.change(|nodes| {
            let at = find(nodes, &parts);
            if let Node::Folder { now, durable } = &mut nodes[at] {
                durable.clone_from(now);
            }
        });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.op(Kind::Remove)?;
        HostDisk.remove_file(path)?;
        let parts = self.parts(path);
        self.change(|nodes| {
            let (folder, name) = split(&parts);
            names(nodes, folder).remove(name);
        });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.op(Kind::Remove)?;
        HostDisk.remove_dir(path)?;
        let parts = self.parts(path);
        self.change(|nodes| {
            let (folder, name) = split(&parts);
            names(nodes, folder).remove(name);
        });
        Ok(())
    }
}

struct Opened {
    disk: Faulty,
    file: Box<dyn DiskFile>,
    node: usize,
}

impl Opened {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let node = self.node;
        self.disk.change(|nodes| {
            if let Node::File { now, .. } = &mut nodes[node] {
                now.extend_from_slice(bytes);
            }
        });
        Ok(())
    }
}

impl Write for Opened {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.op(Kind::Make) {
            self.append(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Opened {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.op(Kind::Make)?;
        let node = self.node;
        self.disk.change(|nodes| {
            if let Node::File { now, durable } = &mut nodes[node] {
                *durable = Some(now.clone());
            }
        });
        Ok(())
    }
}
