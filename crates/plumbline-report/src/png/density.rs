//! Engine against reference as a grid, with marginals.

use plotters::prelude::*;

use super::canvas::{Area, BACK, FLOOR, INK, LINE, SOFT, failed, letters, series, strong};
use crate::document::GridView;
use crate::report::ReportError;

/// Height of the heading and width of a marginal, in pixels.
const HEADING: i32 = 34;
const MARGINAL: i32 = 64;
const LABELS: i32 = 62;

/// From few to many tokens: one hue, so that colour-blind readers see it as others do; the few can be seen on white.
const HEAT: [(u8, u8, u8); 4] = [(195, 217, 238), (106, 174, 214), (33, 113, 181), (8, 38, 79)];

fn colour(part: f64) -> RGBColor {
    let place = part.clamp(0.0, 1.0) * (HEAT.len() - 1) as f64;
    let (low, inside) = (place.floor() as usize, place.fract());
    let (a, b) = (HEAT[low], HEAT[(low + 1).min(HEAT.len() - 1)]);
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * inside).round() as u8;
    RGBColor(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

pub(super) fn grid(area: &Area<'_>, view: &GridView, title: &str) -> Result<(), ReportError> {
    area.draw_text(title, &strong(19, INK), (0, 0)).map_err(failed)?;
    let (width, height) = area.dim_in_pixel();
    let side = (width as i32 - LABELS - MARGINAL - 6).min(height as i32 - HEADING - MARGINAL - LABELS);
    let (left, top) = (LABELS, HEADING + MARGINAL);
    let plot = area.clone().shrink((0, top), (left + side, side + LABELS - 8));
    let range = view.from..view.to;
    let mut chart = ChartBuilder::on(&plot)
        .set_label_area_size(LabelAreaPosition::Left, LABELS)
        .set_label_area_size(LabelAreaPosition::Bottom, LABELS - 8)
        .build_cartesian_2d(range.clone(), range)
        .map_err(failed)?;
    // Not "-0".
    let short =
        |value: &f64| format!("{:.1}", if value.abs() < 0.05 { 0.0 } else { *value }).trim_end_matches(".0").to_owned();
    chart
        .configure_mesh()
        .light_line_style(BACK)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .label_style(letters(15, SOFT))
        .axis_desc_style(letters(16, SOFT))
        .x_desc("engine")
        .y_desc("reference")
        .draw()
        .map_err(failed)?;
    let most = view.cells.iter().map(|cell| cell[2]).max().unwrap_or(1).max(2) as f64;
    let step = (view.to - view.from) / view.side as f64;
    let at = |cell: u64| view.from + cell as f64 * step;
    let cells = view.cells.iter().map(|[x, y, count]| {
        let corners = [(at(*x), at(*y)), (at(*x + 1), at(*y + 1))];
        Rectangle::new(corners, colour((*count as f64).ln() / most.ln()).filled())
    });
    chart.draw_series(cells).map_err(failed)?;
    let equal = [(view.from, view.from), (view.to, view.to)];
    chart.draw_series(DashedLineSeries::new(equal, 4, 5, series(1).stroke_width(2))).map_err(failed)?;
    marginals(area, view, (left, top), side)
}

/// Logarithmic bars above and to the right.
fn marginals(area: &Area<'_>, view: &GridView, (left, top): (i32, i32), side: i32) -> Result<(), ReportError> {
    for axis in [0, 1] {
        let sums = view.marginal(axis);
        let most = sums.iter().copied().max().unwrap_or(1).max(1) as f64;
        let place = |index: usize| (index as i32 * side) / view.side as i32;
        for (index, &sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0) {
            let length = ((1.0 + sum as f64).ln() / (1.0 + most).ln() * f64::from(MARGINAL - 10)).round() as i32;
            let (from, to) = (place(index), place(index + 1).max(place(index) + 1));
            let corners = match axis {
                0 => [(left + from, top - 6 - length), (left + to, top - 6)],
                _ => [(left + side + 6, top + side - to), (left + side + 6 + length, top + side - from)],
            };
            area.draw(&Rectangle::new(corners, FLOOR.mix(0.7).filled())).map_err(failed)?;
        }
    }
    Ok(())
}
