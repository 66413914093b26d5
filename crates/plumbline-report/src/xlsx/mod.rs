//! `report.xlsx`: one workbook with native charts. Every text is written as a text cell, never as a formula.

mod cells;
mod distributions;
mod sequences;
mod summary;
mod tokens;

use rust_xlsxwriter::{DocProperties, Workbook};

use self::cells::Styles;
use crate::document::Document;
use crate::report::ReportError;

/// Rows of all sheets with tokens together.
const TOKEN_ROWS: usize = 100_000;

/// The workbook as bytes.
pub(crate) fn workbook(document: &Document) -> Result<Vec<u8>, ReportError> {
    let mut workbook = Workbook::new();
    let properties = DocProperties::new().set_title(cells::text(&document.title)).set_company("Plumbline");
    workbook.set_properties(&properties);
    let styles = Styles::new();
    summary::summary(workbook.add_worksheet().set_name("Summary")?, document, &styles)?;
    summary::engines(workbook.add_worksheet().set_name("Engines")?, document, &styles)?;
    summary::diagnosis(workbook.add_worksheet().set_name("Diagnosis")?, document, &styles)?;
    distributions::sheet(workbook.add_worksheet().set_name("Distributions")?, document, &styles)?;
    sequences::sequences(workbook.add_worksheet().set_name("Sequences")?, document, &styles)?;
    sequences::parts(workbook.add_worksheet().set_name("Workers and versions")?, document, &styles)?;
    if !document.cross.is_empty() {
        summary::cross(workbook.add_worksheet().set_name("Cross")?, document, &styles)?;
    }
    let sheets: usize = document.engines.iter().map(|engine| engine.shown().count()).sum();
    let most = TOKEN_ROWS / sheets.max(1);
    for (number, engine) in (1..).zip(&document.engines) {
        for (kind, shown) in engine.shown() {
            // A name of digits and words only: sheet names cannot hold everything that an engine may be called.
            let name = if document.engines.len() == 1 { kind.to_owned() } else { format!("{kind} {number}") };
            tokens::sheet(workbook.add_worksheet().set_name(name)?, &engine.engine, shown, most, &styles)?;
        }
    }
    for sheet in workbook.worksheets_mut() {
        // On paper a sheet is as wide as its page, so that no chart is cut.
        sheet.set_landscape().set_print_fit_to_pages(1, 0);
    }
    Ok(workbook.save_to_buffer()?)
}
