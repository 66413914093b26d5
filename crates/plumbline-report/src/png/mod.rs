//! `report.png`: verdicts, key figures and the plots on one sheet.

mod canvas;
mod density;
mod header;
mod lines;

use plotters::prelude::*;

use self::canvas::{Area, BACK, GAP, MARGIN, WIDTH, failed, fonts};
use crate::document::{Document, EngineDocument};
use crate::report::ReportError;

/// Engines of which every panel is drawn; of further ones only the lines, the table says so.
const ENGINES: usize = 4;
/// Height of a panel with lines and of a row of one engine, in pixels.
const PANEL: i32 = 400;
const ROW: i32 = 500;

/// The picture as PNG.
pub(crate) fn sheet(document: &Document) -> Result<Vec<u8>, ReportError> {
    fonts()?;
    let drawn = worst_first(&document.engines);
    let head = header::height(document);
    let height = head
        + if document.engines.is_empty() { 0 } else { 2 * (PANEL + GAP) }
        + drawn.len() as i32 * (ROW + GAP)
        + MARGIN;
    let (width, rows) = (WIDTH as u32, height as u32);
    let mut pixels = vec![0u8; (width * rows * 3) as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, (width, rows)).into_drawing_area();
        root.fill(&BACK).map_err(failed)?;
        header::draw(&root, document)?;
        if !document.engines.is_empty() {
            overlays(&root, document, head)?;
        }
        for (index, engine) in (0..).zip(&drawn) {
            let top = head + 2 * (PANEL + GAP) + index * (ROW + GAP);
            engine_row(&root, engine, top)?;
        }
        root.present().map_err(failed)?;
    }
    encode(&pixels, width, rows)
}

/// The engines that get a row of their own: the worst by noise floors, or by mean `|d|`.
fn worst_first(engines: &[EngineDocument]) -> Vec<&EngineDocument> {
    let mut all: Vec<_> = engines.iter().collect();
    if all.len() > ENGINES {
        let gap = |engine: &EngineDocument| engine.metrics.mae_logprob.unwrap_or(0.0);
        all.sort_by(|a, b| gap(b).total_cmp(&gap(a)));
        all.truncate(ENGINES);
    }
    all
}

/// Four panels with all engines in each.
fn overlays(root: &Area<'_>, document: &Document, top: i32) -> Result<(), ReportError> {
    let engines = &document.engines;
    let width = (WIDTH - 2 * MARGIN - GAP) / 2;
    let panel = |column: i32, row: i32| {
        root.clone().shrink((MARGIN + column * (width + GAP), top + row * (PANEL + GAP)), (width, PANEL))
    };
    lines::densities(&panel(0, 0), engines)?;
    lines::by_position(&panel(1, 0), engines)?;
    lines::by_bins(&panel(0, 1), engines, "|d| by engine probability", "engine probability of the token", |engine| {
        &engine.views.by_engine_probability
    })?;
    lines::by_bins(&panel(1, 1), engines, "|d| by entropy", "entropy of the reference, nats", |engine| {
        &engine.views.by_entropy
    })
}

/// Both grids of one engine and its worst sequence.
fn engine_row(root: &Area<'_>, engine: &EngineDocument, top: i32) -> Result<(), ReportError> {
    let square = ROW;
    let panel = |left: i32, width: i32| root.clone().shrink((left, top), (width, ROW));
    let name = canvas::shorter(&engine.engine, 24);
    density::grid(&panel(MARGIN, square), &engine.views.probabilities, &format!("{name}: probability"))?;
    let second = MARGIN + square + GAP;
    density::grid(&panel(second, square), &engine.views.logprobs, &format!("{name}: logprob, nats"))?;
    let third = second + square + GAP;
    match &engine.worst {
        Some(worst) => {
            lines::sequence(&panel(third, WIDTH - MARGIN - third), worst, &format!("{name}: worst sequence"))
        }
        None => Ok(()),
    }
}

fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, ReportError> {
    let unwritable = |error: ::png::EncodingError| ReportError::Picture(error.to_string());
    let mut bytes = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(::png::ColorType::Rgb);
    encoder.set_depth(::png::BitDepth::Eight);
    encoder.set_compression(::png::Compression::High);
    let mut writer = encoder.write_header().map_err(unwritable)?;
    writer.write_image_data(pixels).map_err(unwritable)?;
    writer.finish().map_err(unwritable)?;
    Ok(bytes)
}
