//! What is shown of runs after the fact: one self-contained page, and tables for other programs.
//!
//! Only files are read here, a run's `config.toml`, `metrics.jsonl` and `eval.json`, by their published names; nothing
//! of the code that writes them is known. So a report can be made of runs of other versions, of runs that still go on,
//! and of whatever else writes such lines.

mod axis;
mod bars;
mod configuration;
mod csv;
mod curves;
mod figure;
mod histogram;
mod norms;
mod number;
mod page;
mod plot;
mod rewards;
mod run;
mod scenarios;
mod series;
mod sets;
mod steps;
mod summary;
mod svg;
mod training;

pub use csv::{CsvTarget, write as write_csv};
pub use page::render;
pub use run::{Run, read_all};
