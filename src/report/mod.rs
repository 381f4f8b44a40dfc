//! What is shown of runs after the fact: one self-contained page, its figures and tables for documents, and tables for
//! other programs.
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
mod group;
mod histogram;
mod markdown;
mod norms;
mod number;
mod over_seeds;
mod page;
mod plot;
mod rewards;
mod run;
mod scenarios;
mod series;
mod sets;
mod standalone;
mod steps;
mod summary;
mod svg;
mod training;

pub use csv::{CsvTarget, write as write_csv};
pub use group::{RunGroup, SEED};
pub use markdown::render as render_markdown;
pub use page::render;
pub use run::{Run, read_all};
pub use standalone::write as write_svg;
