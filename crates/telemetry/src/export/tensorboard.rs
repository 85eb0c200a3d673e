//! The scalars of a run as an event file of TensorBoard.
//!
//! The file is a row of records: the length of the data (8 bytes, little-endian), a checksum of the
//! length, the data, and a checksum of the data. The data is an `Event` in protocol buffers: a time
//! of the wall clock, a step, and a `Summary` with named scalars. Scalars are 32-bit floats there.

use std::io::Write;

use prost::{Message, Oneof};

use super::untimed::Untimed;
use super::{ExportError, Writer};
use pp_trace::{Continues, Eval, Event, Hello, Mem, StepEvent};

const FILE_VERSION: &str = "brain.Event:2";

/// `Event` of TensorFlow's `event.proto`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    scalar: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Text>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

/// `TensorProto`, as far as it holds one text.
#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
    #[prost(string, repeated, tag = "8")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "2")]
    dimensions: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    size: i64,
}

/// `SummaryMetadata`: which page of TensorBoard shows it.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin: Option<Plugin>,
}

#[derive(Clone, PartialEq, Message)]
struct Plugin {
    #[prost(string, tag = "1")]
    name: String,
}

/// `DT_STRING`.
const TEXT_TYPE: i32 = 7;

/// A checksum as the records have it: CRC-32C, turned and moved, so that data that holds checksums
/// is still checked well.
fn masked_crc(data: &[u8]) -> u32 {
    const MOVED: u32 = 0xa282_ead8;
    crc32c::crc32c(data).rotate_right(15).wrapping_add(MOVED)
}

/// The file so far.
#[derive(Debug, Default)]
pub(super) struct TensorBoard {
    has_begun: bool,
    started_seconds: f64,
    has_replicas: bool,
    theory: Option<f64>,
    continues: Option<Continues>,
    untimed: Untimed,
}

impl TensorBoard {
    fn record(
        &self,
        ns: u64,
        step: u64,
        what: What,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let record = Record {
            wall_time: self.started_seconds + ns as f64 * 1e-9,
            step: step as i64,
            what: Some(what),
        };
        let data = record.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        out.write_all(&length)?;
        out.write_all(&masked_crc(&length).to_le_bytes())?;
        out.write_all(&data)?;
        Ok(out.write_all(&masked_crc(&data).to_le_bytes())?)
    }

    fn scalars(
        &self,
        ns: u64,
        step: u64,
        value: Vec<Value>,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        self.record(ns, step, What::Summary(Summary { value }), out)
    }

    fn begin(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        if std::mem::replace(&mut self.has_begun, true) {
            return Ok(());
        }
        self.record(0, 0, What::FileVersion(FILE_VERSION.to_owned()), out)?;
        match &self.continues {
            Some(before) => {
                let text = text("continues", &before.to_string());
                self.scalars(0, before.step, vec![text], out)
            }
            None => Ok(()),
        }
    }

    fn hello(&mut self, hello: &Hello) {
        self.started_seconds = hello.started_unix_ms as f64 * 1e-3;
        self.has_replicas = hello.dp > 1;
        self.theory = hello.theory;
        self.continues.clone_from(&hello.continues);
    }

    fn step(&self, step: &StepEvent) -> Vec<Value> {
        let told = [
            ("loss/train", step.loss.map(f64::from)),
            ("bubble/measured", Some(step.bubble_ratio).filter(|ratio| !ratio.is_nan())),
            ("seconds/step", Some(step.seconds)),
            ("lr", step.lr),
            ("grad_norm", step.grad_norm),
        ];
        let mut values: Vec<Value> =
            told.into_iter().filter_map(|(name, told)| Some(value(name, told?))).collect();
        values.extend(self.theory.map(|theory| value("bubble/theory", theory)));
        if step.seconds > 0.0 {
            if step.samples > 0 {
                values.push(value("rate/samples_per_second", step.samples as f64 / step.seconds));
            }
            if step.tokens > 0 {
                values.push(value("rate/tokens_per_second", step.tokens as f64 / step.seconds));
            }
        }
        values
    }

    fn untimed(&self, event: &Event, ns: u64, out: &mut dyn Write) -> Result<(), ExportError> {
        match event {
            Event::Mem(memory) => {
                let Mem { step, replica, rank, live_bytes, .. } = *memory;
                let replica =
                    if self.has_replicas { format!("replica_{replica}/") } else { String::new() };
                let tag = format!("memory/{replica}rank_{rank}/live_bytes");
                self.scalars(ns, step, vec![value(&tag, live_bytes as f64)], out)
            }
            Event::Eval(Eval { step, loss, accuracy }) => {
                let mut values = vec![value("loss/validation", f64::from(*loss))];
                values.extend(accuracy.map(|share| value("accuracy", share)));
                self.scalars(ns, *step, values, out)
            }
            _ => Ok(()),
        }
    }
}

fn value(tag: &str, number: f64) -> Value {
    let scalar = Some(number as f32);
    Value { tag: tag.to_owned(), scalar, tensor: None, metadata: None }
}

fn text(tag: &str, text: &str) -> Value {
    let shape = Some(Shape { dimensions: vec![Dimension { size: 1 }] });
    let tensor = Text { dtype: TEXT_TYPE, shape, value: vec![text.to_owned()] };
    let plugin = Some(Plugin { name: "text".to_owned() });
    Value {
        tag: tag.to_owned(),
        scalar: None,
        tensor: Some(tensor),
        metadata: Some(Metadata { plugin }),
    }
}

impl Writer for TensorBoard {
    fn push(&mut self, event: &Event, out: &mut dyn Write) -> Result<(), ExportError> {
        self.untimed.see(event);
        match event {
            Event::Hello(hello) => self.hello(hello),
            Event::Mem(Mem { step, .. }) | Event::Eval(Eval { step, .. }) => {
                if let Some(ns) = self.untimed.time_of(event, *step) {
                    self.begin(out)?;
                    self.untimed(event, ns, out)?;
                }
            }
            Event::Step(step) => {
                self.begin(out)?;
                let (ns, waited) = self.untimed.step_over(event, step.step);
                for event in waited {
                    self.untimed(&event, ns, out)?;
                }
                self.scalars(ns, step.step, self.step(step), out)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        self.begin(out)?;
        let (ns, waited) = self.untimed.rest();
        for event in waited {
            self.untimed(&event, ns, out)?;
        }
        Ok(())
    }
}
