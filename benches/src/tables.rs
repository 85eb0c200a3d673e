//! Writes the tables of `docs/measurements.md` from the files of `benches/results`. Each table
//! stands between two markers.
#![expect(clippy::print_stdout, reason = "it says what it did")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

fn main() -> anyhow::Result<()> {
    let path = root().join(PAGE);
    let page = std::fs::read_to_string(&path)?;
    std::fs::write(&path, up_to_date(&page)?)?;
    println!("{PAGE}: peers and account");
    Ok(())
}

/// The page that holds the tables, below the root of the repository.
const PAGE: &str = "docs/measurements.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The page with the tables that follow from the results.
fn up_to_date(page: &str) -> anyhow::Result<String> {
    let results = root().join("benches/results");
    let page = replaced(page, "peers", &of_processors(&results, "peers", peers)?)?;
    replaced(&page, "account", &of_processors(&results, "account", account)?)
}

fn read(file: &Path) -> anyhow::Result<Value> {
    serde_json::from_str(&std::fs::read_to_string(file)?)
        .with_context(|| file.display().to_string())
}

/// The tables of every processor that was measured.
fn of_processors(
    results: &Path,
    what: &str,
    table: impl Fn(&Value) -> anyhow::Result<String>,
) -> anyhow::Result<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(results)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.starts_with(&format!("{what}-"))
            && path.extension().is_some_and(|ending| ending == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut text = String::new();
    for file in files {
        let found = read(&file)?;
        writeln!(text, "**{}**\n", found["processor"].as_str().context("no processor")?)?;
        text += &table(&found)?;
    }
    Ok(text)
}

/// The day (UTC) of a moment in seconds of Unix time: 2026-11-24.
fn day(unix_seconds: u64) -> String {
    let (year, month, day) = pp_telemetry::civil_date(unix_seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The page with another table between the markers of `name`.
fn replaced(page: &str, name: &str, table: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- table: {name} -->\n"), format!("<!-- end: {name} -->"));
    let start = page.find(&begin).with_context(|| format!("no {begin}"))? + begin.len();
    let stop = page.find(&end).with_context(|| format!("no {end}"))?;
    ensure!(start <= stop, "the markers of {name} are exchanged");
    Ok(format!("{}{table}{}", &page[..start], &page[stop..]))
}

fn number(value: &Value, key: &str) -> anyhow::Result<f64> {
    value[key].as_f64().with_context(|| format!("no number {key}"))
}

fn list<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("no list {key}"))
}

fn peers(found: &Value) -> anyhow::Result<String> {
    let mut text = String::new();
    for job in list(found, "jobs")? {
        let (name, rounds) = (job["job"].as_str().unwrap_or_default(), number(job, "rounds")?);
        writeln!(
            text,
            "| {name}, {rounds} rounds in turns, {} | median step | fastest to slowest | ratio to pptop: median, spread over the rounds |",
            day(job["unix_seconds"].as_u64().context("no unix_seconds")?)
        )?;
        writeln!(text, "|---|---|---|---|")?;
        for row in list(job, "rows")? {
            let seconds: Vec<f64> =
                list(row, "step_seconds")?.iter().filter_map(Value::as_f64).collect();
            let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let most = seconds.iter().copied().fold(0.0, f64::max);
            let way = row["way"].as_str().unwrap_or_default().trim();
            let ratio = match number(row, "ratio")? {
                ratio if (ratio - 1.0).abs() < 1e-12 => "–".to_owned(),
                ratio => format!(
                    "{ratio:.2}x, {:.2} to {:.2}",
                    number(row, "ratio_least")?,
                    number(row, "ratio_most")?
                ),
            };
            writeln!(
                text,
                "| {way} | {:.0} ms | {:.0} to {:.0} ms | {ratio} |",
                1e3 * number(row, "median")?,
                1e3 * least,
                1e3 * most
            )?;
        }
        if job["alone_compute_seconds"].is_null() {
            writeln!(text)?;
            continue;
        }
        let alone = |key: &str| -> anyhow::Result<Vec<f64>> {
            Ok(list(job, key)?.iter().filter_map(Value::as_f64).map(|s| 1e3 * s).collect())
        };
        let (compute, adam) = (alone("alone_compute_seconds")?, alone("alone_optimizer_seconds")?);
        writeln!(
            text,
            "\nOn one rank, forward and backward take {:.0} ms in pptop and {:.0} ms in PyTorch. Adam takes {:.1} ms and {:.1} ms.\n",
            compute[0], compute[1], adam[0], adam[1]
        )?;
    }
    Ok(text)
}

fn account(found: &Value) -> anyhow::Result<String> {
    let core = &found["core"];
    let mut text = format!(
        "{}: one core does {:.0} GFLOP/s in a product of 1024 x 1024, and reads {:.0} GB/s.\n\n",
        day(found["unix_seconds"].as_u64().context("no unix_seconds")?),
        number(core, "flops_per_second")? / 1e9,
        number(core, "bytes_per_second")? / 1e9
    );
    writeln!(
        text,
        "| `zb-h1`, two ranks | F, I and W | their products alone | ratio | ratio of F / I / W | waiting | copying | optimizer | rest | window / simulated window |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|---|")?;
    for job in list(found, "accounts")? {
        for rank in list(job, "ranks")? {
            let ratios: Vec<String> = list(rank, "phases")?
                .iter()
                .map(|phase| Ok(format!("{:.2}", number(phase, "ratio")?)))
                .collect::<anyhow::Result<_>>()?;
            let (ms, sum) =
                (|key: &str| number(rank, key).map(|ms| format!("{ms:.1} ms")), &rank["sum"]);
            writeln!(
                text,
                "| {}, rank {} | {:.1} ms | {:.1} ms | {:.2} | {} | {} | {} | {} | {} | {:.3} |",
                job["job"].as_str().unwrap_or_default(),
                rank["rank"],
                number(sum, "spans_ms")?,
                number(sum, "products_ms")?,
                number(sum, "ratio")?,
                ratios.join(" / "),
                ms("wait_ms")?,
                ms("copy_ms")?,
                ms("optimizer_ms")?,
                ms("rest_ms")?,
                number(job, "window_by_simulated")?
            )?;
        }
    }
    writeln!(text)?;
    for job in list(found, "pairs")? {
        let mut parts = Vec::new();
        for pair in list(job, "pairs")? {
            let quartiles = list(pair, "quartiles")?;
            parts.push(format!(
                "{} {:.3} ({:.3} to {:.3})",
                pair["what"].as_str().unwrap_or_default(),
                number(pair, "median")?,
                quartiles[0].as_f64().unwrap_or(f64::NAN),
                quartiles[1].as_f64().unwrap_or(f64::NAN)
            ));
        }
        writeln!(
            text,
            "{} in turns with a plain run, ratio of times, median and middle half of 20 pairs: {}.\n",
            job["job"].as_str().unwrap_or_default(),
            parts.join(", ")
        )?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `just tables` mends it.
    #[test]
    fn the_page_shows_the_results() {
        let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
        assert_eq!(up_to_date(&page).unwrap(), page);
    }
}
