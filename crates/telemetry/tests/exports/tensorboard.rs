//! Event files of TensorBoard, read by a reader of their own.

use std::collections::BTreeMap;

use pp_telemetry::{Event, ExportFormat, StepEvent};

use super::common::{memory, runs, steps, written};

/// CRC-32C bit by bit, moved as the records have it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn records(mut file: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while !file.is_empty() {
        let (head, rest) = file.split_at(12);
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        assert_eq!(number(&head[8..]), masked_crc(&head[..8]));
        let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
        let (data, rest) = rest.split_at(length);
        let (crc, rest) = rest.split_at(4);
        assert_eq!(number(crc), masked_crc(data));
        found.push(data);
        file = rest;
    }
    found
}

/// A field of a message in protocol buffers.
#[derive(Debug, PartialEq)]
enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for at in 0.. {
        let byte = message[0];
        *message = &message[1..];
        value |= u64::from(byte & 127) << (7 * at);
        if byte < 128 {
            break;
        }
    }
    value
}

fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut message)),
            1 => {
                let (head, rest) = message.split_at(8);
                message = rest;
                Field::Fixed64(u64::from_le_bytes(head.try_into().unwrap()))
            }
            2 => {
                let length = varint(&mut message) as usize;
                let (head, rest) = message.split_at(length);
                message = rest;
                Field::Bytes(head)
            }
            5 => {
                let (head, rest) = message.split_at(4);
                message = rest;
                Field::Fixed32(u32::from_le_bytes(head.try_into().unwrap()))
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, field));
    }
    found
}

/// Of each scalar its wall time, step and bits, in the order of the file.
type Scalars = BTreeMap<String, Vec<(f64, u64, u32)>>;

fn scalars(file: &[u8]) -> Scalars {
    let mut found = Scalars::new();
    for (at, record) in records(file).into_iter().enumerate() {
        let (mut time, mut step) = (0.0, 0);
        for (tag, field) in fields(record) {
            match (tag, field) {
                (1, Field::Fixed64(bits)) => time = f64::from_bits(bits),
                (2, Field::Varint(number)) => step = number,
                (3, Field::Bytes(version)) => {
                    assert_eq!((at, version), (0, &b"brain.Event:2"[..]));
                }
                (5, Field::Bytes(summary)) => {
                    assert!(at > 0, "the first record tells the version");
                    for (_, value) in fields(summary) {
                        let Field::Bytes(value) = value else { panic!("{value:?}") };
                        let value = fields(value);
                        let [(1, Field::Bytes(tag)), (2, Field::Fixed32(bits))] = value[..] else {
                            panic!("{value:?}")
                        };
                        let tag = String::from_utf8(tag.to_vec()).unwrap();
                        found.entry(tag).or_default().push((time, step, bits));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    found
}

#[test]
fn an_event_file_holds_every_number() {
    for (name, events) in runs() {
        let file = written(&events, ExportFormat::TensorBoard, None).unwrap();
        let found = scalars(&file);
        let (started, theory, dp) = match events.first() {
            Some(Event::Hello(hello)) => {
                (hello.started_unix_ms as f64 * 1e-3, hello.theory, hello.dp)
            }
            _ => (0.0, None, 1),
        };
        let check = |tag: &str, of: &dyn Fn(&StepEvent) -> f64| {
            let wanted: Vec<(f64, u64, u32)> = steps(&events)
                .iter()
                .map(|step| (step.elapsed_seconds, step.step, (of(step) as f32).to_bits()))
                .collect();
            let shown = found.get(tag).cloned().unwrap_or_default();
            assert_eq!(shown.len(), wanted.len(), "{name}: {tag}");
            for (shown, wanted) in shown.iter().zip(wanted) {
                assert!((shown.0 - started - wanted.0).abs() < 1e-5, "{name}: {tag}");
                assert_eq!((shown.1, shown.2), (wanted.1, wanted.2), "{name}: {tag}");
            }
        };
        check("loss/train", &|step| f64::from(step.loss.unwrap()));
        check("bubble/measured", &|step| step.bubble_ratio);
        check("seconds/step", &|step| step.seconds);
        check("lr", &|step| step.lr.unwrap());
        check("grad_norm", &|step| step.grad_norm.unwrap());
        check("rate/samples_per_second", &|step| step.samples as f64 / step.seconds);
        check("rate/tokens_per_second", &|step| step.tokens as f64 / step.seconds);
        if let Some(theory) = theory {
            check("bubble/theory", &|_| theory);
        }
        for mem in memory(&events) {
            let replica = if dp > 1 { format!("replica_{}/", mem.replica) } else { String::new() };
            let tag = format!("memory/{replica}rank_{}/live_bytes", mem.rank);
            let bits = (mem.live_bytes as f32).to_bits();
            let mut of_step = found[&tag].iter().filter(|(_, step, _)| *step == mem.step);
            assert_eq!(of_step.next().unwrap().2, bits, "{name}");
            assert!(of_step.next().is_none());
        }
        let validation = name == "a validation";
        assert_eq!(found.contains_key("loss/validation"), validation, "{name}");
        assert_eq!(found.contains_key("accuracy"), validation, "{name}");
        if validation {
            assert_eq!(found["loss/validation"][0].1, 4);
            assert_eq!(found["loss/validation"][0].2, 0.1_f32.to_bits());
        }
        assert!(!records(&file).is_empty(), "{name}");
    }
}
