//! `pptop compare`: the table in each of its formats.

use crate::home::{Home, words};

const JOB: &str = "compare --model sleep --pp 2 --micro-batches 4 --steps 3 --sleep-forward-ms 1 \
                   --sleep-input-grad-ms 1 --sleep-weight-grad-ms 1";

/// The comparison of one plan whose name means something to each format, and of the two base rows.
fn table(flags: &str) -> String {
    let home = Home::new();
    let plan = b"0F0,0F1,0B0,0F2,0B1,0F3,0B2,0B3\n1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3\n";
    home.write("a|b_50%.csv", plan);
    let mut args = words(JOB);
    args.extend(["--schedules", "a|b_50%.csv"]);
    args.extend(words(flags));
    let ran = home.run(&args);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout
}

#[test]
fn text_has_five_columns_and_all_of_them_where_asked() {
    let text = table("");
    let head = text.lines().nth(2).unwrap();
    for title in ["strategy", "step ms", "speed-up", "bubble (theory)", "peak MiB"] {
        assert!(head.contains(title), "{title} is not in: {head}");
    }
    for hidden in ["p95", "same bits", "overhead", "notebook", "converged"] {
        assert!(!text.contains(hidden), "{hidden} is in:\n{text}");
    }
    let wide = table("--wide");
    for title in ["p95", "same bits", "samples/s", "verdict", "overhead", "span", "by rank"] {
        assert!(wide.contains(title), "{title} is not in:\n{wide}");
    }
    assert!(!wide.contains("notebook"), "only --preset seed is the notebook's:\n{wide}");
}

#[test]
fn markdown_keeps_a_bar_inside_its_cell() {
    let text = table("--format markdown");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 2 + 3, "a head, a rule, a plan and two base rows:\n{text}");
    assert_eq!(rows[1], "| --- | ---: | ---: | ---: | ---: |");
    assert!(rows[2].starts_with("| a\\|b\\_50%.csv | "), "{text}");
    for row in rows {
        assert_eq!(row.replace("\\|", "").matches('|').count(), 6, "{row}");
    }
}

#[test]
fn latex_escapes_its_own_characters() {
    let text = table("--format latex");
    assert!(text.contains("\\begin{tabular}{lrrrr}") && text.contains("\\end{tabular}"), "{text}");
    assert!(text.contains("\na\\textbar{}b\\_50\\%.csv & "), "{text}");
    for line in text.lines().filter(|line| line.ends_with("\\\\")) {
        assert_eq!(line.matches(" & ").count(), 4, "{line}");
    }
    // Whatever is no part of the table is a comment.
    let (before, rest) = text.split_once("\\begin").unwrap();
    let after = rest.split_once("\\end{tabular}\n").unwrap().1;
    assert!(before.lines().chain(after.lines()).all(|line| line.starts_with("% ")), "{text}");
}

#[test]
fn csv_holds_numbers_alone_with_their_units_in_the_header() {
    for (flags, n_fields) in [("--format csv", 6), ("--format csv --wide", 30)] {
        let text = table(flags);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(rows.len(), 1 + 3, "{text}");
        assert!(rows.iter().all(|row| row.len() == n_fields), "{text}");
        assert_eq!(rows[0][..2], ["strategy", "step_median_seconds"]);
        assert_eq!(rows[0][5], "peak_memory_bytes");
        assert_eq!(rows[1][0], "a|b_50%.csv");
        for row in &rows[1..] {
            // A plan from a file has no formula.
            for (title, field) in rows[0].iter().zip(row).skip(1).take(5) {
                assert!(field.is_empty() || field.parse::<f64>().is_ok(), "{title}: {field}");
            }
            let seconds: f64 = row[1].parse().unwrap();
            assert!((0.001..10.0).contains(&seconds), "{seconds}");
        }
        assert_eq!(rows[2][2], "1", "one device is as fast as itself");
    }
}

#[test]
fn the_notebooks_figures_stand_beside_the_notebooks_job_alone() {
    let home = Home::new();
    let line = "compare --preset seed --pp 2 --batch-size 8 --micro-batches 2 --steps 3 --schedules gpipe --wide";
    let ran = home.run(&words(line));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for part in ["the notebook's figure", "bubble_ratio", "by the notebook's rule"] {
        assert!(ran.stdout.contains(part), "{part} is not in:\n{}", ran.stdout);
    }
}
