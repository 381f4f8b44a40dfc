//! Event files, by a reader of the test's own: framing, checksums, protobuf, and the values of `metrics.jsonl`.

use crate::training::{Folder, succeed};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A field of a message.
#[derive(Debug, Clone)]
enum Wire {
    Varint(u64),
    Double(f64),
    Bytes(Vec<u8>),
    Float(f32),
}

impl Wire {
    fn text(&self) -> String {
        match self {
            Wire::Bytes(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn message(&self) -> Vec<(u64, Wire)> {
        match self {
            Wire::Bytes(bytes) => message(bytes),
            other => panic!("{other:?}"),
        }
    }

    fn doubles(&self) -> Vec<f64> {
        match self {
            Wire::Bytes(bytes) => {
                bytes.chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes");
}

fn message(mut bytes: &[u8]) -> Vec<(u64, Wire)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                fields.push((key >> 3, Wire::Varint(varint(&mut bytes))));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = bytes.split_at(length);
        bytes = rest;
        let value = match key & 7 {
            1 => Wire::Double(f64::from_le_bytes(value.try_into().unwrap())),
            2 => Wire::Bytes(value.to_vec()),
            _ => Wire::Float(f32::from_le_bytes(value.try_into().unwrap())),
        };
        fields.push((key >> 3, value));
    }
    fields
}

/// CRC32C bit by bit, masked.
fn masked_crc(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn event_file(run: &Path) -> PathBuf {
    let mut files: Vec<_> =
        fs::read_dir(run.join("tensorboard")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let file = files.remove(0);
    assert!(file.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."), "{file:?}");
    file
}

fn events(run: &Path) -> Vec<Vec<(u64, Wire)>> {
    let bytes = fs::read(event_file(run)).unwrap();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (mut at, mut events) = (0, Vec::new());
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        assert_eq!(word(at + 8), masked_crc(&bytes[at..at + 8]), "the length's checksum at byte {at}");
        let payload = &bytes[at + 12..at + 12 + length];
        assert_eq!(word(at + 12 + length), masked_crc(payload), "the event's checksum at byte {at}");
        events.push(message(payload));
        at += length + 16;
    }
    events
}

/// Scalars by tag and step, in the order of the file; a value that is there twice is refused.
fn scalars(run: &Path) -> BTreeMap<(String, u64), f32> {
    let events = events(run);
    let Some((3, version)) = &events[0].last() else { panic!("{:?}", events[0]) };
    assert_eq!(version.text(), "brain.Event:2");
    let mut scalars = BTreeMap::new();
    for event in &events[1..] {
        let mut step = 0;
        for (field, value) in event {
            match (field, value) {
                (1, Wire::Double(wall_time)) => assert!(*wall_time > 1.7e9),
                (2, Wire::Varint(number)) => step = *number,
                (5, summary) => {
                    for (_, value) in summary.message() {
                        let value = value.message();
                        let (1, tag) = &value[0] else { panic!("{value:?}") };
                        if let (2, Wire::Float(scalar)) = value[1] {
                            let before = scalars.insert((tag.text(), step), scalar);
                            assert!(before.is_none(), "{} of step {step} is there twice", tag.text());
                        }
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
    scalars
}

/// What the scalars have to be, from `metrics.jsonl`.
fn expected(run: &Path) -> BTreeMap<(String, u64), f32> {
    let mut expected = BTreeMap::new();
    for line in fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let step = line["step"].as_u64().unwrap();
        let prefix = match line["kind"].as_str().unwrap() {
            "step" => "train".to_owned(),
            "eval" => format!("eval/{}", line["split"].as_str().unwrap()),
            "alarm" => {
                let split = line["split"].as_str().map(|split| format!("/{split}")).unwrap_or_default();
                let tag = format!("alarm/{}{split}", line["rule"].as_str().unwrap());
                expected.insert((tag, step), line["value"].as_f64().unwrap() as f32);
                continue;
            }
            other => panic!("{other}"),
        };
        insert_numbers(&mut expected, &prefix, step, &line);
    }
    expected
}

/// Inserts the numbers of an object and of the objects in it.
fn insert_numbers(numbers: &mut BTreeMap<(String, u64), f32>, prefix: &str, step: u64, object: &Value) {
    for (name, value) in object.as_object().unwrap().iter().filter(|(name, _)| *name != "step") {
        let tag = format!("{prefix}/{name}");
        if value.is_object() {
            insert_numbers(numbers, &tag, step, value);
        } else if let Some(value) = value.as_f64() {
            numbers.insert((tag, step), value as f32);
        }
    }
}

#[track_caller]
fn assert_same_values(run: &Path) {
    let (found, expected) = (scalars(run), expected(run));
    let differing: Vec<_> = expected
        .iter()
        .filter(|(key, value)| found.get(key).map(|v| v.to_bits()) != Some(value.to_bits()))
        .collect();
    assert!(differing.is_empty() && found.len() == expected.len(), "{} values: {differing:?}", found.len());
}

const TENSORBOARD: [&str; 2] = ["--set", "log.tensorboard=true"];

#[test]
fn event_files_hold_the_values_of_metrics_jsonl() {
    let folder = Folder::new();
    // Two rules that any run breaks, so that there are alarms too.
    let alarms = ["--set", "guard.window=2", "--set", "guard.norm-skew.threshold=1e-9"];
    let run = folder.fitted("run", &[&TENSORBOARD[..], &alarms].concat());
    assert_same_values(&run);
    let scalars = scalars(&run);
    for tag in ["train/loss", "train/hidden_norm_var", "eval/mutual-disjoint/accuracy", "alarm/norm-skew"] {
        assert!(scalars.keys().any(|(found, _)| found == tag), "{tag}");
    }

    let histograms: Vec<Vec<(u64, Wire)>> = events(&run)[1..]
        .iter()
        .flat_map(|event| event.iter().find(|(field, _)| *field == 5).unwrap().1.message())
        .map(|(_, value)| value.message())
        .filter(|value| value[1].0 == 5)
        .map(|value| value[1].1.message())
        .collect();
    assert_eq!(histograms.len(), 24);
    for histogram in histograms {
        let (Wire::Double(min), Wire::Double(max), Wire::Double(count)) =
            (&histogram[0].1, &histogram[1].1, &histogram[2].1)
        else {
            panic!("{histogram:?}")
        };
        let (limits, counts) = (histogram[5].1.doubles(), histogram[6].1.doubles());
        assert_eq!((limits.len(), *count), (counts.len(), 8.0), "two sequences a pair");
        assert!(limits.is_sorted_by(|a, b| a < b));
        assert_eq!((limits[0], *limits.last().unwrap()), (*min, *max));
        assert!((counts.iter().sum::<f64>() - count).abs() < 1e-9);
    }
}

#[test]
fn a_resumed_run_repeats_no_event() {
    let folder = Folder::new();
    let run = folder.fitted("run", &TENSORBOARD);
    let before = fs::read(event_file(&run)).unwrap();
    fs::remove_dir_all(run.join("final")).unwrap();
    fs::remove_dir_all(run.join("checkpoints/step-000024")).unwrap();
    let newest = fs::read_dir(run.join("checkpoints")).unwrap().count();
    assert!(newest > 0, "a checkpoint to resume from");
    succeed(folder.fit("run", &[&TENSORBOARD[..], &["--resume"]].concat()).output().unwrap());
    assert_same_values(&run);
    // The events of the steps that were kept are the old ones, wall times included.
    let after = fs::read(event_file(&run)).unwrap();
    let same = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    assert!(same > before.len() / 2, "{same} of {} bytes", before.len());
}

#[test]
fn a_run_may_begin_to_write_events_when_it_resumes() {
    let folder = Folder::new();
    let run = folder.fitted("run", &[]);
    assert!(!run.join("tensorboard").exists());
    fs::remove_dir_all(run.join("final")).unwrap();
    fs::remove_dir_all(run.join("checkpoints/step-000024")).unwrap();
    succeed(folder.fit("run", &[&TENSORBOARD[..], &["--resume"]].concat()).output().unwrap());
    assert_same_values(&run);
}
