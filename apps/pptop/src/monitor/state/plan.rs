//! The plan of a run, simulated with the times that the run has measured.
//!
//! The plan and its simulation are kept until something changes, because a screen is drawn many
//! times a second.

use std::cell::RefCell;
use std::sync::Arc;

use pp_schedule::{ValidPlan, simulate};
use pp_telemetry::{Hello, Model, Span, mean_costs, plan_of};

/// Recorded steps whose times are taken.
const STEPS: usize = 8;

/// What a step would be if nothing came between.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    /// For each rank what it computes, from 0 on.
    pub(crate) rows: Vec<Vec<Span>>,
    /// From the first start to the last end.
    pub(crate) makespan_ns: u64,
}

/// Something, or why there is none.
type Found<T> = Arc<Result<T, String>>;

/// What a plan belongs to: the run, its micro-batches, and how long the plan is.
type PlanKey = (String, u32, usize);

/// What was found for which key.
type Kept<K, T> = RefCell<Option<(K, Found<T>)>>;

/// What was found last.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    plan: Kept<PlanKey, ValidPlan>,
    /// Of a plan and the newest recorded step.
    planned: Kept<(PlanKey, u64), Planned>,
}

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self { plan: self.plan.clone(), planned: self.planned.clone() }
    }
}

/// What is kept follows from the model: it makes no difference.
impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Memo {
    /// The plan of the run with the mean times of its last recorded steps, or why there is none.
    pub(crate) fn planned(&self, model: &Model) -> Found<Planned> {
        let Some(hello) = model.hello() else {
            return Arc::new(Err("the plan of the run is not known yet".to_owned()));
        };
        let n_bytes = hello.plan.iter().map(String::len).sum();
        let plan_key = (hello.run.clone(), hello.micro_batches, n_bytes);
        let newest = model.recorded().last_complete().map_or(0, |step| step.step);
        let key = (plan_key.clone(), newest);
        if let Some((kept, planned)) = &*self.planned.borrow()
            && *kept == key
        {
            return Arc::clone(planned);
        }
        let plan = self.plan(plan_key, hello);
        let planned = Arc::new(match &*plan {
            Ok(plan) => play(plan, model),
            Err(why) => Err(why.clone()),
        });
        self.planned.replace(Some((key, Arc::clone(&planned))));
        planned
    }

    fn plan(&self, key: PlanKey, hello: &Hello) -> Found<ValidPlan> {
        if let Some((kept, plan)) = &*self.plan.borrow()
            && *kept == key
        {
            return Arc::clone(plan);
        }
        let plan = Arc::new(plan_of(hello).map_err(|why| why.to_string()));
        self.plan.replace(Some((key, Arc::clone(&plan))));
        plan
    }
}

fn play(plan: &ValidPlan, model: &Model) -> Result<Planned, String> {
    let costs = mean_costs(model, plan, STEPS)
        .ok_or_else(|| "the plan is simulated once a step is recorded in full".to_owned())?;
    let simulation = simulate(plan, &costs).map_err(|refused| {
        // The grid that may follow has no room on a screen.
        refused.to_string().lines().next().unwrap_or_default().to_owned()
    })?;
    let mut rows = Vec::new();
    for (rank, timed) in (0..).zip(simulation.timeline(plan, &costs)) {
        let mut row = Vec::new();
        for cell in timed {
            let whole: f64 = cell.action.ops().map(|op| costs.duration_of(op.into())).sum();
            let mut start = cell.start;
            for op in cell.action.ops() {
                // The two halves of a pair share its time as they would alone.
                let share = if whole > 0.0 { costs.duration_of(op.into()) / whole } else { 1.0 };
                let end = start + share * (cell.end - cell.start);
                row.push(Span {
                    step: 0,
                    replica: 0,
                    rank,
                    stage: op.stage.0,
                    mb: op.micro_batch.0,
                    op: op.phase.into(),
                    start_ns: nanoseconds(start),
                    dur_ns: nanoseconds(end).saturating_sub(nanoseconds(start)),
                    cpu_ns: 0,
                    bytes: 0,
                    starved_ns: 0,
                });
                start = end;
            }
        }
        rows.push(row);
    }
    Ok(Planned { rows, makespan_ns: nanoseconds(simulation.makespan) })
}

fn nanoseconds(seconds: f64) -> u64 {
    #[expect(clippy::cast_sign_loss, reason = "a negative time becomes 0")]
    let whole = (seconds * 1e9).round() as u64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use pp_telemetry::{Event, SpanKind, StepEvent};

    fn model(plan: &[&str], spans: &[(u32, SpanKind, u64)]) -> Model {
        let hello = Hello {
            run: "run".to_owned(),
            pp: plan.len() as u32,
            dp: 1,
            micro_batches: 2,
            plan: plan.iter().map(|row| (*row).to_owned()).collect(),
            ..Hello::default()
        };
        let mut model = Model::new();
        model.apply(&Event::Hello(Box::new(hello)));
        // The same for both micro-batches.
        for (mb, &(rank, op, dur_ns)) in (0..2).flat_map(|mb| spans.iter().map(move |s| (mb, s))) {
            model.apply(&Event::Span(Span {
                step: 1,
                replica: 0,
                rank,
                stage: rank,
                mb,
                op,
                start_ns: 0,
                dur_ns,
                cpu_ns: 0,
                bytes: 0,
                starved_ns: 0,
            }));
        }
        let step = r#"{"ev":"step","step":1,"loss":1.0,"seconds":0.001}"#;
        let step: StepEvent = serde_json::from_str(step).unwrap();
        model.apply(&Event::Step(step));
        model
    }

    const GPIPE: [&str; 2] = ["0F0,0F1,0B0,0B1", "1F0,1F1,1B0,1B1"];

    #[test]
    fn the_plan_takes_as_long_as_its_measured_parts() {
        let spans = [
            (0, SpanKind::F, 10),
            (1, SpanKind::F, 10),
            (0, SpanKind::B, 20),
            (1, SpanKind::B, 20),
        ];
        let model = model(&GPIPE, &spans);
        let memo = Memo::default();
        let planned = memo.planned(&model);
        let planned_again = memo.planned(&model);
        assert!(Arc::ptr_eq(&planned, &planned_again), "it is played through once");
        let planned = planned.as_ref().as_ref().unwrap();
        // (m + p - 1) forwards and as many backwards.
        assert_eq!(planned.makespan_ns, 3 * 10 + 3 * 20);
        let last = planned.rows[0].last().unwrap();
        assert_eq!((last.op, last.mb, last.end_ns()), (SpanKind::B, 1, 90));
        assert_eq!(planned.rows[1][0].start_ns, 10);
    }

    #[test]
    fn halves_of_a_backward_take_their_own_times() {
        let plan = ["0F0,0F1,0I0,0I1,0W0,0W1"];
        let measured =
            model(&plan, &[(0, SpanKind::F, 10), (0, SpanKind::I, 20), (0, SpanKind::W, 5)]);
        let planned = Memo::default().planned(&measured);
        assert_eq!(planned.as_ref().as_ref().unwrap().makespan_ns, 2 * (10 + 20 + 5));
    }

    #[test]
    fn a_pair_is_drawn_as_its_two_halves() {
        let plan = ["0F0,(0F1;0B0)OVERLAP_F_B,0B1"];
        let measured = model(&plan, &[(0, SpanKind::F, 10), (0, SpanKind::B, 20)]);
        let planned = Memo::default().planned(&measured);
        let planned = planned.as_ref().as_ref().unwrap();
        let row: Vec<_> =
            planned.rows[0].iter().map(|span| (span.op, span.mb, span.start_ns)).collect();
        let wanted =
            [(SpanKind::F, 0, 0), (SpanKind::F, 1, 10), (SpanKind::B, 0, 20), (SpanKind::B, 1, 40)];
        assert_eq!(row, wanted);
    }

    #[test]
    fn where_there_is_no_plan_one_learns_why() {
        let why = |model: &Model| Memo::default().planned(model).as_ref().clone().unwrap_err();
        assert!(why(&model(&[], &[])).contains("does not say what the plan is"));
        assert!(why(&model(&GPIPE, &[(0, SpanKind::F, 10)])).contains("recorded in full"));
        assert!(why(&model(&["0F0,nonsense"], &[])).contains("nonsense"));
        let long = vec!["0F0"; 200_001].join(",");
        assert!(why(&model(&[&long], &[])).contains("200001 operations"));
        assert!(why(&Model::new()).contains("yet"));
    }
}
