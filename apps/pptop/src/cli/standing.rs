//! How a run stands, in numbers.

use pp_telemetry::{
    Account, Advice, Alarm, Continues, Evidence, Follower, Model, Part, RankState, Rate, ReadError,
    Run, account, advice, standing_metrics, what_if,
};
use serde::Serialize;

use super::{CliError, one_line};

/// How a run stands. Shares are of 1, times in seconds, memory in bytes.
#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "it is the name in JSON")]
pub(crate) struct Standing {
    pub(crate) run: String,
    /// `live` while the process is there, `ended CODE`, `stopped`, `died` or `unknown`.
    pub(crate) state: String,
    /// One word more precisely: starting, live, stalled, suspended, finished, stopped, failed, died
    /// or unknown.
    pub(crate) standing: &'static str,
    pub(crate) exit_code: Option<i32>,
    /// How it ended, in its own words.
    pub(crate) reason: Option<String>,
    /// The run and the step that it resumes from, and how long the runs before it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) continues: Option<Continues>,
    /// What is saved of it, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) saved: Option<String>,
    /// How long the rest will take; absent unless the run goes on.
    pub(crate) eta_seconds: Option<f64>,
    pub(crate) model: String,
    pub(crate) schedule: String,
    pub(crate) pp: u32,
    pub(crate) dp: u32,
    pub(crate) micro_batches: u32,
    pub(crate) virtual_stages: u32,
    pub(crate) step: u64,
    pub(crate) steps: Option<u64>,
    pub(crate) loss: Option<f64>,
    pub(crate) validation_loss: Option<f64>,
    pub(crate) samples_per_second: Option<f64>,
    pub(crate) tokens_per_second: Option<f64>,
    pub(crate) step_seconds: Option<f64>,
    pub(crate) step_seconds_p95: Option<f64>,
    pub(crate) bubble_ratio: Option<f64>,
    pub(crate) bubble_ratio_sd: Option<f64>,
    pub(crate) bubble_theory: Option<f64>,
    /// Simulated with this run's times by the wall clock, as the measured ratio is.
    pub(crate) bubble_simulated: Option<f64>,
    /// The same if no rank ever waited for a core.
    pub(crate) bubble_simulated_net: Option<f64>,
    pub(crate) starved_ratio: Option<f64>,
    /// Where the compute window of a step goes; absent where no spans are at hand.
    pub(crate) window: Option<Window>,
    pub(crate) ranks: Vec<RankStanding>,
    /// The current alarm of the training in one line; `None` if there is none.
    pub(crate) alarm: Option<String>,
    pub(crate) alarm_kind: Option<&'static str>,
    /// The step at which that began.
    pub(crate) alarm_step: Option<u64>,
    /// Jumps of the loss and of the gradient norm so far.
    pub(crate) spikes: u64,
    /// What goes on that is no step, such as `evaluating 3/12`.
    pub(crate) phase: Option<String>,
    /// What took time beside the steps.
    pub(crate) phases: Vec<PhaseStanding>,
    /// Slow operations, one line for each rank, cause and span of steps.
    pub(crate) slow: Vec<String>,
    /// From the beginning to the end of the last step.
    pub(crate) elapsed_seconds: f64,
    samples_total: Option<u64>,
    /// 0 where samples are not made of tokens.
    pub(crate) tokens_total: Option<u64>,
    /// Floating-point operations a second, where it is known what a sample needs, and their share
    /// of the peak, where that was given.
    pub(crate) flops: Option<f64>,
    pub(crate) mfu: Option<f64>,
    /// Steps of which operations were lost: no number of a rank is taken from them. The last of
    /// them, and how many it lacks.
    pub(crate) incomplete_steps: u64,
    pub(crate) last_incomplete_step: Option<u64>,
    pub(crate) missing_ops: u64,
    pub(crate) lost_events: u64,
    pub(crate) warnings: u64,
    pub(crate) slow_ops: u64,
    pub(crate) bad_lines: u64,
    #[serde(skip)]
    pub(crate) stands: pp_telemetry::Standing,
    #[serde(skip)]
    pub(crate) found: Option<(Account, Advice)>,
}

/// What took time beside the steps, all of one name.
#[derive(Debug, Serialize)]
pub(crate) struct PhaseStanding {
    pub(crate) phase: String,
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) median_seconds: Option<f64>,
    /// Of the time of the run so far.
    pub(crate) share_of_run: Option<f64>,
}

/// Where the compute window of a step goes.
#[derive(Debug, Serialize)]
pub(crate) struct Window {
    pub(crate) seconds: f64,
    pub(crate) work_seconds: f64,
    pub(crate) inherent_seconds: f64,
    pub(crate) imbalance_seconds: f64,
    pub(crate) copy_seconds: f64,
    pub(crate) starved_seconds: f64,
    pub(crate) other_seconds: f64,
    /// By rank of the pipeline.
    pub(crate) imbalance_of_rank_seconds: Vec<f64>,
}

impl Window {
    fn of(account: &Account) -> Self {
        let of = |part: Part| account.part(part).seconds;
        Self {
            seconds: account.window_seconds,
            work_seconds: of(Part::Work),
            inherent_seconds: of(Part::Inherent),
            imbalance_seconds: of(Part::Imbalance),
            copy_seconds: of(Part::Copy),
            starved_seconds: of(Part::Starved),
            other_seconds: of(Part::Other),
            imbalance_of_rank_seconds: account.imbalance_of_rank.clone(),
        }
    }
}

/// One rank.
#[derive(Debug, Serialize)]
pub(crate) struct RankStanding {
    pub(crate) replica: u32,
    pub(crate) rank: u32,
    pub(crate) device: String,
    /// By the wall clock: what it computes, a time without a core meanwhile included.
    pub(crate) busy_of_window: Option<f64>,
    pub(crate) busy_of_step: Option<f64>,
    /// Computing on a core, ready without one, and idle: together all of the window.
    pub(crate) computing_of_window: Option<f64>,
    pub(crate) starved_of_window: Option<f64>,
    pub(crate) bubble_of_window: Option<f64>,
    /// What it computes on a core over the median of the other ranks of its replica; 1 where all
    /// are alike.
    pub(crate) times_the_others: Option<f64>,
    pub(crate) live_bytes: Option<u64>,
    pub(crate) peak_bytes: Option<u64>,
}

impl RankStanding {
    /// `account` says how it compares with the others, where there are others.
    fn of(rank: &RankState, account: Option<&Account>) -> Self {
        Self {
            replica: rank.replica,
            rank: rank.rank,
            device: rank.device.clone(),
            busy_of_window: rank.busy_of_window(),
            busy_of_step: rank.busy_of_step(),
            computing_of_window: rank.computing_of_window(),
            starved_of_window: rank.starved_of_window(),
            bubble_of_window: rank.bubble_of_window(),
            times_the_others: account.map(|account| account.ratio_of_rank(rank.rank)),
            live_bytes: rank.memory.map(|memory| memory.live_bytes),
            peak_bytes: rank.memory.map(|memory| memory.peak_bytes),
        }
    }
}

/// What a log amounts to, read from its last mark on, and how many of its lines were none.
pub(crate) fn model_of(run: &Run) -> Result<(Model, u64), CliError> {
    let mut model = Model::new();
    let mut follower = Follower::from_last_mark(&run.log);
    loop {
        let poll =
            follower.poll(|event| model.apply(&event)).map_err(|error| unreadable(&error))?;
        if poll.at_end {
            break;
        }
    }
    // A run that starts has phases before it says what it trains.
    let starts = model.phase().is_some() || model.phases().next().is_some();
    if model.hello().is_none() && !starts {
        return Err(not_a_run(run, follower.first_refusal().as_deref()));
    }
    Ok((model, follower.n_bad_lines()))
}

/// A log that cannot be read, or not by this program.
pub(crate) fn unreadable(error: &ReadError) -> CliError {
    CliError::Usage(error.with_remedy())
}

/// Refuses a file that is not a run's log, with the reason why its first bad line was rejected.
pub(crate) fn not_a_run(run: &Run, why: Option<&str>) -> CliError {
    let name = super::refusal::excerpt(&run.log.display().to_string());
    let why = why.map_or_else(String::new, |why| format!(" ({})", super::refusal::excerpt(why)));
    CliError::Usage(format!("{name} contains no run{why}; name the log of a run that has started"))
}

/// How a run stands, by its log as well; for a Prometheus server.
pub(crate) fn metrics(run: &Run) -> String {
    match model_of(run) {
        Ok((model, _)) => {
            let name = model.hello().map_or(run.id.as_str(), |hello| hello.run.as_str());
            let evidence = Evidence { end: model.end(), ..run.evidence() };
            standing_metrics(name, evidence.standing())
        }
        Err(_) => standing_metrics(&run.id, run.standing()),
    }
}

impl Standing {
    pub(crate) fn of(run: &Run) -> Result<Self, CliError> {
        let (model, bad_lines) = model_of(run)?;
        let hello = model.hello().cloned().unwrap_or_default();
        let found = account(&model).ok().map(|account| {
            let advice = advice(&account, &what_if(&account));
            (account, advice)
        });
        let steps = model.steps();
        let (samples_per_second, tokens_per_second) = match steps.rate() {
            Some(Rate::Samples(rate)) => (Some(rate), None),
            Some(Rate::Tokens(rate)) => {
                let per_sample = hello.tokens_per_sample.max(1) as f64;
                (Some(rate / per_sample), Some(rate))
            }
            None => (None, None),
        };
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        // A job of another program may not tell a number, which is 0 then.
        let is_foreign = !hello.program.is_empty();
        let told = |number: u64| Some(number).filter(|&number| number > 0 || !is_foreign);
        let bubble = steps.bubble_ratio();
        let account = found.as_ref().map(|(account, _)| account);
        let beside_others = account.filter(|_| hello.pp > 1);
        let ranks = model.ranks().iter().map(|rank| RankStanding::of(rank, beside_others));
        let run_seconds = model
            .end()
            .map(|end| end.wall_seconds)
            .or_else(|| steps.last().map(|step| step.elapsed_seconds))
            .filter(|seconds| seconds.is_finite() && *seconds > 0.0);
        let phases = model.phase_costs().map(|(name, cost)| PhaseStanding {
            phase: one_line(name),
            count: cost.count,
            seconds: cost.seconds(),
            median_seconds: cost.median_seconds(),
            share_of_run: run_seconds.map(|whole| cost.seconds() / whole),
        });
        let slow = model.slow_groups().map(|group| one_line(&pptop::monitor::slow_line(group)));
        let evidence = Evidence { end: model.end(), ..run.evidence() };
        let stands = evidence.standing();
        let reason = model.end().map(|end| end.reason.as_str()).or(evidence.reason);
        Ok(Self {
            state: stands.state(),
            standing: stands.name(),
            exit_code: model.end().map(|end| end.code).or(evidence.code),
            reason: reason.filter(|reason| !reason.is_empty()).map(one_line),
            continues: hello
                .continues
                .as_ref()
                .map(|before| Continues { run: one_line(&before.run), ..before.clone() }),
            saved: model.end().and_then(|end| end.saved.as_deref()).map(one_line),
            eta_seconds: model.eta_seconds().filter(|_| stands.has_rest()),
            stands,
            alarm: model.alarm().map(|alarm| alarm.to_string()),
            alarm_kind: model.alarm().map(Alarm::kind),
            alarm_step: model.alarm().map(Alarm::step),
            spikes: model.n_spikes(),
            phase: model.phase().map(|phase| one_line(&phase.text())),
            phases: phases.collect(),
            slow: slow.collect(),
            // A log that could not be written any more is behind its run.
            step: run.status.as_ref().map_or(0, |status| status.step).max(model.step()),
            loss: model.loss().last().and_then(finite),
            validation_loss: model.loss().marks().last().and_then(|mark| finite(mark.loss)),
            samples_per_second,
            tokens_per_second,
            step_seconds: steps.seconds().map(|seconds| seconds.p50),
            step_seconds_p95: steps.seconds().map(|seconds| seconds.p95),
            bubble_ratio: bubble.map(|bubble| bubble.mean),
            bubble_ratio_sd: bubble.map(|bubble| bubble.sd),
            bubble_theory: hello.theory,
            bubble_simulated: account.map(|account| account.simulated_bubble_ratio),
            bubble_simulated_net: account.map(|account| account.simulated_net_bubble_ratio),
            elapsed_seconds: model.totals().elapsed_seconds,
            samples_total: told(model.totals().samples),
            tokens_total: told(model.totals().tokens),
            flops: model.flops(),
            mfu: model.flops_utilisation(),
            incomplete_steps: model.incomplete().n_steps,
            last_incomplete_step: Some(model.incomplete().last_step).filter(|step| *step > 0),
            missing_ops: model.incomplete().n_missing,
            starved_ratio: steps.starved_ratio().map(|starved| starved.mean),
            window: account.map(Window::of),
            ranks: ranks.collect(),
            lost_events: model.n_dropped(),
            warnings: model.n_warnings(),
            slow_ops: model.n_slow_ops(),
            bad_lines,
            found,
            run: one_line(if hello.run.is_empty() { &run.id } else { &hello.run }),
            model: one_line(&hello.model),
            schedule: one_line(&hello.schedule),
            pp: hello.pp,
            dp: hello.dp,
            micro_batches: hello.micro_batches,
            virtual_stages: hello.virtual_stages,
            steps: told(hello.steps),
        })
    }

    /// One line.
    pub(crate) fn line(&self) -> String {
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0))
        };
        let step = self.step_seconds.filter(|seconds| seconds.is_finite());
        let step =
            step.map_or_else(|| "-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1e3));
        let loss = self.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.5}"));
        let of = self.steps.map_or_else(String::new, |steps| format!("/{steps}"));
        format!(
            "{}  {}  step {}{of}  loss {loss}  bubble {} (theory {})  step {step}\n",
            self.run,
            self.stands,
            self.step,
            percent(self.bubble_ratio),
            percent(self.bubble_theory),
        )
    }
}
