//! What the run has said, with what is said again and again as one.

use std::collections::VecDeque;

use crate::mark_v1::{LevelV1, MessageV1};

/// How serious a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Something may be wrong.
    Warn,
}

/// A message of the run; one that comes again and again is one message with a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Time since the run began, of the last of them.
    pub elapsed_ns: u64,
    /// The step that it belongs to, if any; of several the last.
    pub step: Option<u64>,
    /// How serious it is.
    pub level: Level,
    /// One line of text, as it was the last time.
    pub text: String,
    /// The rank that it belongs to, if any.
    pub rank: Option<u32>,
    /// How often it came.
    pub count: u64,
    /// The step of the first of several.
    pub first_step: Option<u64>,
}

impl From<&Message> for MessageV1 {
    fn from(message: &Message) -> Self {
        Self {
            elapsed_ns: message.elapsed_ns,
            step: message.step,
            level: match message.level {
                Level::Info => LevelV1::Info,
                Level::Warn => LevelV1::Warn,
            },
            text: message.text.clone(),
            rank: message.rank,
            count: message.count,
            first_step: message.first_step,
        }
    }
}

impl From<MessageV1> for Message {
    fn from(saved: MessageV1) -> Self {
        Self {
            elapsed_ns: saved.elapsed_ns,
            step: saved.step,
            level: match saved.level {
                LevelV1::Info => Level::Info,
                LevelV1::Warn => Level::Warn,
            },
            text: saved.text,
            rank: saved.rank,
            count: saved.count,
            first_step: saved.first_step,
        }
    }
}

impl Message {
    /// The newest of these that says the same: letter for letter, but for the number of the step in
    /// a warning.
    pub(crate) fn again_in(&self, messages: &VecDeque<Self>) -> Option<usize> {
        // Most messages differ before the first step that they name, which is seen without looking
        // for it in each of them.
        let before_step = match self.level {
            Level::Info => None,
            Level::Warn => self.text.find(STEP).map(|at| at + STEP.len()),
        };
        messages.iter().rposition(|other| {
            (self.level, self.rank) == (other.level, other.rank)
                && match before_step {
                    None => self.text == other.text,
                    Some(at) => {
                        self.text.as_bytes().get(..at) == other.text.as_bytes().get(..at)
                            && says_the_same(&self.text, &other.text)
                    }
                }
        })
    }

    /// The text, with how often it came and in which steps where that was more than once.
    pub fn line(&self) -> String {
        if self.count <= 1 {
            return self.text.clone();
        }
        match self.first_step.zip(self.step) {
            Some((first, last)) if first < last => {
                format!("{} ({} times, steps {first} to {last})", self.text, self.count)
            }
            Some((first, _)) => format!("{} ({} times, step {first})", self.text, self.count),
            None => format!("{} ({} times)", self.text, self.count),
        }
    }
}

/// What stands before the number of a step.
const STEP: &str = "step ";

/// Whether two texts differ in nothing but the number after the word "step".
fn says_the_same(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let (mut a, mut b) = (a, b);
    loop {
        let (Some(at), Some(other)) = (a.find(STEP), b.find(STEP)) else { return a == b };
        let (at, other) = (at + STEP.len(), other + STEP.len());
        if a.get(..at) != b.get(..other) {
            return false;
        }
        let rest = |text: &'_ str, from: usize| {
            let rest = text.get(from..).unwrap_or_default();
            rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len()
        };
        let (n_a, n_b) = (rest(a, at), rest(b, other));
        if (n_a == 0) != (n_b == 0) {
            return false;
        }
        a = a.get(at + n_a..).unwrap_or_default();
        b = b.get(other + n_b..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Model;
    use pp_trace::{Event, Log, Warn};

    use super::*;

    #[test]
    fn the_number_of_a_step_makes_no_other_message() {
        assert!(says_the_same("no checkpoint of step 7: full", "no checkpoint of step 1200: full"));
        assert!(!says_the_same("no checkpoint of step 7: full", "no checkpoint of step 7: gone"));
        assert!(!says_the_same("step ", "step 1"));
        assert!(!says_the_same("rank 1 is slow", "rank 2 is slow"));
        assert!(says_the_same("step 1 and step 2", "step 3 and step 4"));
    }

    #[test]
    fn what_comes_again_and_again_is_one_message_with_a_count() {
        let mut model = Model::new();
        for step in 1..=1000 {
            let message = format!("no checkpoint of step {step}: the disk is full");
            let (elapsed_ns, step) = (step, Some(step));
            model.apply(&Event::Warn(Warn { elapsed_ns, step, message, ..Warn::default() }));
            let message = "GPU 1 does not answer".to_owned();
            let rank = Some(1);
            model.apply(&Event::Warn(Warn { elapsed_ns, step, rank, message: message.clone() }));
            model.apply(&Event::Warn(Warn { elapsed_ns, step, rank: Some(2), message }));
            model.apply(&Event::Log(Log {
                elapsed_ns,
                step,
                message: format!("news of {elapsed_ns}"),
            }));
        }
        assert_eq!(model.n_warnings(), 3000);
        let warned: Vec<&Message> = model.messages().filter(|m| m.level == Level::Warn).collect();
        let lines: Vec<String> = warned.iter().map(|message| message.line()).collect();
        assert_eq!(
            lines,
            [
                "no checkpoint of step 1000: the disk is full (1000 times, steps 1 to 1000)",
                "GPU 1 does not answer (1000 times, steps 1 to 1000)",
                "GPU 1 does not answer (1000 times, steps 1 to 1000)",
            ]
        );
        assert_eq!(model.messages().filter(|m| m.level == Level::Info).count(), 497);
        // An older log has messages without a count.
        let old = r#"{"elapsed_ns":1,"step":null,"level":"warn","text":"a"}"#;
        let old: MessageV1 = serde_json::from_str(old).unwrap();
        let old = Message::from(old);
        assert_eq!((old.count, old.line().as_str()), (1, "a"));
    }
}
