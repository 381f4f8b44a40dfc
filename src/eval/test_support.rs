//! Doubles, rows and golden figures for the tests of this floor.

use super::{Judged, JudgedRow, Labels, Origin};
use crate::Result;
use crate::base::rng;
use crate::data::tokenize::EncodeConversation;
use crate::data::{Message, RowKind};
use rand_chacha::rand_core::Rng;
use serde::Deserialize;
use std::path::Path;

/// One id a byte, an id for the end of a message, and a BOS.
pub(super) struct ByteEncoder;

impl ByteEncoder {
    pub fn ids(prompt: &str, response: &str) -> Vec<u32> {
        let byte = u32::from;
        let end = [256];
        [257]
            .into_iter()
            .chain(prompt.bytes().map(byte))
            .chain(end)
            .chain(response.bytes().map(byte))
            .chain(end)
            .collect()
    }
}

impl EncodeConversation for ByteEncoder {
    fn render(&self, messages: &[Message]) -> Result<String> {
        Ok(messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n"))
    }

    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let contents = messages.iter().flat_map(|m| m.content.bytes().map(u32::from).chain([256]));
        Ok([257].into_iter().chain(contents).collect())
    }

    fn bos_token_id(&self) -> Option<u32> {
        Some(257)
    }

    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}

/// Responses of one row, `(gold, reward, characters)` each.
pub(super) fn judged_row(kind: RowKind, responses: &[(f64, f64, usize)]) -> JudgedRow {
    let judged = |&(gold, reward, length): &(f64, f64, usize)| Judged { gold, reward, length };
    JudgedRow {
        origin: Origin { path: Path::new("data/rows.jsonl").into(), line: 1 },
        kind,
        responses: responses.iter().map(judged).collect(),
        hidden_norms: vec![1.0; responses.len()],
        head_spreads: Vec::new(),
        markdown: vec![0; responses.len()],
        labels: Labels::default(),
        recomputed: None,
    }
}

/// A draw from the standard normal distribution.
pub(super) fn normal(rng: &mut impl Rng) -> f64 {
    f64::from(rng::normals(rng, 1)[0])
}

/// Figures by numpy and scipy; `tests/golden/eval/make.py` writes the file.
#[derive(Debug, Deserialize)]
pub(super) struct Golden {
    pub calibration: Vec<CalibrationCase>,
    pub length: Vec<LengthCase>,
    pub rewards: Vec<RewardCase>,
    pub hidden: Vec<HiddenCase>,
    pub mcnemar: Vec<McNemarCase>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CalibrationCase {
    pub margins: Vec<f64>,
    pub ece: f64,
    pub brier: f64,
    pub nll: f64,
    pub temperature: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LengthCase {
    /// Gold, reward, characters and markdown elements of each response of each row.
    pub rows: Vec<Vec<(f64, f64, usize, u32)>>,
    pub reward_std: f64,
    pub controlled_accuracy: Option<f64>,
    pub reward_slope: Option<f64>,
    pub markdown_effect: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RewardCase {
    pub rewards: Vec<f64>,
    pub quantiles: Vec<f64>,
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct HiddenCase {
    pub rows: Vec<Vec<f32>>,
    pub effective_rank: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct McNemarCase {
    pub b: u64,
    pub c: u64,
    pub p: f64,
}

pub(super) fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/golden/eval/expected.json")).unwrap()
}
