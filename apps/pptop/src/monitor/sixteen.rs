//! Colours as old terminals know them.
//!
//! The library that draws writes every colour as one of 256 (`38;5;4`). A terminal of sixteen
//! colours may take the 5 for "blink", so for such a one they are written as they were of old
//! (`34`). Everything else goes through as it is.

use std::io::{self, Write};

/// Writes to a terminal, a frame at a time.
#[derive(Debug)]
pub(crate) struct Sixteen<W> {
    inner: W,
    is_on: bool,
    /// What is written at the next flush.
    ready: Vec<u8>,
    /// The beginning of a sequence whose end is still to come.
    sequence: Vec<u8>,
}

const ESCAPE: u8 = 0x1b;

impl<W: Write> Sixteen<W> {
    /// Rewrites colours if it `is_on`.
    pub(crate) fn new(inner: W, is_on: bool) -> Self {
        Self { inner, is_on, ready: Vec::new(), sequence: Vec::new() }
    }

    fn push(&mut self, byte: u8) {
        if self.sequence.is_empty() && byte != ESCAPE {
            self.ready.push(byte);
            return;
        }
        self.sequence.push(byte);
        let is_over = match self.sequence.as_slice() {
            [ESCAPE] | [ESCAPE, b'['] => false,
            [ESCAPE, b'[', .., last] => (0x40..=0x7e).contains(last),
            _ => true,
        };
        if is_over {
            let sequence = std::mem::take(&mut self.sequence);
            match sequence.as_slice() {
                [ESCAPE, b'[', parameters @ .., b'm'] => {
                    self.ready.extend_from_slice(b"\x1b[");
                    self.ready.extend_from_slice(of_old(parameters).as_bytes());
                    self.ready.push(b'm');
                }
                other => self.ready.extend_from_slice(other),
            }
        }
    }
}

/// The parameters of a sequence for colours, with the first sixteen of 256 in their old form.
fn of_old(parameters: &[u8]) -> String {
    let text = String::from_utf8_lossy(parameters);
    let all: Vec<&str> = text.split(';').collect();
    let mut old: Vec<String> = Vec::new();
    let mut rest = all.as_slice();
    while let [first, others @ ..] = rest {
        let base = match *first {
            "38" => Some(30),
            "48" => Some(40),
            _ => None,
        };
        if let (Some(base), ["5", number, behind @ ..]) = (base, others)
            && let Some(number) = number.parse::<u32>().ok().filter(|number| *number < 16)
        {
            let code = if number < 8 { base + number } else { base + 60 + number - 8 };
            old.push(code.to_string());
            rest = behind;
        } else {
            old.push((*first).to_owned());
            rest = others;
        }
    }
    old.join(";")
}

impl<W: Write> Write for Sixteen<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_on {
            for byte in bytes {
                self.push(*byte);
            }
        } else {
            self.ready.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.inner.write_all(&self.ready).and_then(|()| self.inner.flush());
        self.ready.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(parts: &[&str], is_on: bool) -> String {
        let mut bytes = Vec::new();
        let mut writer = Sixteen::new(&mut bytes, is_on);
        for part in parts {
            writer.write_all(part.as_bytes()).unwrap();
        }
        writer.flush().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn colours_are_written_as_of_old_and_nothing_else_changes() {
        let all = "\x1b[2;3Hab\x1b[38;5;4;48;5;0mé\x1b[38;5;8m\x1b[48;5;15m\x1b[39;49;1mx\x1b[0m";
        let old = "\x1b[2;3Hab\x1b[34;40mé\x1b[90m\x1b[107m\x1b[39;49;1mx\x1b[0m";
        assert_eq!(through(&[all], true), old);
        assert_eq!(through(&[all], false), all);
        // Whatever the parts that it comes in.
        let letters: Vec<String> = all.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(through(&letters, true), old);
        for other in ["\x1b[38;5;200m", "\x1b[38;2;1;2;3m", "\x1b[?25l", "\x1b7\x1b8", "\x1b[38m"] {
            assert_eq!(through(&[other], true), other);
        }
    }
}
