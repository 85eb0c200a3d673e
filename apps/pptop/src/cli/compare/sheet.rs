//! A table of texts, in the formats that papers, pages and programs take.

use std::fmt::Write as _;

use ratatui::text::Span;

/// How the comparison is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for a terminal
    Text,
    /// A table for a page or an issue
    Markdown,
    /// Plain numbers with their units in the header, for a program
    Csv,
    /// A tabular for a paper
    Latex,
}

/// A table: its head, and rows of as many cells.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    /// The title of each column, and whether it holds words: they stand on the left, numbers on the
    /// right.
    pub(super) head: Vec<(String, bool)>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Sheet {
    /// Columns of one width each, two blanks between them.
    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
        let width = |at: usize| {
            let cells = rows.iter().map(|row| row[at].as_str());
            cells.chain([self.head[at].0.as_str()]).map(columns_of).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let titles: Vec<&str> = self.head.iter().map(|(title, _)| title.as_str()).collect();
        let mut text = String::new();
        let mut line = |cells: &[&str]| {
            let mut line = String::new();
            for (at, cell) in cells.iter().enumerate() {
                let room = " ".repeat(widths[at].saturating_sub(columns_of(cell)));
                let gap = if at == 0 { "" } else { "  " };
                let _ = if self.head[at].1 {
                    write!(line, "{gap}{cell}{room}")
                } else {
                    write!(line, "{gap}{room}{cell}")
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(&titles);
        for row in &rows {
            line(&row.iter().map(String::as_str).collect::<Vec<_>>());
        }
        text
    }

    /// A table of GitHub's Markdown.
    pub(super) fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.head.iter().map(|(title, _)| in_markdown(title)).collect());
        let rule = |is_words: bool| if is_words { "---" } else { "---:" }.to_owned();
        text += &line(self.head.iter().map(|(_, is_words)| rule(*is_words)).collect());
        for row in &self.rows {
            text += &line(row.iter().map(|cell| in_markdown(cell)).collect());
        }
        text
    }

    /// A tabular that needs no package.
    pub(super) fn latex(&self) -> String {
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let side = |(_, is_words): &(String, bool)| if *is_words { 'l' } else { 'r' };
        let mut text = format!(
            "\\begin{{tabular}}{{{}}}\n\\hline\n",
            self.head.iter().map(side).collect::<String>()
        );
        text += &line(self.head.iter().map(|(title, _)| in_latex(title)).collect());
        text += "\\hline\n";
        for row in &self.rows {
            text += &line(row.iter().map(|cell| in_latex(cell)).collect());
        }
        text + "\\hline\n\\end{tabular}\n"
    }

    /// Comma-separated values, as RFC 4180 has them, with a line feed at the end of a line.
    pub(super) fn csv(&self) -> String {
        let line = |cells: Vec<String>| cells.join(",") + "\n";
        let mut text = line(self.head.iter().map(|(title, _)| in_csv(title)).collect());
        for row in &self.rows {
            text += &line(row.iter().map(|cell| in_csv(cell)).collect());
        }
        text
    }
}

/// The columns of a terminal that a text takes.
fn columns_of(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text without what would end its line or what a terminal would obey.
fn clean(text: &str) -> String {
    pp_schedule::clean(text).into_owned()
}

/// A text that Markdown shows as it is, in a cell of a table.
pub(super) fn in_markdown(text: &str) -> String {
    let mut shown = String::new();
    for c in clean(text).chars() {
        if matches!(c, '\\' | '|' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '~' | '#' | '$' | '&')
        {
            shown.push('\\');
        }
        shown.push(c);
    }
    shown
}

/// A text that LaTeX sets as it is.
pub(super) fn in_latex(text: &str) -> String {
    let mut set = String::new();
    for c in clean(text).chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => set.extend(['\\', c]),
            '\\' => set.push_str("\\textbackslash{}"),
            '~' => set.push_str("\\textasciitilde{}"),
            '^' => set.push_str("\\textasciicircum{}"),
            '<' => set.push_str("\\textless{}"),
            '>' => set.push_str("\\textgreater{}"),
            '|' => set.push_str("\\textbar{}"),
            '"' => set.push_str("''"),
            // Two hyphens would become a dash.
            '-' if set.ends_with('-') => set.push_str("{}-"),
            c => set.push(c),
        }
    }
    set
}

/// A field of CSV.
fn in_csv(text: &str) -> String {
    let text = clean(text);
    if text.contains([',', '"']) || text.starts_with(' ') || text.ends_with(' ') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            head: vec![("strategy".into(), true), ("step ms".into(), false)],
            rows: vec![
                vec!["1f1b".into(), "205.8".into()],
                vec!["a|b_50%, \"q\"\n.csv".into(), "-".into()],
            ],
        }
    }

    #[test]
    fn text_is_aligned() {
        let wanted = "strategy           step ms\n\
                      1f1b                 205.8\n\
                      a|b_50%, \"q\"\u{fffd}.csv        -\n";
        assert_eq!(sheet().text(), wanted);
        let wide = Sheet {
            head: vec![("名".into(), true), ("n".into(), false)],
            rows: vec![vec!["計画".into(), "1".into()], vec!["ab".into(), "2".into()]],
        };
        assert_eq!(wide.text(), "名    n\n計画  1\nab    2\n");
    }

    #[test]
    fn a_bar_does_not_end_a_cell_of_markdown() {
        let wanted = "| strategy | step ms |\n| --- | ---: |\n| 1f1b | 205.8 |\n\
                      | a\\|b\\_50%, \"q\"\u{fffd}.csv | - |\n";
        assert_eq!(sheet().markdown(), wanted);
        assert_eq!(in_markdown("`*<b>*`\\"), "\\`\\*\\<b\\>\\*\\`\\\\");
    }

    #[test]
    fn latex_sets_what_it_would_obey() {
        let text = sheet().latex();
        assert!(
            text.starts_with("\\begin{tabular}{lr}\n\\hline\nstrategy & step ms \\\\\n\\hline\n")
        );
        assert!(text.ends_with(" & - \\\\\n\\hline\n\\end{tabular}\n"), "{text}");
        assert!(text.contains("a\\textbar{}b\\_50\\%, ''q''"), "{text}");
        assert_eq!(in_latex("zb-h1 --pp"), "zb-h1 -{}-pp");
        assert_eq!(in_latex("\\{^~"), "\\textbackslash{}\\{\\textasciicircum{}\\textasciitilde{}");
    }

    #[test]
    fn csv_quotes_what_would_divide_a_field() {
        let wanted = "strategy,step ms\n1f1b,205.8\n\"a|b_50%, \"\"q\"\"\u{fffd}.csv\",-\n";
        assert_eq!(sheet().csv(), wanted);
    }
}
