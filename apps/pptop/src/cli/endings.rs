//! What the ending of a file's name says about what is in it.
//!
//! A name such as `plan.png` for a text of commas would lie to whoever opens it, so an ending that
//! is known has to fit. One that is not known says nothing, and is taken.

use std::path::Path;

use super::CliError;
use super::refusal::excerpt;

/// What an output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Tensors by name.
    #[cfg(any(test, feature = "train"))]
    Weights,
    /// A drawing in characters.
    Text,
    /// Lines of values.
    Csv,
    /// JSON, also a Chrome trace.
    Json,
    /// A picture.
    Svg,
    /// Metrics as Prometheus reads them.
    Metrics,
    /// An event file of TensorBoard.
    EventFile,
    /// A page of the manual.
    Manual,
    /// The log of a run.
    Log,
}

/// Endings whose meaning everybody knows.
const KNOWN: [&str; 71] = [
    "json",
    "jsonl",
    "ndjson",
    "csv",
    "tsv",
    "toml",
    "yaml",
    "yml",
    "xml",
    "html",
    "htm",
    "md",
    "txt",
    "text",
    "tex",
    "rtf",
    "prom",
    "svg",
    "png",
    "jpg",
    "jpeg",
    "gif",
    "webp",
    "bmp",
    "tif",
    "tiff",
    "ico",
    "pdf",
    "ps",
    "eps",
    "safetensors",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "onnx",
    "npy",
    "npz",
    "h5",
    "hdf5",
    "pkl",
    "pickle",
    "parquet",
    "arrow",
    "sqlite",
    "db",
    "xls",
    "xlsx",
    "doc",
    "docx",
    "odt",
    "ods",
    "gz",
    "tgz",
    "zst",
    "xz",
    "bz2",
    "lz4",
    "zip",
    "tar",
    "7z",
    "rar",
    "py",
    "rs",
    "sh",
    "c",
    "so",
    "exe",
    "mp4",
    "mp3",
    "wav",
];

impl Content {
    /// The endings of names of such files; none that is known where it is empty.
    pub(crate) fn endings(self) -> &'static [&'static str] {
        match self {
            #[cfg(any(test, feature = "train"))]
            Self::Weights => &["safetensors"],
            Self::Text => &["txt", "text", "md"],
            Self::Csv => &["csv"],
            Self::Json => &["json"],
            Self::Svg => &["svg"],
            Self::Metrics => &["prom", "txt", "text"],
            Self::EventFile | Self::Manual => &[],
            Self::Log => &["jsonl"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            #[cfg(any(test, feature = "train"))]
            Self::Weights => "weights in the safetensors format",
            Self::Text => "text",
            Self::Csv => "CSV",
            Self::Json => "JSON",
            Self::Svg => "SVG",
            Self::Metrics => "metrics for Prometheus",
            Self::EventFile => "an event file of TensorBoard",
            Self::Manual => "a manual page",
            Self::Log => "the log of a run",
        }
    }

    /// A known ending of a name that does not fit is refused.
    ///
    /// # Errors
    /// [`CliError::Usage`] with an ending that fits.
    pub(crate) fn refuse_other_ending(self, flag: &str, path: &Path) -> Result<(), CliError> {
        let Some(ending) = known_ending(path) else { return Ok(()) };
        if self.endings().contains(&ending.as_str()) {
            return Ok(());
        }
        let name = excerpt(&path.display().to_string());
        let remedy = match self.endings().first() {
            Some(good) => format!("use the extension .{good}"),
            None => format!("leave .{ending} out"),
        };
        let what = self.name();
        Err(CliError::Usage(format!(
            "{flag} {name}: the output is {what}, which the extension .{ending} does not fit; {remedy}"
        )))
    }
}

/// The ending of a name, in small letters, if everybody knows what it means.
pub(crate) fn known_ending(path: &Path) -> Option<String> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    KNOWN.contains(&ending.as_str()).then_some(ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_ending_has_to_fit_and_any_other_does() {
        let takes = |content: Content, name: &str| {
            content.refuse_other_ending("-o", Path::new(name)).is_ok()
        };
        for (content, good, bad) in [
            (Content::Weights, "w.safetensors", "w.pt"),
            (Content::Text, "plan.txt", "plan.svg"),
            (Content::Csv, "plan.CSV", "plan.png"),
            (Content::Json, "trace.json", "trace.json.gz"),
            (Content::Svg, "a.svg", "a.SVG.zst"),
            (Content::Metrics, "m.prom", "m.csv"),
            (Content::EventFile, "events.out.tfevents.1.pptop", "events.json"),
            (Content::Manual, "pptop.1", "pptop.html"),
        ] {
            assert!(takes(content, good), "{good}");
            assert!(!takes(content, bad), "{bad}");
            for unknown in ["w", "plan.new", "a.b.c.d1", ".svgz", "csv", "w.out", "x.", ".json"] {
                assert!(takes(content, unknown), "{unknown}");
            }
        }
    }

    #[test]
    fn every_ending_of_ours_is_known() {
        for content in [Content::Weights, Content::Text, Content::Csv, Content::Json, Content::Svg]
        {
            for ending in content.endings() {
                assert!(KNOWN.contains(ending), "{ending}");
            }
        }
    }
}
