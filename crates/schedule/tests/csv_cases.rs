//! A hundred thousand broken files: none makes the reader panic, each is told in one line with its
//! row, column and cell.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use pp_schedule::{CsvFault, ScheduleError, ScheduleName, Sizes, export_csv, import_csv};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

/// Files as they should be, of every schedule at small sizes.
fn good_files() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for name in ScheduleName::ALL {
        for (p, m) in [(1, 2), (2, 2), (2, 4), (4, 8)] {
            let n_virtual_stages = name.default_virtual_stages();
            let sizes =
                Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages, interleave_group: None };
            if let Ok(plan) = name.generate(&sizes) {
                files.push(export_csv(&plan).into_bytes());
            }
        }
    }
    files
}

/// Cells of the kinds that a file may hold by mistake.
const CELLS: [&str; 22] = [
    "",
    " ",
    "0F0",
    "1B0",
    "0I0",
    "0W0",
    "3F7",
    "9F9",
    "0X0",
    "F",
    "0F",
    "-1F0",
    "0F-1",
    "0.5F0",
    "4294967295F0",
    "4294967296F0",
    "0SEND_F0",
    "0F0,0F0",
    "(0F0;0B0)OVERLAP_F_B",
    "(1F1;0B0)OVERLAP_F_B",
    "OVERLAP_F_B",
    "\u{feff}0F0",
];

/// One way in which a file breaks.
fn break_file(file: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(file.len());
    match random.below(10) {
        // truncated
        0 => file.truncate(at),
        // a byte of any kind in the place of another, or between two
        1 if !file.is_empty() => file[at] = random.below(256) as u8,
        2 => file.insert(at, random.below(256) as u8),
        // a byte too few
        3 if !file.is_empty() => {
            file.remove(at);
        }
        // another cell
        4 | 5 => on_cells(
            file,
            |cells, random| {
                let (row, column) = place(cells, random);
                CELLS[random.below(CELLS.len())].clone_into(&mut cells[row][column]);
            },
            random,
        ),
        // two cells of any ranks swap
        6 => on_cells(
            file,
            |cells, random| {
                let (a, b) = (place(cells, random), place(cells, random));
                let first = cells[a.0][a.1].clone();
                cells[a.0][a.1] = std::mem::replace(&mut cells[b.0][b.1], first);
            },
            random,
        ),
        // two ranks swap, one is lost, or one is there twice
        7 => on_cells(
            file,
            |rows, random| {
                let (a, b) = (random.below(rows.len()), random.below(rows.len()));
                match random.below(3) {
                    0 => rows.swap(a, b),
                    1 => drop(rows.remove(a)),
                    _ => rows.push(rows[a].clone()),
                }
            },
            random,
        ),
        // bubbles, which mean nothing
        8 => on_cells(
            file,
            |cells, random| {
                let (row, column) = place(cells, random);
                cells[row].insert(column, String::new());
            },
            random,
        ),
        // nothing but noise
        _ => *file = (0..random.below(200)).map(|_| random.below(256) as u8).collect(),
    }
}

fn place(cells: &[Vec<String>], random: &mut Random) -> (usize, usize) {
    let row = random.below(cells.len());
    (row, random.below(cells[row].len()))
}

fn on_cells(
    file: &mut Vec<u8>,
    change: impl FnOnce(&mut Vec<Vec<String>>, &mut Random),
    random: &mut Random,
) {
    let Ok(text) = std::str::from_utf8(file) else { return };
    let cells = |line: &str| line.split(',').map(ToOwned::to_owned).collect();
    let mut cells: Vec<Vec<String>> = text.lines().map(cells).collect();
    if cells.is_empty() {
        return;
    }
    change(&mut cells, random);
    let ending = if random.below(2) == 0 { "\n" } else { "\r\n" };
    *file = cells.iter().map(|row| row.join(",") + ending).collect::<String>().into_bytes();
}

/// A refusal is one line that says where, and what to do; `true` for a plan that was accepted.
fn told(file: &[u8]) -> bool {
    let refused = match import_csv("case.csv", file, None) {
        Ok(plan) => {
            // What is accepted is a plan: it goes out and comes in again as it is.
            let again = import_csv("case.csv", export_csv(&plan).as_bytes(), None).unwrap();
            assert_eq!(again, plan);
            return true;
        }
        Err(refused) => refused,
    };
    let shown = || format!("{refused}\n\n{}", String::from_utf8_lossy(file));
    let headline = refused.headline();
    assert!(headline.len() <= 400 && headline.contains("; "), "{}", shown());
    if matches!(refused, ScheduleError::Csv(CsvFault::Empty)) {
        return false;
    }
    let (rank, column) = refused.place().unwrap_or_else(|| panic!("no place: {}", shown()));
    let line = file.split(|&byte| byte == b'\n').nth(rank.idx());
    let line = line.unwrap_or_else(|| panic!("row {rank} is not there: {}", shown()));
    // A cell that is missing stands behind the last one.
    let n_columns = line.split(|&byte| byte == b',').count();
    assert!(column <= n_columns, "column {column} of {n_columns}: {}", shown());
    assert!(
        headline.starts_with(&format!("row {rank}")) || headline.contains(&format!("row {rank}")),
        "{}",
        shown()
    );
    false
}

#[test]
fn a_hundred_thousand_broken_files() {
    const N: usize = 100_000;
    let good = good_files();
    assert!(good.iter().all(|file| told(file)));
    let mut random = Random(17);
    let mut n_accepted = 0;
    for _ in 0..N {
        let mut file = good[random.below(good.len())].clone();
        for _ in 0..=random.below(3) {
            break_file(&mut file, &mut random);
        }
        n_accepted += usize::from(told(&file));
    }
    // Bubbles, other line ends and exchanged ranks leave some plans as good as they were.
    assert!((N / 100..N / 2).contains(&n_accepted), "{n_accepted} of {N} were accepted");
}

#[test]
fn ten_megabytes() {
    let mut random = Random(5);
    let noise: Vec<u8> = (0..10 << 20).map(|_| random.below(256) as u8).collect();
    assert!(!told(&noise));
    let letters: Vec<u8> =
        (0..10 << 20).map(|_| b"0123456789FBIW,;()\n"[random.below(19)]).collect();
    assert!(!told(&letters));
    assert!(!told(&vec![b','; 10 << 20]));
    assert!(!told(&vec![b'\n'; 10 << 20]));
    assert!(!told(&vec![b'9'; 10 << 20]));
    let sizes =
        Sizes { n_ranks: 64, n_micro_batches: 12_000, n_virtual_stages: 1, interleave_group: None };
    let mut plan = export_csv(&ScheduleName::OneFOneB.generate(&sizes).unwrap()).into_bytes();
    assert!(plan.len() > 10 << 20, "{} bytes", plan.len());
    plan.truncate(10 << 20);
    assert!(!told(&plan));
}
