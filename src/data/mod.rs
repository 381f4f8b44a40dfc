//! From files to token sequences: sources, rows, chat templates, tokenization, order.
//!
//! What is not here: tensors. The floor above packs what this one hands out.

pub mod chat_template;
pub mod config;
pub mod length;
pub mod loader;
pub mod pairing;
pub mod ranking;
pub mod row;
pub mod sampler;
pub mod sandbox;
pub mod source;
pub mod split;
pub mod store;
pub mod tokenize;

pub use config::Config;
pub use loader::{Batch, Loader};
pub use pairing::{DropReason, ListRecord};
pub use ranking::Ranking;
pub use row::{Example, Message, Response, RowKind};
pub use sampler::Order;
pub use source::{HubDatasets, Origin, RawRow, Rows, SourceFile};
pub use store::{DataReport, ListStore, Preparation};
pub use tokenize::{EncodeConversation, TokenGroup, TokenList, Tokenizer};
