//! `plumbline db`: looks after the file of the store.

mod arguments;
mod export;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::json;

pub(crate) use self::arguments::DbCommand;
use plumbline_store::CheckReport;

/// Something in the file is not as it must be.
const DAMAGED: u8 = 3;

pub(crate) fn run(command: &DbCommand) -> anyhow::Result<ExitCode> {
    match command {
        DbCommand::Check { file, json } => check(&file.path(), *json),
        DbCommand::Vacuum { file, json } => vacuum(&file.path(), *json).map(|()| ExitCode::SUCCESS),
        DbCommand::Export(arguments) => export::export(arguments).map(|()| ExitCode::SUCCESS),
    }
}

fn check(path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let report = plumbline_store::check(path)?;
    let mut stdout = std::io::stdout().lock();
    if as_json {
        writeln!(stdout, "{}", document(&report))?;
    } else {
        for (table, rows) in &report.rows {
            writeln!(stdout, "{table:14} {rows}")?;
        }
        for finding in &report.findings {
            writeln!(stdout, "broken: {}: {}", finding.check, finding.detail)?;
        }
        let outcome = if report.is_good() { "everything is as it must be" } else { "damaged" };
        writeln!(stdout, "{}: {outcome}", path.display())?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}

fn document(report: &CheckReport) -> serde_json::Value {
    let rows: serde_json::Map<_, _> =
        report.rows.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    let findings: Vec<_> =
        report.findings.iter().map(|finding| json!({"check": finding.check, "detail": finding.detail})).collect();
    json!({
        "file": report.path.display().to_string(),
        "good": report.is_good(),
        "schema": report.schema,
        "rows": rows,
        "findings": findings,
    })
}

fn vacuum(path: &Path, as_json: bool) -> anyhow::Result<()> {
    let vacuumed = plumbline_store::vacuum(path).context("nothing was changed")?;
    let mut stdout = std::io::stdout().lock();
    if as_json {
        let document = json!({"file": path.display().to_string(), "before": vacuumed.before, "after": vacuumed.after});
        writeln!(stdout, "{document}")?;
    } else {
        writeln!(stdout, "{}: {} bytes before, {} after", path.display(), vacuumed.before, vacuumed.after)?;
    }
    Ok(())
}
