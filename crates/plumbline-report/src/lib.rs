//! Reports: pure functions of what was measured.
//!
//! A [`Collector`] takes in scored sequences one by one, in bounded memory, and turns into a [`Report`]: `report.json` (everything),
//! `report.html` (one file that needs nothing else), `report.xlsx` and `report.png`. A [`TokenTable`] writes every token's row to
//! Parquet as they come.
//!
//! Conventions are those of `plumbline-divergence`: `d = r - e`, reference minus engine, in nats.

pub mod assets;
mod collector;
mod document;
mod facts;
mod html;
mod limits;
mod png;
mod report;
mod token_table;
mod xlsx;

pub use collector::{Collector, Observed, Totals};
pub use facts::{CrossComparison, EngineFacts, Facts, InputFacts};
pub use limits::{CollectorLimits, Footprint};
pub use plumbline_core::TokenText;
pub use report::{EngineResult, Report, ReportError};
pub use token_table::{TableError, TableFacts, TableSequence, TokenTable};

#[cfg(test)]
mod tests;
