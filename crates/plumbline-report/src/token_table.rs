//! `tokens.parquet`: one row per completion token, written as sequences come. The schema is described in `docs/report.md`.

mod column;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use plumbline_core::{SkipReason, TokenId, TokenText};
use plumbline_divergence::TokenComparison;

use self::column::{Column, text_value};
use crate::collector::Observed;

/// Rows that are held in memory before they are written: some 20 MB.
const ROW_GROUP: usize = 1 << 17;

/// Tokens of a prompt that are decoded before a completion, for the text of its first tokens.
const PROMPT_TOKENS: usize = 64;

/// Raised when a column changes its meaning or goes away.
const SCHEMA_VERSION: &str = "1";

const SCHEMA: &str = "message tokens {
    required binary engine (STRING);
    optional binary worker (STRING);
    optional binary policy_version (STRING);
    optional binary group (STRING);
    required binary sequence_id (STRING);
    required int64 sequence_index;
    required int32 position;
    required int32 token_id (INTEGER(32,false));
    optional binary text (STRING);
    optional double engine_logprob;
    optional double reference_logprob;
    optional double log_ratio;
    optional double entropy;
    optional int32 rank (INTEGER(32,false));
    optional double eos_probability;
    required boolean compared;
    optional binary skipped (STRING);
    optional binary run (STRING);
}";

/// Why a table cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file cannot be created.
    #[error("{} cannot be created: {source}", .path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Rows cannot be encoded or written.
    #[error("the token table cannot be written: {0}")]
    Write(#[from] ParquetError),
}

/// What the file says of itself, as key-value metadata.
#[derive(Clone, Debug, Default)]
pub struct TableFacts {
    /// Name of the run, if it has one.
    pub run: Option<String>,
    /// The reference, if it is known.
    pub model: Option<String>,
    /// RFC 3339, UTC.
    pub created_at: String,
}

/// The tokens of one sequence, by reference.
#[derive(Clone, Copy, Debug)]
pub struct TableSequence<'a> {
    /// The run, where the table has several.
    pub run: Option<&'a str>,
    /// Label of the engine that sampled it.
    pub engine: &'a str,
    /// Label of the worker, if the sender said one.
    pub worker: Option<&'a str>,
    /// Version of the weights that scored it; `None` = unknown, or several.
    pub policy_version: Option<&'a str>,
    /// What sequences of the same prompt have in common, if the sender said so.
    pub group: Option<&'a str>,
    /// Its id, as sent.
    pub id: &'a str,
    /// The end of its prompt or all of it, for the text of its first tokens; empty where it is not known.
    pub prompt: &'a [TokenId],
    /// Its completion beside the reference's scores.
    pub tokens: &'a [TokenComparison],
}

impl<'a> From<&Observed<'a>> for TableSequence<'a> {
    fn from(observed: &Observed<'a>) -> Self {
        Self {
            run: None,
            engine: observed.engine,
            worker: observed.worker,
            policy_version: observed.policy_version,
            group: observed.group,
            id: &observed.comparison.id,
            prompt: observed.rollout.map_or(&[], |rollout| &rollout.prompt_token_ids),
            tokens: &observed.comparison.tokens,
        }
    }
}

/// Writes rows in groups of 131072, Snappy-compressed. Memory does not grow with the number of rows.
pub struct TokenTable<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    held: usize,
    written: u64,
    sequences: i64,
}

impl<W: Write + Send> std::fmt::Debug for TokenTable<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenTable").field("rows", &self.rows()).finish_non_exhaustive()
    }
}

impl TokenTable<BufWriter<File>> {
    /// A table in a new file, in place of one that is there.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn create(path: &Path, facts: &TableFacts) -> Result<Self, TableError> {
        let created = File::create(path);
        let file = created.map_err(|source| TableError::Create { path: path.to_owned(), source })?;
        Self::new(BufWriter::new(file), facts)
    }
}

impl<W: Write + Send> TokenTable<W> {
    /// A table in a writer.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub fn new(writer: W, facts: &TableFacts) -> Result<Self, TableError> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let columns = schema.get_fields().iter().map(|field| Column::of(field)).collect::<Result<_, _>>()?;
        let entry = |key: &str, value: &str| KeyValue::new(format!("plumbline.{key}"), value.to_owned());
        let mut metadata = vec![
            entry("schema_version", SCHEMA_VERSION),
            entry("version", env!("CARGO_PKG_VERSION")),
            entry("log_ratio_sign", crate::document::SIGN),
            entry("created_at", &facts.created_at),
        ];
        metadata.extend(facts.model.as_ref().map(|model| entry("model", model)));
        metadata.extend(facts.run.as_ref().map(|run| entry("run", run)));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("plumbline ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(metadata))
            .build();
        let writer = SerializedFileWriter::new(writer, schema, Arc::new(properties))?;
        Ok(Self { writer, columns, held: 0, written: 0, sequences: 0 })
    }

    /// Appends the tokens of one sequence; without `text` their text is null.
    ///
    /// # Errors
    /// [`TableError::Write`]; the table is unusable then.
    pub fn append<'a>(
        &mut self,
        sequence: impl Into<TableSequence<'a>>,
        text: Option<&dyn TokenText>,
    ) -> Result<(), TableError> {
        let sequence = sequence.into();
        let pieces = text.map(|text| pieces(text, &sequence));
        let (engine, id) = (text_value(sequence.engine), text_value(sequence.id));
        let label = |label: Option<&str>| label.map(text_value);
        let (worker, version) = (label(sequence.worker), label(sequence.policy_version));
        let (group, run) = (label(sequence.group), label(sequence.run));
        for (position, token) in sequence.tokens.iter().enumerate() {
            let mut columns = self.columns.iter_mut();
            let mut next = || columns.next().ok_or_else(|| ParquetError::General("a column is missing".into()));
            next()?.push_bytes(Some(engine.clone()))?;
            next()?.push_bytes(worker.clone())?;
            next()?.push_bytes(version.clone())?;
            next()?.push_bytes(group.clone())?;
            next()?.push_bytes(Some(id.clone()))?;
            next()?.push_i64(self.sequences)?;
            next()?
                .push_u32(Some(u32::try_from(position).map_err(|error| ParquetError::General(error.to_string()))?))?;
            next()?.push_u32(Some(token.token_id))?;
            next()?
                .push_bytes(pieces.as_ref().and_then(|pieces| pieces.get(position)).map(|piece| text_value(piece)))?;
            next()?.push_f64(token.engine)?;
            next()?.push_f64(token.reference)?;
            next()?.push_f64(token.log_ratio())?;
            next()?.push_f64(token.entropy)?;
            next()?.push_u32(token.rank)?;
            next()?.push_f64(token.eos_probability)?;
            next()?.push_bool(token.compared().is_some())?;
            next()?.push_bytes(token.skipped.map(SkipReason::as_str).map(text_value))?;
            next()?.push_bytes(run.clone())?;
            self.held += 1;
            if self.held == ROW_GROUP {
                self.flush()?;
            }
        }
        self.sequences += 1;
        Ok(())
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.written + self.held as u64
    }

    /// Rows that are held in memory.
    #[must_use]
    pub fn held_rows(&self) -> usize {
        self.held
    }

    fn flush(&mut self) -> Result<(), TableError> {
        if self.held == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let mut writer =
                group.next_column()?.ok_or_else(|| ParquetError::General("the schema has fewer columns".into()))?;
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        self.written += self.held as u64;
        self.held = 0;
        Ok(())
    }

    /// Writes what is held, and the footer, without which it is no Parquet file; gives the writer back.
    ///
    /// # Errors
    /// [`TableError::Write`].
    pub fn finish(mut self) -> Result<W, TableError> {
        self.flush()?;
        let mut writer = self.writer.into_inner()?;
        writer.flush().map_err(ParquetError::from)?;
        Ok(writer)
    }
}

/// The text of the completion's tokens, decoded behind the end of the prompt.
fn pieces(text: &dyn TokenText, sequence: &TableSequence<'_>) -> Vec<String> {
    let prompt = &sequence.prompt[sequence.prompt.len().saturating_sub(PROMPT_TOKENS)..];
    let mut ids = prompt.to_vec();
    ids.extend(sequence.tokens.iter().map(|token| token.token_id));
    let mut pieces = text.pieces(&ids);
    pieces.drain(..prompt.len().min(pieces.len()));
    pieces
}
