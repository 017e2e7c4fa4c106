//! Charts as SVG: lines, dots with their spread, and bars. Enough for a page without scripts.

use super::number;
use std::fmt::Write as _;

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
/// Space around the plane: left, top, right, bottom. Names of series go at the top.
const SPACE: [f64; 4] = [62.0, 26.0, 24.0, 42.0];
/// Of a line with a name.
const ROW: f64 = 12.0;
/// Of the contenders, in their order: told apart by people who see few colours, too.
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"];
/// What a logarithmic axis shows of nothing or less.
const LEAST: f64 = 1e-3;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// From point to point.
    Line,
    /// The same with a dot at each, and its spread.
    Dots,
    /// From the axis up, each from the point before to its own.
    Bars,
}

/// A point: x, y, and the ends of its spread.
pub(super) type Point = (f64, f64, Option<(f64, f64)>);

/// Points of one contender.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) style: Style,
    pub(super) points: Vec<Point>,
}

/// A chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) log_x: bool,
    pub(super) log_y: bool,
    pub(super) series: Vec<Series>,
}

/// One axis: what it shows, and where on the page.
struct Axis {
    from: f64,
    to: f64,
    log: bool,
    /// Places of `from` and `to`.
    place: (f64, f64),
}

/// Text that is markup nowhere.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Axis {
    fn new(
        values: impl Iterator<Item = f64>,
        log: bool,
        with_zero: bool,
        place: (f64, f64),
    ) -> Self {
        let (mut from, mut to) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            let value = if log { value.max(LEAST) } else { value };
            (from, to) = (from.min(value), to.max(value));
        }
        if from > to {
            (from, to) = (0.0, 1.0);
        }
        if log {
            let (low, high) = (from.max(LEAST).log10().floor(), to.max(LEAST).log10().ceil());
            (from, to) = (10f64.powf(low), 10f64.powf(if high > low { high } else { low + 1.0 }));
        } else {
            if with_zero {
                (from, to) = (from.min(0.0), to.max(0.0));
            }
            if from == to {
                to = from + 1.0;
            }
        }
        Self { from, to, log, place }
    }

    fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(LEAST) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.place.0 + share * (self.place.1 - self.place.0)
    }

    /// Round values on it.
    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        if self.log {
            let mut tick = self.from;
            while tick <= self.to * 1.001 {
                ticks.push(tick);
                tick *= 10.0;
            }
            return ticks;
        }
        let rough = (self.to - self.from) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= rough);
        let step = step.unwrap_or(10.0) * power;
        let mut count = (self.from / step).ceil();
        while count * step <= self.to + step * 1e-6 {
            ticks.push(count * step);
            count += 1.0;
        }
        ticks
    }
}

impl Chart {
    /// Where the plane begins, below title and names.
    fn top(&self) -> f64 {
        SPACE[1] + ROW * self.series.len() as f64
    }

    fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The chart; nothing of nothing.
    pub(super) fn svg(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let [left, _, right, bottom] = SPACE;
        let top = self.top();
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let bars = self.series.iter().any(|series| series.style == Style::Bars);
        let x = Axis::new(points().map(|point| point.0), self.log_x, false, (left, WIDTH - right));
        let ends = points().flat_map(|(_, y, spread)| {
            let (low, high) = spread.unwrap_or((*y, *y));
            [*y, low, high]
        });
        let y = Axis::new(ends, self.log_y && !bars, true, (HEIGHT - bottom, top));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><title>{0}</title>\
             <text class=\"title\" x=\"{left}\" y=\"14\">{0}</text>",
            escape(&self.title)
        );
        self.grid(&mut svg, &x, &y);
        for (at, series) in self.series.iter().enumerate() {
            let colour = COLOURS[at % COLOURS.len()];
            draw(&mut svg, series, colour, &x, &y);
            let row = SPACE[1] + ROW * at as f64;
            let _ = write!(
                svg,
                "<rect x=\"{left}\" y=\"{:.1}\" width=\"8\" height=\"8\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{row:.1}\">{}</text>",
                row - 8.0,
                left + 12.0,
                escape(&series.name)
            );
        }
        svg + "</svg>\n"
    }

    fn grid(&self, svg: &mut String, x: &Axis, y: &Axis) {
        let [left, _, right, bottom] = SPACE;
        let top = self.top();
        let (low, end) = (HEIGHT - bottom, WIDTH - right);
        for tick in x.ticks() {
            let at = x.at(tick);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {top}V{low}\"/>\
                 <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                low + 13.0,
                number(tick)
            );
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{left} {at:.1}H{end}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 4.0,
                at + 3.0,
                number(tick)
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(11 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(left, end),
            HEIGHT - 6.0,
            escape(&self.x),
            f64::midpoint(top, low),
            escape(&self.y)
        );
    }
}

fn draw(svg: &mut String, series: &Series, colour: &str, x: &Axis, y: &Axis) {
    let places: Vec<(f64, f64)> =
        series.points.iter().map(|(a, b, _)| (x.at(*a), y.at(*b))).collect();
    if series.style == Style::Bars {
        let mut last = x.place.0;
        for (right, top) in places {
            let (left, low) = (last.min(right - 1.0), y.at(y.from));
            let _ = write!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                 fill=\"{colour}\" fill-opacity=\"0.5\"/>",
                right - left,
                low - top
            );
            last = right;
        }
        return;
    }
    let mut path = String::new();
    for (at, (right, top)) in places.iter().enumerate() {
        let _ = write!(path, "{}{right:.1} {top:.1}", if at == 0 { "M" } else { "L" });
    }
    let _ = write!(svg, "<path class=\"line\" stroke=\"{colour}\" d=\"{path}\"/>");
    if series.style == Style::Line {
        return;
    }
    for ((right, top), (_, _, spread)) in places.iter().zip(&series.points) {
        let _ =
            write!(svg, "<circle cx=\"{right:.1}\" cy=\"{top:.1}\" r=\"3\" fill=\"{colour}\"/>");
        if let Some((low, high)) = spread {
            let (low, high) = (y.at(*low), y.at(*high));
            let _ = write!(
                svg,
                "<path class=\"line\" stroke=\"{colour}\" d=\"M{right:.1} {low:.1}V{high:.1}\"/>"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(style: Style, points: Vec<Point>) -> Chart {
        let series = vec![Series { name: "a & b".into(), style, points }];
        let (x, y) = ("time <ms>".into(), "pages".into());
        Chart { title: "t".into(), x, y, log_x: false, log_y: false, series }
    }

    #[test]
    fn values_land_between_the_ends_of_their_axis() {
        let axis = Axis::new([3.0, 97.0].into_iter(), false, true, (100.0, 0.0));
        assert_eq!((axis.from, axis.to), (0.0, 97.0));
        assert_eq!((axis.at(0.0), axis.at(97.0)), (100.0, 0.0));
        assert_eq!(axis.ticks(), [0.0, 20.0, 40.0, 60.0, 80.0]);
        let log = Axis::new([2.0, 300.0].into_iter(), true, true, (0.0, 30.0));
        assert_eq!((log.from, log.to), (1.0, 1000.0));
        assert!((log.at(100.0) - 20.0).abs() < 1e-9);
        assert_eq!(log.ticks().len(), 4);
    }

    #[test]
    fn values_that_do_not_differ_have_an_axis_too() {
        for values in [vec![], vec![5.0], vec![0.0], vec![f64::NAN]] {
            for log in [false, true] {
                let axis = Axis::new(values.iter().copied(), log, false, (0.0, 1.0));
                assert!(axis.from < axis.to && axis.at(5.0).is_finite(), "{values:?}");
                assert!(!axis.ticks().is_empty() && axis.ticks().len() < 20);
            }
        }
    }

    #[test]
    fn every_style_draws_its_points_and_markup_in_names_is_text() {
        let points = vec![(0.0, 1.0, None), (10.0, 5.0, Some((4.0, 6.0)))];
        let svg = chart(Style::Dots, points.clone()).svg();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &amp; b") && svg.contains("time &lt;ms&gt;"), "{svg}");
        let bars = chart(Style::Bars, points.clone()).svg();
        assert_eq!(bars.matches("fill-opacity").count(), 2);
        let line = chart(Style::Line, points).svg();
        assert_eq!(line.matches("class=\"line\"").count(), 1);
        assert!(chart(Style::Line, Vec::new()).svg().is_empty(), "nothing of nothing");
    }
}
