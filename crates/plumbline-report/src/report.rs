//! A finished report and its forms.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plumbline_divergence::{Metrics, SufficientStatistics, Verdict};

use crate::document::Document;
use crate::{html, png, xlsx};

/// Why a form of a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The data cannot be serialised.
    #[error("the report cannot be serialised: {0}")]
    Json(#[from] serde_json::Error),
    /// The workbook cannot be made.
    #[error("the workbook cannot be made: {0}")]
    Workbook(#[from] rust_xlsxwriter::XlsxError),
    /// The picture cannot be drawn.
    #[error("the picture cannot be drawn: {0}")]
    Picture(String),
    /// A file cannot be written.
    #[error("{} cannot be written: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Finished; [`Collector::finish`](crate::Collector::finish) makes it.
#[derive(Clone, Debug)]
pub struct Report {
    document: Document,
    statistics: BTreeMap<String, SufficientStatistics>,
}

/// The result of one engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineResult<'a> {
    /// Its label.
    pub engine: &'a str,
    /// The verdict on all of its tokens.
    pub verdict: Verdict,
    /// What the verdict rests on, for people.
    pub reason: &'a str,
    /// Over all of its tokens.
    pub metrics: &'a Metrics,
    /// The sums behind the metrics.
    pub statistics: &'a SufficientStatistics,
}

impl Report {
    pub(crate) fn new(document: Document, statistics: BTreeMap<String, SufficientStatistics>) -> Self {
        Self { document, statistics }
    }

    /// The verdict of the worst engine; insufficient if there is none.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.document.verdict
    }

    /// One result per engine, by label.
    pub fn engines(&self) -> impl Iterator<Item = EngineResult<'_>> {
        self.document.engines.iter().filter_map(|engine| {
            Some(EngineResult {
                engine: &engine.engine,
                verdict: engine.verdict,
                reason: &engine.verdict_reason,
                metrics: &engine.metrics,
                statistics: self.statistics.get(&engine.engine)?,
            })
        })
    }

    /// `report.json`: everything.
    ///
    /// # Errors
    /// [`ReportError::Json`].
    pub fn json(&self) -> Result<Vec<u8>, ReportError> {
        Ok(serde_json::to_vec(&self.document)?)
    }

    /// What a page needs to draw the report beside numbers that it has from elsewhere: everything but tokens and rows of
    /// sequences, numbers with seven digits.
    ///
    /// # Errors
    /// [`ReportError::Json`].
    pub fn views_json(&self) -> Result<Vec<u8>, ReportError> {
        Ok(serde_json::to_vec(&self.document.views()?)?)
    }

    /// `report.html`: one file that needs nothing else.
    ///
    /// # Errors
    /// [`ReportError::Json`].
    pub fn html(&self) -> Result<String, ReportError> {
        html::page(&self.document)
    }

    /// `report.xlsx`.
    ///
    /// # Errors
    /// [`ReportError::Workbook`].
    pub fn xlsx(&self) -> Result<Vec<u8>, ReportError> {
        xlsx::workbook(&self.document)
    }

    /// `report.png`: the plots on one sheet.
    ///
    /// # Errors
    /// [`ReportError::Picture`].
    pub fn png(&self) -> Result<Vec<u8>, ReportError> {
        png::sheet(&self.document)
    }

    /// Writes `report.json`, `report.html`, `report.xlsx` and `report.png` into a directory, which is created if it is missing.
    /// Each file appears whole or not at all. Returns their paths.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn write_to(&self, directory: &Path) -> Result<Vec<PathBuf>, ReportError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ReportError::File { path, source }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let contents = [
            ("report.json", self.json()?),
            ("report.html", self.html()?.into_bytes()),
            ("report.xlsx", self.xlsx()?),
            ("report.png", self.png()?),
        ];
        let mut paths = Vec::with_capacity(contents.len());
        for (name, bytes) in contents {
            let (path, partial) = (directory.join(name), directory.join(format!(".{name}.partial")));
            fs::write(&partial, bytes).map_err(failed(&partial))?;
            fs::rename(&partial, &path).map_err(failed(&path))?;
            paths.push(path);
        }
        Ok(paths)
    }
}
