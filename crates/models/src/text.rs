//! Windows of bytes from a text.

use std::io;
use std::path::Path;

use candle_core::{Device, Result, Tensor};
use pp_nn::{hash, uniform};
use pp_train::limits::memory_available;
use pp_train::{DataSet, Samples};

use crate::entropy::entropy;
use crate::error::ModelError;

/// Copies of a text in memory at the same time: the text itself, and its two parts.
const COPIES: u64 = 3;

/// A text whose last tenth is held out.
pub(crate) struct Text {
    seed: u64,
    context: usize,
    train: Vec<u8>,
    held_out: Vec<u8>,
}

impl Text {
    /// Reads `path`, or takes the book that the crate `lipsum` embeds: the first of Cicero's
    /// five on the ends of good and evil.
    pub(crate) fn load(
        path: Option<&Path>,
        context: usize,
        seed: u64,
    ) -> std::result::Result<Self, ModelError> {
        let (name, bytes) = match path {
            None => ("the embedded text".to_owned(), lipsum::LIBER_PRIMUS.as_bytes().to_vec()),
            Some(path) => {
                let refused = |source| ModelError::Read { path: path.to_owned(), source };
                (path.display().to_string(), read(path).map_err(refused)?)
            }
        };
        // A window and the byte after it, in the held-out tenth as well.
        let needed = 10 * (context + 1);
        if bytes.len() < needed {
            return Err(ModelError::TooShort { name, bytes: bytes.len(), context, needed });
        }
        let held_out = bytes.len() / 10;
        let (train, held_out) = bytes.split_at(bytes.len() - held_out);
        Ok(Self { seed, context, train: train.to_vec(), held_out: held_out.to_vec() })
    }

    /// Windows that begin at `starts`: bytes, and the byte after each.
    fn windows(&self, text: &[u8], starts: &[usize]) -> Result<Samples> {
        let window = |shift: usize| {
            let ids = starts.iter().flat_map(|&s| text[s + shift..s + shift + self.context].iter());
            Tensor::from_vec(
                ids.map(|&b| u32::from(b)).collect(),
                (starts.len(), self.context),
                &Device::Cpu,
            )
        };
        Ok((vec![window(0)?], window(1)?))
    }
}

/// Reads a whole regular file. A file that does not fit into the free memory is refused.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    match memory_available() {
        Some(free) if about.len() > free / COPIES => {
            let why = format!(
                "its {} MiB need {COPIES} times as much memory, {} MiB are free",
                about.len() >> 20,
                free >> 20
            );
            Err(io::Error::new(io::ErrorKind::FileTooLarge, why))
        }
        _ => std::fs::read(path),
    }
}

impl DataSet for Text {
    fn batch(&self, step: u64, size: usize) -> Result<Samples> {
        let places = self.train.len() - self.context;
        let key = hash(&[self.seed, step, 2]);
        let starts: Vec<usize> =
            (0..size as u64).map(|i| (uniform(key, i) * places as f64) as usize).collect();
        self.windows(&self.train, &starts)
    }

    fn validation(&self, rows: usize) -> Result<Vec<Samples>> {
        let starts: Vec<usize> =
            (0..(self.held_out.len() - 1) / self.context).map(|i| i * self.context).collect();
        starts.chunks(rows.max(1)).map(|chunk| self.windows(&self.held_out, chunk)).collect()
    }

    fn tokens_per_sample(&self) -> u64 {
        self.context as u64
    }

    fn fingerprint(&self) -> Option<String> {
        Some(pp_train::sha256_hex([&self.train[..], &self.held_out]))
    }

    fn blind_loss(&self) -> Option<f64> {
        let mut counts = [0_usize; 256];
        self.train.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
        entropy(counts.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_follow_inputs_and_the_last_tenth_is_never_trained_on() {
        let text = Text::load(None, 32, 1).unwrap();
        assert_eq!(text.held_out.len(), lipsum::LIBER_PRIMUS.len() / 10);
        let (inputs, targets) = text.batch(3, 4).unwrap();
        let (x, y): (Vec<Vec<u32>>, Vec<Vec<u32>>) =
            (inputs[0].to_vec2().unwrap(), targets.to_vec2().unwrap());
        assert!(x.iter().zip(&y).all(|(x, y)| x[1..] == y[..31]));
        let pieces = text.validation(5).unwrap();
        let windows: usize = pieces.iter().map(|(_, y)| y.dim(0).unwrap()).sum();
        assert_eq!(windows, (text.held_out.len() - 1) / 32);
        assert!(Text::load(None, 5000, 1).err().unwrap().to_string().contains("at least 50010"));
        // English and Latin letters have about three nats each; 256 equally frequent bytes would
        // have 5.5.
        let blind = text.blind_loss().unwrap();
        assert!((2.5..3.5).contains(&blind), "{blind}");
    }

    #[test]
    fn a_file_that_cannot_be_read_has_its_cause() {
        for (path, kind) in [
            ("/no/such/file", io::ErrorKind::NotFound),
            ("/", io::ErrorKind::IsADirectory),
            ("/dev/null", io::ErrorKind::InvalidInput),
        ] {
            let refused = Text::load(Some(Path::new(path)), 8, 1).err().unwrap();
            assert!(refused.to_string().ends_with(path), "{refused}");
            let source = std::error::Error::source(&refused).unwrap();
            assert_eq!(source.downcast_ref::<io::Error>().unwrap().kind(), kind, "{path}");
        }
    }
}
