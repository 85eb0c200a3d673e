//! The last state of a run in the text format of Prometheus.

use std::fmt;
use std::io::Write;

use pp_schedule::is_obeyed;

use super::{ExportError, Writer};
use crate::model::{GpuState, Model, RankState};
use crate::standing::Standing;
use pp_trace::{Continues, Event, Hello};

/// A value as the format has it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        if self.0.is_nan() {
            f.write_str("NaN")
        } else if size.is_infinite() {
            f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" })
        } else if size == 0.0 || (1e-6..1e16).contains(&size) {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:e}", self.0)
        }
    }
}

/// The labels of a sample, as they are written.
#[derive(Debug, Clone, Default)]
struct Labels(String);

impl Labels {
    fn with(&self, name: &str, value: &str) -> Self {
        let mut text = self.0.clone();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                // What a terminal would obey.
                c if is_obeyed(c) => text.push('\u{fffd}'),
                c => text.push(c),
            }
        }
        text.push('"');
        Self(text)
    }
}

/// Whether a number only ever grows.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// The text, one metric after another.
struct Page<'a> {
    out: &'a mut dyn Write,
}

impl Page<'_> {
    /// One metric with all its samples; left out where there are none.
    fn metric(
        &mut self,
        (name, kind, help): (&str, Kind, &str),
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result<(), ExportError> {
        let mut has_head = false;
        for (labels, value) in samples {
            if !std::mem::replace(&mut has_head, true) {
                let kind = match kind {
                    Kind::Gauge => "gauge",
                    Kind::Counter => "counter",
                };
                writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
            }
            writeln!(self.out, "{name}{{{}}} {}", labels.0, Number(value))?;
        }
        Ok(())
    }
}

/// How a run stands, as lines that belong behind those of its log: a log alone does not tell that
/// its run was killed.
pub fn standing_metrics(run: &str, standing: Standing) -> String {
    let run = Labels::default().with("run", run);
    let alive = u8::from(standing.is_alive());
    let labels = run.with("standing", standing.name());
    format!(
        "# HELP pptop_run_alive Whether the process of the run is there.\n# TYPE pptop_run_alive gauge\n\
         pptop_run_alive{{{}}} {alive}\n\
         # HELP pptop_run_standing How the run stands: always 1.\n# TYPE pptop_run_standing gauge\n\
         pptop_run_standing{{{}}} 1\n",
        run.0, labels.0
    )
}

/// Folds the run, and writes what it has come to.
#[derive(Debug, Default)]
pub(super) struct Prometheus {
    model: Model,
}

impl Writer for Prometheus {
    fn push(&mut self, event: &Event, _: &mut dyn Write) -> Result<(), ExportError> {
        self.model.apply(event);
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Write) -> Result<(), ExportError> {
        let unknown = Hello::default();
        let hello = self.model.hello().unwrap_or(&unknown);
        let run = Labels::default().with("run", &hello.run);
        let mut page = Page { out };
        of_run(&mut page, &self.model, hello, &run)?;
        of_step(&mut page, &self.model, &run)?;
        of_ranks(&mut page, &self.model, &run)?;
        of_gpus(&mut page, &self.model, &run)
    }
}

fn of_run(
    page: &mut Page<'_>,
    model: &Model,
    hello: &Hello,
    run: &Labels,
) -> Result<(), ExportError> {
    use Kind::{Counter, Gauge};
    let one = |value: f64| [(run.clone(), value)];
    let is_known = model.hello().is_some();
    let about =
        run.with("model", &hello.model).with("schedule", &hello.schedule).with("host", &hello.host);
    page.metric(
        ("pptop_run_info", Gauge, "The model, schedule and host of the run: always 1."),
        is_known.then_some((about, 1.0)),
    )?;
    let before = hello.continues.as_ref().filter(|_| is_known);
    let step_of = |before: &Continues| (run.with("continues", &before.run), before.step as f64);
    page.metric(
        (
            "pptop_continues_step",
            Gauge,
            "The last step of the checkpoint that the run resumed from.",
        ),
        before.map(step_of),
    )?;
    page.metric(
        ("pptop_start_time_seconds", Gauge, "When the run began, in seconds of Unix time."),
        is_known.then(|| (run.clone(), hello.started_unix_ms as f64 / 1000.0)),
    )?;
    page.metric(
        ("pptop_step", Gauge, "The last finished step, 0 before the first."),
        one(model.step() as f64),
    )?;
    page.metric(
        ("pptop_planned_steps", Gauge, "Planned steps."),
        (is_known && hello.steps > 0).then(|| (run.clone(), hello.steps as f64)),
    )?;
    page.metric(
        (
            "pptop_dropped_events_total",
            Counter,
            "Events that the recorder lost because it could not keep up.",
        ),
        one(model.n_dropped() as f64),
    )?;
    page.metric(
        (
            "pptop_incomplete_steps_total",
            Counter,
            "Steps with lost operations, which are left out of the numbers of the ranks.",
        ),
        one(model.incomplete().n_steps as f64),
    )?;
    page.metric(
        ("pptop_samples_total", Counter, "Samples that were trained on."),
        (model.totals().samples > 0).then(|| (run.clone(), model.totals().samples as f64)),
    )?;
    page.metric(
        ("pptop_tokens_total", Counter, "Tokens that were trained on."),
        (model.totals().tokens > 0).then(|| (run.clone(), model.totals().tokens as f64)),
    )?;
    page.metric(
        (
            "pptop_flops",
            Gauge,
            "Floating-point operations a second over the last steps: 6 per weight and token, plus attention.",
        ),
        model.flops().map(|flops| (run.clone(), flops)),
    )?;
    page.metric(
        (
            "pptop_mfu_ratio",
            Gauge,
            "Model FLOPs utilisation: FLOP/s as a share of the devices' peak.",
        ),
        model.flops_utilisation().map(|share| (run.clone(), share)),
    )?;
    page.metric(
        ("pptop_warnings_total", Counter, "Warnings of the run."),
        one(model.n_warnings() as f64),
    )?;
    page.metric(
        ("pptop_ended", Gauge, "Whether the log has the end record of the run."),
        one(f64::from(u8::from(model.end().is_some()))),
    )?;
    page.metric(
        ("pptop_exit_code", Gauge, "The exit code of a run that is over."),
        model.end().map(|end| (run.clone(), f64::from(end.code))),
    )
}

/// What is measured, if it was: without spans, and where a rank is missing, it was not.
fn known(value: f64) -> Option<f64> {
    Some(value).filter(|value| !value.is_nan())
}

fn of_step(page: &mut Page<'_>, model: &Model, run: &Labels) -> Result<(), ExportError> {
    use Kind::Gauge;
    let labelled = |value: f64| (run.clone(), value);
    let last = model.steps().last();
    let rate =
        |n: u64, seconds: f64| (n > 0 && seconds > 0.0).then_some(n as f64 / seconds).map(labelled);
    let number = |of: fn(&crate::StepEvent) -> f64| last.map(of).map(labelled);
    let told = |of: fn(&crate::StepEvent) -> Option<f64>| last.and_then(of).map(labelled);
    page.metric(
        ("pptop_loss", Gauge, "The training loss of the last step."),
        told(|step| step.loss.map(f64::from)),
    )?;
    let mark = model.loss().marks().last();
    page.metric(
        ("pptop_validation_loss", Gauge, "The loss of the last validation."),
        mark.map(|mark| labelled(mark.loss)),
    )?;
    page.metric(
        (
            "pptop_validation_accuracy_ratio",
            Gauge,
            "Share of correct answers in the last validation.",
        ),
        mark.and_then(|mark| mark.accuracy).map(labelled),
    )?;
    page.metric(
        ("pptop_learning_rate", Gauge, "The learning rate of the last step."),
        told(|step| step.lr),
    )?;
    page.metric(
        (
            "pptop_gradient_norm",
            Gauge,
            "The norm of all gradients of the last step, before clipping.",
        ),
        told(|step| step.grad_norm),
    )?;
    page.metric(
        ("pptop_step_seconds", Gauge, "How long the last step took."),
        number(|step| step.seconds),
    )?;
    page.metric(
        (
            "pptop_elapsed_seconds",
            Gauge,
            "Seconds from the start of the run to the end of the last step.",
        ),
        number(|step| step.elapsed_seconds),
    )?;
    page.metric(
        (
            "pptop_window_seconds",
            Gauge,
            "Compute window of the last step: from the first start to the last end.",
        ),
        told(|step| known(step.window_seconds)),
    )?;
    page.metric(
        (
            "pptop_bubble_ratio",
            Gauge,
            "Share of the compute window of the last step in which ranks did not compute.",
        ),
        told(|step| known(step.bubble_ratio)),
    )?;
    page.metric(
        ("pptop_bubble_theory_ratio", Gauge, "The bubble ratio of the schedule in theory."),
        model.hello().and_then(|hello| hello.theory).map(labelled),
    )?;
    page.metric(
        ("pptop_idle_ratio", Gauge, "Share of the whole last step in which ranks did not compute."),
        told(|step| known(step.idle_of_step)),
    )?;
    page.metric(
        (
            "pptop_starved_ratio",
            Gauge,
            "Share of the compute window of the last step in which a computing rank had no core.",
        ),
        told(|step| known(step.starved_ratio)),
    )?;
    page.metric(
        ("pptop_samples_per_second", Gauge, "Samples a second in the last step."),
        last.and_then(|step| rate(step.samples, step.seconds)),
    )?;
    page.metric(
        ("pptop_tokens_per_second", Gauge, "Tokens a second in the last step."),
        last.and_then(|step| rate(step.tokens, step.seconds)),
    )
}

fn of_ranks(page: &mut Page<'_>, model: &Model, run: &Labels) -> Result<(), ExportError> {
    use Kind::Gauge;
    let labels = |state: &RankState| {
        run.with("replica", &state.replica.to_string()).with("rank", &state.rank.to_string())
    };
    let each = |of: fn(&RankState) -> Option<f64>| {
        model.ranks().iter().filter_map(move |state| Some((labels(state), of(state)?)))
    };
    let bytes = |of: fn(&crate::Mem) -> u64| {
        model
            .ranks()
            .iter()
            .filter_map(move |state| Some((labels(state), of(state.memory.as_ref()?) as f64)))
    };
    let devices = model.ranks().iter().map(|state| {
        let uuid = model
            .gpu_of(state.replica, state.rank)
            .map(|gpu| gpu.latest.uuid.as_str())
            .unwrap_or_default();
        (labels(state).with("device", &state.device).with("uuid", uuid), 1.0)
    });
    page.metric(
        ("pptop_rank_info", Gauge, "The device of a rank, and the uuid of its GPU: always 1."),
        devices,
    )?;
    page.metric(
        (
            "pptop_rank_busy_ratio",
            Gauge,
            "Share of the compute window in which a rank computes, over the last recorded steps.",
        ),
        each(RankState::busy_of_window),
    )?;
    page.metric(
        (
            "pptop_rank_computing_ratio",
            Gauge,
            "Share of the compute window in which a rank computes on a core; adds up to 1 with starved and bubble.",
        ),
        each(RankState::computing_of_window),
    )?;
    page.metric(
        ("pptop_rank_bubble_ratio", Gauge, "Share of the compute window in which a rank was idle."),
        each(RankState::bubble_of_window),
    )?;
    page.metric(
        (
            "pptop_rank_starved_ratio",
            Gauge,
            "Share of the compute window in which a rank could have computed but had no core.",
        ),
        each(RankState::starved_of_window),
    )?;
    page.metric(
        ("pptop_rank_copy_ratio", Gauge, "Share of the compute window in which a rank copies."),
        each(RankState::copy_of_window),
    )?;
    page.metric(
        ("pptop_rank_memory_live_bytes", Gauge, "Bytes in tensors of a rank."),
        bytes(|memory| memory.live_bytes),
    )?;
    page.metric(
        ("pptop_rank_memory_peak_bytes", Gauge, "Most bytes in tensors of a rank so far."),
        bytes(|memory| memory.peak_bytes),
    )?;
    page.metric(
        ("pptop_rank_memory_parameter_bytes", Gauge, "Bytes of the parameters of a rank."),
        bytes(|memory| memory.parameter_bytes),
    )?;
    page.metric(
        ("pptop_rank_memory_gradient_bytes", Gauge, "Bytes of the gradients of a rank."),
        bytes(|memory| memory.gradient_bytes),
    )?;
    page.metric(
        ("pptop_rank_memory_optimizer_bytes", Gauge, "Bytes of the state of a rank's optimizer."),
        bytes(|memory| memory.optimizer_bytes),
    )?;
    page.metric(
        (
            "pptop_rank_memory_packed_weight_bytes",
            Gauge,
            "Bytes of packed copies of a rank's weights.",
        ),
        bytes(|memory| memory.packed_bytes),
    )?;
    page.metric(
        (
            "pptop_rank_memory_stash_bytes",
            Gauge,
            "Bytes of a rank's activations that wait for their backward pass.",
        ),
        bytes(|memory| memory.stash_bytes),
    )
}

fn of_gpus(page: &mut Page<'_>, model: &Model, run: &Labels) -> Result<(), ExportError> {
    use Kind::{Counter, Gauge};
    let each = |of: fn(&GpuState) -> Option<f64>| {
        model
            .gpus()
            .iter()
            .filter_map(move |gpu| Some((run.with("uuid", &gpu.latest.uuid), of(gpu)?)))
    };
    page.metric(
        ("pptop_gpu_up", Gauge, "Whether the GPU answers."),
        each(|gpu| Some(f64::from(u8::from(gpu.latest.error.is_none())))),
    )?;
    page.metric(
        (
            "pptop_gpu_utilization_ratio",
            Gauge,
            "Share of the time in which any kernel was resident: not the share that is computed.",
        ),
        each(|gpu| gpu.latest.utilisation),
    )?;
    page.metric(
        ("pptop_gpu_sm_active_ratio", Gauge, "Share of the multiprocessors that had work."),
        each(|gpu| gpu.latest.sm_active),
    )?;
    page.metric(
        (
            "pptop_gpu_tensor_active_ratio",
            Gauge,
            "Share of the cycles in which tensor cores worked.",
        ),
        each(|gpu| gpu.latest.tensor_active),
    )?;
    page.metric(
        ("pptop_gpu_memory_used_bytes", Gauge, "Bytes in use by all processes."),
        each(|gpu| gpu.latest.used_bytes.map(|bytes| bytes as f64)),
    )?;
    page.metric(
        ("pptop_gpu_memory_size_bytes", Gauge, "Bytes that the GPU has."),
        each(|gpu| gpu.latest.total_bytes.map(|bytes| bytes as f64)),
    )?;
    page.metric(
        ("pptop_gpu_power_watts", Gauge, "Watts that the GPU draws."),
        each(|gpu| gpu.latest.power_watts),
    )?;
    page.metric(
        (
            "pptop_gpu_energy_joules_total",
            Counter,
            "Joules since the run began, by the GPU's own counter.",
        ),
        each(GpuState::joules),
    )?;
    page.metric(
        ("pptop_gpu_temperature_celsius", Gauge, "Degrees Celsius."),
        each(|gpu| gpu.latest.temperature_celsius),
    )?;
    page.metric(
        ("pptop_gpu_sm_clock_hertz", Gauge, "The clock of the multiprocessors."),
        each(|gpu| gpu.latest.sm_clock_mhz.map(|mhz| f64::from(mhz) * 1e6)),
    )
}
