//! What the ranks did in a step, as a picture: a row a rank, a box a span, to scale, in the colours
//! of the pictures of plans.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;

use pp_schedule::{
    Phase, Shade, axis_marks, escaped_xml, legend_of, legend_of_shades, short_number,
};

use super::{ExportError, StepRange, Writer};
use crate::model::Expected;
use pp_trace::{Event, Hello, Span, SpanKind, StepEvent};

/// Steps that one picture holds at most.
pub const STEPS_DRAWN_MAX: usize = 20;
/// Spans that one picture holds at most.
const SPANS_MAX: usize = 200_000;
/// Ranks, over all replicas, that get a row even where nothing of them was recorded.
const EMPTY_ROWS_MAX: u64 = 4096;

/// Pixels: a row with its gap, the box in it, the margins, and text.
const ROW: f64 = 26.0;
const BOX: f64 = 22.0;
/// The height of a mean of gradients.
const MEAN_BOX: f64 = 5.0;
const LEFT: f64 = 88.0;
const TOP: f64 = 40.0;
const RIGHT: f64 = 16.0;
/// Between two steps: the heading above the rows, and the axis below them.
const HEADING: f64 = 24.0;
const AXIS: f64 = 32.0;
const LEGEND: f64 = 56.0;
const FONT: f64 = 11.0;
/// About how wide a letter is.
const LETTER: f64 = 6.4;
/// The widest and the narrowest field of boxes.
const WIDTH_MAX: f64 = 4000.0;
const WIDTH_MIN: f64 = 640.0;
/// Letters of a name that are shown.
const NAME_MAX: usize = 60;

const INK: &str = "#1a1a1a";
const GREY: &str = "#5a5a5a";

/// A step that is drawn.
#[derive(Debug)]
struct Panel {
    step: StepEvent,
    spans: Vec<Span>,
    first_ns: u64,
    last_ns: u64,
}

impl Panel {
    fn length_ms(&self) -> f64 {
        // Never nothing, so that there is a scale.
        (self.last_ns - self.first_ns).max(1) as f64 * 1e-6
    }
}

/// Gathers the steps to be drawn.
#[derive(Debug)]
pub(super) struct Svg {
    asked: Option<StepRange>,
    hello: Hello,
    /// Copies of the model in one replica.
    n_copies: u32,
    /// Of each rank, copy and stage how deep the stage lies: 0 is the first of the rank, 1 the
    /// last.
    depths: HashMap<(u32, u32, u32), f64>,
    /// Steps that run.
    running: BTreeMap<u64, Vec<Span>>,
    panels: Vec<Panel>,
    n_spans: usize,
}

impl Svg {
    pub(super) fn new(asked: Option<StepRange>) -> Self {
        Self {
            asked,
            hello: Hello::default(),
            n_copies: 1,
            depths: HashMap::new(),
            running: BTreeMap::new(),
            panels: Vec::new(),
            n_spans: 0,
        }
    }

    fn step(&mut self, step: &StepEvent) -> Result<(), ExportError> {
        let spans = self.running.remove(&step.step).unwrap_or_default();
        // Of a step whose end was never told nothing more will come.
        self.running.retain(|&running, _| running > step.step);
        let first_ns = spans.iter().map(|span| span.start_ns).min();
        let last_ns = spans.iter().map(Span::end_ns).max();
        if let (Some(first_ns), Some(last_ns)) = (first_ns, last_ns) {
            if self.asked.is_none() {
                self.panels.clear();
            } else if self.panels.len() == STEPS_DRAWN_MAX {
                return Err(ExportError::TooManySteps);
            }
            self.panels.push(Panel { step: step.clone(), spans, first_ns, last_ns });
        }
        let kept: usize = match self.asked {
            Some(_) => self.panels.iter().map(|panel| panel.spans.len()).sum(),
            // The next one takes its place.
            None => 0,
        };
        self.n_spans = kept + self.running.values().map(Vec::len).sum::<usize>();
        Ok(())
    }

    fn rows(&self) -> Vec<(u32, u32)> {
        let Hello { dp, pp, .. } = self.hello;
        let mut rows: BTreeSet<(u32, u32)> = self
            .panels
            .iter()
            .flat_map(|panel| &panel.spans)
            .map(|span| (span.replica, span.rank))
            .collect();
        if u64::from(dp) * u64::from(pp) <= EMPTY_ROWS_MAX {
            rows.extend((0..dp).flat_map(|replica| (0..pp).map(move |rank| (replica, rank))));
        }
        rows.into_iter().collect()
    }

    /// Pixels a millisecond, the same for all steps: so many that three ops of four have room for
    /// their labels, within the bounds of a picture.
    fn scale(&self) -> f64 {
        let longest_ms = self.panels.iter().map(Panel::length_ms).fold(0.0, f64::max);
        let mut lengths: Vec<u64> = self
            .panels
            .iter()
            .flat_map(|panel| &panel.spans)
            .filter(|span| span.op.is_compute() && span.dur_ns > 0)
            .map(|span| span.dur_ns)
            .collect();
        lengths.sort_unstable();
        let short_ms = lengths.get(lengths.len() / 4).map_or(longest_ms, |&ns| ns as f64 * 1e-6);
        let n_letters = 1 + self.hello.micro_batches.saturating_sub(1).to_string().len();
        let wanted = (n_letters as f64 * LETTER + 4.0) / short_ms;
        wanted.clamp(WIDTH_MIN / longest_ms, WIDTH_MAX / longest_ms)
    }

    fn shade(&self, span: &Span, phase: Phase) -> Shade {
        let copy = span.mb / (self.hello.micro_batches / self.n_copies).max(1);
        let depth = self.depths.get(&(span.rank, copy, span.stage)).copied().unwrap_or(0.0);
        Shade { phase, depth, is_second_copy: self.n_copies > 1 && copy > 0 }
    }

    fn hello(&mut self, hello: &Hello) {
        self.hello.clone_from(hello);
        let copies = hello.stages.iter().map(|stage| stage.copy);
        self.n_copies = copies.max().unwrap_or(0).saturating_add(1);
        let mut of_ranks: BTreeMap<(u32, u32), BTreeSet<u32>> = BTreeMap::new();
        for stage in &hello.stages {
            of_ranks.entry((stage.rank, stage.copy)).or_default().insert(stage.stage);
        }
        self.depths.clear();
        for ((rank, copy), stages) in of_ranks {
            let deepest = stages.len().saturating_sub(1).max(1) as f64;
            for (at, stage) in stages.into_iter().enumerate() {
                self.depths.insert((rank, copy, stage), at as f64 / deepest);
            }
        }
    }
}

/// The phase of compute, and `None` for everything else.
fn phase(kind: SpanKind) -> Option<Phase> {
    match kind {
        SpanKind::F => Some(Phase::Forward),
        SpanKind::B => Some(Phase::Backward),
        SpanKind::I => Some(Phase::InputGrad),
        SpanKind::W => Some(Phase::WeightGrad),
        _ => None,
    }
}

/// The colour of what is not compute: as on the screen, copies and reductions are magenta, and what
/// stands beside the pipeline has no colour of its own.
fn other_fill(kind: SpanKind) -> &'static str {
    match kind {
        SpanKind::Send | SpanKind::Recv => "#b46fd1",
        SpanKind::AllReduce => "#7e3a9e",
        SpanKind::Optim => "#4b5563",
        SpanKind::Checkpoint => "#7b8594",
        SpanKind::Data => "#a3adba",
        _ => "#ececec",
    }
}

/// A name of the log's, no longer than a heading allows.
fn name(text: &str) -> String {
    let cut: String = text.chars().take(NAME_MAX).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    escaped_xml(&format!("{cut}{dots}"))
}

fn percent(ratio: f64) -> String {
    if ratio.is_finite() { format!("{:.1} %", 100.0 * ratio) } else { "not known".to_owned() }
}

impl Svg {
    fn title(&self) -> String {
        let Hello { run, schedule, pp, dp, micro_batches, virtual_stages, .. } = &self.hello;
        let run = if run.is_empty() { "a run without a name".to_owned() } else { name(run) };
        let chunks =
            if *virtual_stages > 1 { format!(", v={virtual_stages}") } else { String::new() };
        let replicas = if *dp > 1 { format!(", {dp} replicas") } else { String::new() };
        format!("{run}: {} p={pp}, m={micro_batches}{chunks}{replicas}", name(schedule))
    }

    fn heading(&self, panel: &Panel) -> String {
        let step = &panel.step;
        // Without a plan nobody knows what should be there.
        let lost = match Expected::of(&self.hello).missing(&panel.spans, 0) {
            0 => String::new(),
            missing => format!("; not complete: {missing} operations were lost"),
        };
        let theory = match self.hello.theory {
            Some(theory) => format!(", in theory {}", percent(theory)),
            None => String::new(),
        };
        format!(
            "step {}: {} ms, bubble ratio {}{theory}{lost}",
            step.step,
            short_number((step.seconds * 1e6).round() / 1e3),
            percent(step.bubble_ratio)
        )
    }

    fn draw(&self, out: &mut dyn Write) -> Result<(), ExportError> {
        let rows = self.rows();
        let scale = self.scale();
        let field = self.panels.iter().map(Panel::length_ms).fold(0.0, f64::max) * scale;
        let width = LEFT + field + RIGHT;
        let panel_height = HEADING + rows.len() as f64 * ROW + AXIS;
        let height = TOP + self.panels.len() as f64 * panel_height + LEGEND;
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             font-family=\"Helvetica, Arial, sans-serif\" font-size=\"{FONT}\">"
        )?;
        let title = self.title();
        let headings: Vec<String> = self.panels.iter().map(|panel| self.heading(panel)).collect();
        writeln!(out, "<title>{title}; {}</title>", headings.join("; "))?;
        writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>")?;
        writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"22\" font-size=\"13\" font-weight=\"bold\" fill=\"{INK}\">{title}</text>"
        )?;
        let mut top = TOP;
        for (panel, heading) in self.panels.iter().zip(&headings) {
            writeln!(
                out,
                "<text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"12\" fill=\"{INK}\">{heading}</text>",
                top + 12.0
            )?;
            self.draw_panel(panel, &rows, top + HEADING, scale, out)?;
            top += panel_height;
        }
        self.draw_legend(top + 6.0, out)?;
        writeln!(out, "</svg>")?;
        Ok(())
    }

    fn draw_panel(
        &self,
        panel: &Panel,
        rows: &[(u32, u32)],
        top: f64,
        scale: f64,
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let has_replicas = rows.iter().any(|(replica, _)| *replica > 0);
        for (at, (replica, rank)) in rows.iter().enumerate() {
            let label = if has_replicas {
                format!("{replica}: rank {rank}")
            } else {
                format!("rank {rank}")
            };
            writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{INK}\">{label}</text>",
                LEFT - 8.0,
                top + at as f64 * ROW + BOX / 2.0 + FONT * 0.35
            )?;
        }
        // What lies beside an op is drawn over it.
        let is_mean = |span: &&Span| span.op == SpanKind::AllReduce;
        let spans = panel.spans.iter().filter(|span| !is_mean(span));
        for span in spans.chain(panel.spans.iter().filter(is_mean)) {
            let Ok(at) = rows.binary_search(&(span.replica, span.rank)) else { continue };
            let ms = |ns: u64| (ns - panel.first_ns) as f64 * 1e-6;
            let x = LEFT + ms(span.start_ns) * scale;
            let length = LEFT + ms(span.end_ns()) * scale - x;
            self.draw_box(span, panel, (x, top + at as f64 * ROW, length), out)?;
        }
        let bottom = top + rows.len() as f64 * ROW;
        for mark in axis_marks(panel.length_ms(), scale) {
            let x = LEFT + mark * scale;
            writeln!(
                out,
                "<line x1=\"{x:.2}\" y1=\"{bottom:.1}\" x2=\"{x:.2}\" y2=\"{:.1}\" stroke=\"#8a8a8a\"/>",
                bottom + 4.0
            )?;
            writeln!(
                out,
                "<text x=\"{x:.2}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{GREY}\">{} ms</text>",
                bottom + 16.0,
                short_number(mark)
            )?;
        }
        Ok(())
    }

    fn draw_box(
        &self,
        span: &Span,
        panel: &Panel,
        (x, y, length): (f64, f64, f64),
        out: &mut dyn Write,
    ) -> Result<(), ExportError> {
        let shade = phase(span.op).map(|phase| self.shade(span, phase));
        let fill = shade.map_or_else(|| other_fill(span.op).to_owned(), Shade::fill);
        let about = match shade {
            Some(_) => format!("{}{}{}", span.stage, span.op.name(), span.mb),
            None if span.op == SpanKind::AllReduce => {
                format!("{} of stage {}, bucket {}", span.op.name(), span.stage, span.mb)
            }
            None => span.op.name().to_owned(),
        };
        // A mean may lie beside what its rank computes, and is drawn along the bottom of the row.
        let (y, height) =
            if span.op == SpanKind::AllReduce { (y + BOX - MEAN_BOX, MEAN_BOX) } else { (y, BOX) };
        // Neighbours are told apart by a white line, where there is room for one.
        let stroke = if length >= 3.0 { " stroke=\"#ffffff\" stroke-width=\"0.8\"" } else { "" };
        writeln!(
            out,
            "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{length:.2}\" height=\"{height:.1}\" fill=\"{fill}\"{stroke}><title>{about}, from {} ms, {} ms long</title></rect>",
            millis(span.start_ns - panel.first_ns),
            millis(span.end_ns() - span.start_ns)
        )?;
        let Some(shade) = shade else { return Ok(()) };
        let number = span.mb.to_string();
        let fits = |text: &&String| text.len() as f64 * LETTER + 2.0 <= length;
        let both = format!("{}{number}", span.op.name());
        if let Some(label) = [&both, &number].into_iter().find(fits) {
            writeln!(
                out,
                "<text x=\"{:.2}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{}\">{label}</text>",
                x + length / 2.0,
                y + BOX / 2.0 + FONT * 0.35,
                shade.ink()
            )?;
        }
        Ok(())
    }

    fn draw_legend(&self, y: f64, out: &mut dyn Write) -> Result<(), ExportError> {
        let drawn: BTreeSet<SpanKind> =
            self.panels.iter().flat_map(|panel| &panel.spans).map(|span| span.op).collect();
        let mut x = LEFT;
        let mut seen = BTreeSet::new();
        for kind in drawn {
            let text = match (phase(kind), kind) {
                (Some(phase), _) => legend_of(phase),
                (None, SpanKind::Send | SpanKind::Recv) => "copy",
                (None, SpanKind::WaitAct | SpanKind::WaitGrad) => "waiting",
                (None, SpanKind::AllReduce) => "all-reduce",
                (None, SpanKind::Optim) => "optimizer",
                (None, kind) => kind.name(),
            };
            if !seen.insert(text) {
                continue;
            }
            let shade = |phase| Shade { phase, depth: 0.0, is_second_copy: false };
            let fill = phase(kind)
                .map_or_else(|| other_fill(kind).to_owned(), |phase| shade(phase).fill());
            writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"14\" height=\"14\" fill=\"{fill}\"/>"
            )?;
            writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{INK}\">{text}</text>",
                x + 19.0,
                y + 11.0
            )?;
            x += 34.0 + text.len() as f64 * LETTER;
        }
        let shades = || {
            let spans = self.panels.iter().flat_map(|panel| &panel.spans);
            spans.filter_map(|span| Some(self.shade(span, phase(span.op)?)))
        };
        let notes = legend_of_shades(
            shades().any(|shade| shade.depth > 0.0),
            shades().any(|shade| shade.is_second_copy),
        );
        if !notes.is_empty() {
            writeln!(
                out,
                "<text x=\"{LEFT}\" y=\"{:.1}\" fill=\"{GREY}\">{}</text>",
                y + 27.0,
                notes.join("; ")
            )?;
        }
        Ok(())
    }
}

/// Nanoseconds as milliseconds, none of them lost.
fn millis(ns: u64) -> String {
    let text = format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Writer for Svg {
    fn push(&mut self, event: &Event, _: &mut dyn Write) -> Result<(), ExportError> {
        match event {
            Event::Hello(hello) => self.hello(hello),
            Event::Span(span) => {
                if self.n_spans == SPANS_MAX {
                    return Err(ExportError::TooManySpans { most: SPANS_MAX });
                }
                self.n_spans += 1;
                self.running.entry(span.step).or_default().push(*span);
            }
            Event::Step(step) => self.step(step)?,
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        if self.panels.is_empty() {
            return Err(ExportError::NothingToDraw { asked: self.asked });
        }
        self.draw(out)
    }
}
