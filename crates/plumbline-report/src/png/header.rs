//! The head of the picture: what it is about, and one line of numbers per engine.

use plotters::prelude::*;

use super::canvas::{
    Area, INK, LINE, MARGIN, SOFT, WIDTH, count, failed, letters, number, right, series, shorter, strong,
};
use crate::document::{Document, EngineDocument};
use crate::report::ReportError;

/// Lines of the table, in pixels.
const LINE_HEIGHT: i32 = 34;
const TABLE_TOP: i32 = 156;
/// Engines in the table.
const ENGINES: usize = 16;

/// Right ends of the columns with numbers.
const COLUMNS: [(i32, &str); 9] = [
    (660, "noise floors"),
    (850, "95 %"),
    (980, "MAE, nats"),
    (1100, "RMSE, nats"),
    (1220, "KL k3, nats"),
    (1345, "Pearson r"),
    (1480, "mean p diff"),
    (1610, "Bernoulli KL"),
    (WIDTH - MARGIN, "tokens"),
];

pub(super) fn height(document: &Document) -> i32 {
    let lines = document.engines.len().min(ENGINES) as i32;
    TABLE_TOP + (lines + 1) * LINE_HEIGHT + 34
}

/// Ink and background of a verdict.
fn verdict_colours(verdict: &str) -> (RGBColor, RGBColor) {
    match verdict {
        "consistent" => (RGBColor(10, 122, 92), RGBColor(227, 244, 238)),
        "suspect" => (RGBColor(138, 90, 0), RGBColor(253, 241, 214)),
        "divergent" => (RGBColor(179, 64, 11), RGBColor(252, 232, 221)),
        _ => (SOFT, RGBColor(236, 239, 242)),
    }
}

fn badge(root: &Area<'_>, left: i32, top: i32, verdict: &str) -> Result<i32, ReportError> {
    let (ink, back) = verdict_colours(verdict);
    let style = strong(19, ink);
    let (width, _) = root.estimate_text_size(verdict, &style).map_err(failed)?;
    let end = left + width as i32 + 24;
    root.draw(&Rectangle::new([(left, top - 3), (end, top + 21)], back.filled())).map_err(failed)?;
    root.draw_text(verdict, &style, (left + 12, top + 4)).map_err(failed)?;
    Ok(end)
}

pub(super) fn draw(root: &Area<'_>, document: &Document) -> Result<(), ReportError> {
    let reference = &document.reference;
    let text = |text: &str, style: &TextStyle<'_>, at: (i32, i32)| root.draw_text(text, style, at).map_err(failed);
    text(&shorter(&document.title, 90), &strong(34, INK), (MARGIN, 32))?;
    let about = format!(
        "{}   reference {}, version {}, {} on {}   {} tokens in {} sequences   d = reference - engine, nats",
        shorter(&document.created_at, 40),
        shorter(&reference.model, 40),
        shorter(&reference.policy_version, 20),
        reference.dtype,
        reference.device,
        count(document.tokens),
        count(document.sequences),
    );
    text(&about, &letters(18, SOFT), (MARGIN, 76))?;
    let end = badge(root, MARGIN, 106, document.verdict.as_str())?;
    text(&shorter(&document.verdict_reason, 170), &letters(18, INK), (end + 14, 111))?;
    let head = letters(16, SOFT);
    text("engine", &head, (MARGIN, TABLE_TOP + 4))?;
    for (end, name) in COLUMNS {
        text(name, &right(&head), (end, TABLE_TOP + 4))?;
    }
    for (line, engine) in document.engines.iter().take(ENGINES).enumerate() {
        row(root, engine, line, document.engines.len() > 1)?;
    }
    Ok(())
}

fn row(root: &Area<'_>, engine: &EngineDocument, line: usize, coloured: bool) -> Result<(), ReportError> {
    let top = TABLE_TOP + (line as i32 + 1) * LINE_HEIGHT;
    root.draw(&PathElement::new(vec![(MARGIN, top - 4), (WIDTH - MARGIN, top - 4)], LINE)).map_err(failed)?;
    let mut left = MARGIN;
    if coloured {
        root.draw(&Rectangle::new([(left, top + 7), (left + 12, top + 19)], series(line).filled())).map_err(failed)?;
        left += 22;
    }
    root.draw_text(&shorter(&engine.engine, 28), &strong(18, INK), (left, top + 4)).map_err(failed)?;
    badge(root, 385, top, engine.verdict.as_str())?;
    let metrics = &engine.metrics;
    let interval = engine.intervals.get("noise_floor_multiple").copied().flatten();
    let values = [
        number(metrics.noise_floor_multiple, 3),
        interval
            .map_or("–".into(), |range| format!("{} to {}", number(Some(range.low), 3), number(Some(range.high), 3))),
        number(metrics.mae_logprob, 3),
        number(metrics.rmse_logprob, 3),
        number(metrics.kl_k3, 3),
        number(metrics.pearson_logprob, 5),
        number(metrics.prob_diff_mean, 3),
        number(metrics.bernoulli_kl, 3),
        count(metrics.tokens),
    ];
    let style = right(&letters(18, INK));
    for ((end, _), value) in COLUMNS.into_iter().zip(values) {
        root.draw_text(&value, &style, (end, top + 4)).map_err(failed)?;
    }
    Ok(())
}
