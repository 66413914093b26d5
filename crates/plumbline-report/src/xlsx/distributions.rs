//! The distributions of all engines: data on the left, charts on the right.

use rust_xlsxwriter::{Chart, ChartFormat, ChartLine, ChartType, Color, Worksheet, XlsxError};

use super::cells::{SERIES, Styles, dress, number, put};
use crate::document::{Document, EngineDocument, ProfileView};

/// Rows between the tops of two charts.
const CHART_ROWS: u32 = 18;

/// One table: its heads, and per engine the columns x and y.
struct Block {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    logarithmic_x: bool,
    lines: Vec<Line>,
}

/// One line of a chart.
struct Line {
    name: String,
    colour: u32,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

/// The sheet.
pub(super) fn sheet(sheet: &mut Worksheet, document: &Document, styles: &Styles) -> Result<(), XlsxError> {
    let blocks = [
        density(&document.engines),
        profile(&document.engines, "|d| by position", "position in the completion", true, |engine| {
            &engine.views.by_position
        }),
        profile(&document.engines, "|d| by engine probability", "engine probability (from)", false, |engine| {
            &engine.views.by_engine_probability
        }),
        profile(&document.engines, "|d| by entropy", "entropy of the reference, nats (from)", false, |engine| {
            &engine.views.by_entropy
        }),
    ];
    let chart_column = blocks.iter().map(|block| 2 * block.lines.len() as u16).max().unwrap_or(0) + 1;
    let (mut row, mut chart_row) = (0, 0);
    for block in blocks.iter().filter(|block| !block.lines.is_empty()) {
        put(sheet, row, 0, &format!("{} ({})", block.title, block.y), &styles.heading)?;
        let mut chart = Chart::new(ChartType::ScatterStraight);
        let mut deepest = 0;
        for (at, line) in (0u16..).zip(&block.lines) {
            let column = 2 * at;
            put(sheet, row + 1, column, block.x, &styles.head)?;
            put(sheet, row + 1, column + 1, &line.name, &styles.head)?;
            for (below, (x, y)) in (row + 2..).zip(&line.points) {
                number(sheet, below, column, Some(*x), styles)?;
                number(sheet, below, column + 1, Some(*y), styles)?;
            }
            let count = line.points.len() as u32;
            deepest = deepest.max(count);
            if count == 0 {
                continue;
            }
            let mut stroke = ChartLine::new();
            stroke.set_width(1.75).set_color(Color::RGB(line.colour));
            if line.dashed {
                stroke.set_dash_type(rust_xlsxwriter::ChartLineDashType::Dash);
            }
            let (first, last) = (row + 2, row + 1 + count);
            let name = sheet.name();
            chart
                .add_series()
                // A cell, not the text: a name that begins with "=" would be taken for a formula.
                .set_name((name.as_str(), row + 1, column + 1))
                .set_categories((name.as_str(), first, column, last, column))
                .set_values((name.as_str(), first, column + 1, last, column + 1))
                .set_format(ChartFormat::new().set_line(&stroke));
        }
        dress(&mut chart, block.title, block.x, block.y);
        chart.y_axis().set_log_base(10).set_num_format("0E+00");
        chart.y_axis().set_crossing(rust_xlsxwriter::ChartAxisCrossing::Min);
        chart.x_axis().set_crossing(rust_xlsxwriter::ChartAxisCrossing::Min);
        if block.logarithmic_x {
            chart.x_axis().set_log_base(10);
        }
        if deepest > 0 {
            sheet.insert_chart(chart_row, chart_column, &chart)?;
        }
        chart_row += CHART_ROWS;
        row += deepest + 4;
    }
    for column in 0..chart_column {
        sheet.set_column_width(column, 15.0)?;
    }
    Ok(())
}

fn colour(at: usize) -> u32 {
    SERIES[at % SERIES.len()]
}

fn density(engines: &[EngineDocument]) -> Block {
    let lines = engines.iter().enumerate().map(|(at, engine)| {
        let view = &engine.views.log_ratios;
        let points = view.middles().zip(view.density.iter().copied()).filter(|(_, density)| *density > 0.0).collect();
        Line { name: engine.engine.clone(), colour: colour(at), dashed: false, points }
    });
    Block {
        title: "Density of the log ratio",
        x: "d = reference - engine, nats",
        y: "tokens per nat (share)",
        logarithmic_x: false,
        lines: lines.collect(),
    }
}

fn profile(
    engines: &[EngineDocument],
    title: &'static str,
    x: &'static str,
    logarithmic_x: bool,
    view: impl Fn(&EngineDocument) -> &ProfileView,
) -> Block {
    // A logarithmic axis has no 0: positions count from 1.
    let offset = if logarithmic_x { 1.0 } else { 0.0 };
    let mut lines = Vec::new();
    for (at, engine) in engines.iter().enumerate() {
        let view = view(engine);
        let points = |values: &[f64]| {
            let pairs = view.from.iter().map(|from| from + offset).zip(values.iter().copied());
            pairs.filter(|(_, value)| *value > 0.0).collect()
        };
        let name = |what: &str| format!("{} {what}", engine.engine);
        lines.push(Line { name: name("mean"), colour: colour(at), dashed: false, points: points(&view.mean) });
        lines.push(Line { name: name("p99"), colour: colour(at), dashed: true, points: points(&view.p99) });
    }
    Block { title, x, y: "|d|, nats", logarithmic_x, lines }
}
