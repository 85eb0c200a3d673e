//! The rules of a device with a queue, kept by the ranks on its double.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use pp_nn::{ForwardContext, Linear, OptimizerKind, memory};
use pp_partition::{Cut, LayerStack, Objective, single};
use pp_schedule::{ScheduleName, Sizes};
use pp_trace::SpanKind;

use super::double::{Counts, Double, TICK_SECONDS, take_counts};
use super::*;
use crate::config::RankConfig;
use crate::device::DeviceSpec;
use crate::report::What;
use crate::{Batch, Ranks, rehearse};

const MICRO_BATCHES: u64 = 4;

/// Features of layers whose tensors are large enough to be counted.
const WIDE: usize = 128;

struct MeanSquare;

impl Objective for MeanSquare {
    fn loss(&self, outputs: &[Tensor], targets: &Tensor, _: &ForwardContext) -> Result<Tensor> {
        (&outputs[0] - targets)?.sqr()?.mean_all()
    }
}

/// Four linear layers with ReLU, on the devices that `devices` names by rank and replica.
fn config(
    schedule: ScheduleName,
    n_replicas: u32,
    devices: impl Fn(u32, u32) -> DeviceSpec + Send + Sync + 'static,
) -> RankConfig {
    sized(schedule, 2, n_replicas, 6, devices)
}

/// The same on so many ranks, with layers of so many features.
fn sized(
    schedule: ScheduleName,
    n_ranks: u32,
    n_replicas: u32,
    width: usize,
    devices: impl Fn(u32, u32) -> DeviceSpec + Send + Sync + 'static,
) -> RankConfig {
    let mut stack = LayerStack::default();
    for layer in ["a", "b", "c", "d"] {
        stack.push(layer, move |vb| {
            let linear = Linear::new(width, width, vb.pp(layer))?;
            Ok(single(move |x, c| linear.forward(x, c)?.relu()))
        });
    }
    let n_virtual_stages = schedule.default_virtual_stages();
    let sizes = Sizes {
        n_ranks,
        n_micro_batches: MICRO_BATCHES as u32,
        n_virtual_stages,
        interleave_group: None,
    };
    let plan = schedule.generate(&sizes).unwrap();
    let partition = Cut::Uniform.solve(&stack, plan.n_stages() as usize, None).unwrap();
    let optimizer = OptimizerKind::Adam;
    RankConfig {
        n_replicas,
        devices: Arc::new(move |rank, replica| devices(rank.0, replica.0)),
        ..RankConfig::new(plan, partition, stack, Arc::new(MeanSquare), optimizer)
    }
}

/// Numbers that differ.
fn numbers(rows: usize, by: f32) -> Tensor {
    let values = (0..rows * 6).map(|i| (i as f32 * by).sin()).collect();
    Tensor::from_vec::<_, f32>(values, (rows, 6), &Device::Cpu).unwrap()
}

fn batches(n_replicas: u32) -> Vec<Arc<Batch>> {
    let rows = 8;
    let of_replica = |replica: u32| {
        let (x, y) = (numbers(rows, 0.3 + replica as f32), numbers(rows, 0.7));
        let first = u64::from(replica) * rows as u64;
        Arc::new(Batch::split(&[x], &y, MICRO_BATCHES as usize, first).unwrap())
    };
    (0..n_replicas).map(of_replica).collect()
}

/// Losses of three steps and the final weights, as bits.
fn trained(config: &RankConfig) -> (Vec<u32>, BTreeMap<String, Vec<u32>>) {
    let mut ranks = Ranks::spawn(config).unwrap();
    let data = batches(config.n_replicas);
    let mut losses = Vec::new();
    for step in 1..=3 {
        for (_, report) in ranks.step(step, &data).unwrap().into_places() {
            losses.extend(report.losses.iter().map(|(_, loss)| loss.to_bits()));
        }
        ranks.update(0.01, 0.5).unwrap();
        ranks.evaluate(&data).unwrap();
    }
    let weights = ranks.collect(What::Values).unwrap().into_iter().map(|(name, value)| {
        let value: Vec<f32> = value.flatten_all().unwrap().to_vec1().unwrap();
        (name, value.into_iter().map(f32::to_bits).collect())
    });
    (losses, weights.collect())
}

const SCHEDULES: [ScheduleName; 3] =
    [ScheduleName::OneFOneB, ScheduleName::ZbV, ScheduleName::InterleavedOneFOneB];

/// Each copy waited for the mark after its tensor, or the double would have refused it.
#[test]
fn ranks_that_share_a_device_have_the_bits_of_the_host() {
    for (at, schedule) in SCHEDULES.into_iter().enumerate() {
        for n_replicas in [1, 2] {
            let ordinal = 100 + 10 * at as u32 + n_replicas;
            let double = config(schedule, n_replicas, move |_, _| DeviceSpec::Double { ordinal });
            let host = config(schedule, n_replicas, |rank, _| DeviceSpec::Cpu { index: rank });
            assert_eq!(trained(&double), trained(&host), "{schedule} {n_replicas}");
            let counts = take_counts(ordinal);
            assert!(counts.copies > 0 && counts.waits > 0, "{schedule}: {counts:?}");
        }
    }
}

#[test]
fn ranks_on_devices_of_their_own_pass_tensors_through_the_host() {
    let apart =
        config(ScheduleName::OneFOneB, 1, |rank, _| DeviceSpec::Double { ordinal: 200 + rank });
    let host = config(ScheduleName::OneFOneB, 1, |rank, _| DeviceSpec::Cpu { index: rank });
    assert_eq!(trained(&apart), trained(&host));
    // In each of three steps an activation and a gradient of each micro-batch, and an activation of
    // each in the evaluation after it.
    let counts = [take_counts(200), take_counts(201)];
    assert_eq!(counts.each_ref().map(|counts| (counts.copies, counts.waits)), [(0, 0); 2]);
    let fetches = counts.each_ref().map(|counts| counts.fetches);
    assert_eq!(fetches, [3 * MICRO_BATCHES, 2 * 3 * MICRO_BATCHES]);
}

#[test]
fn a_step_moves_no_more_than_its_micro_batches_losses_and_norms() {
    let config = config(ScheduleName::OneFOneB, 1, |_, _| DeviceSpec::Double { ordinal: 300 });
    let mut ranks = Ranks::spawn(&config).unwrap();
    let data = batches(1);
    take_counts(300);
    let report = ranks.step(1, &data).unwrap();
    let spans: usize = report.into_places().map(|(_, of_rank)| of_rank.spans.len()).sum();
    let counts = take_counts(300);
    // Inputs go to the first rank, targets to the last.
    assert_eq!(counts.uploads, 2 * MICRO_BATCHES);
    // The norms of both ranks, and the losses of the last.
    assert_eq!(counts.downloads, 3);
    // An activation and a gradient of each micro-batch.
    let messages = 2 * MICRO_BATCHES;
    assert_eq!((counts.copies, counts.waits), (messages, messages));
    // Every rank waits for its device once, when all is queued.
    assert_eq!(counts.synchronisations, 2);
    // A span has two marks, and a message one more: after its tensor.
    assert!(counts.marks <= 2 * spans as u64 + 3 * messages + 2, "{counts:?}, {spans} spans");

    ranks.update(0.01, 1.0).unwrap();
    let counts = take_counts(300);
    let expected = Counts { marks: 4, synchronisations: 2, ..Counts::default() };
    assert_eq!(counts, expected, "an update has one span a rank, and ends the step");
}

#[test]
fn spans_have_the_times_of_the_device() {
    let mut config = config(ScheduleName::OneFOneB, 1, |_, _| DeviceSpec::Double { ordinal: 400 });
    config.origin = std::time::Instant::now();
    let mut ranks = Ranks::spawn(&config).unwrap();
    let report = ranks.step(1, &batches(1)).unwrap();
    let tick = (TICK_SECONDS * 1e9) as u64;
    for (place, of_rank) in report.into_places() {
        let base = of_rank.spans.iter().map(|span| span.start_ns).min().unwrap();
        for span in &of_rank.spans {
            // An op has one mark before it and one after it, and they are a tick apart. A copy has
            // another one between, for its sender. A send takes no time of the device.
            let expected = match span.op {
                SpanKind::Send => 0,
                SpanKind::Recv => 2 * tick,
                _ => tick,
            };
            assert!(span.dur_ns.abs_diff(expected) < 10, "{place:?}: {span:?}");
            assert_eq!((span.cpu_ns, span.starved_ns), (0, 0), "a device needs no processor");
            let ticks = (span.start_ns - base) as f64 / tick as f64;
            assert!((ticks - ticks.round()).abs() < 1e-3, "{place:?}: {span:?}");
        }
        // In the order in which the device did the work, which is that of the plan.
        let ends: Vec<u64> = of_rank.spans.iter().map(|span| span.start_ns + span.dur_ns).collect();
        assert!(ends.is_sorted(), "{place:?}: {ends:?}");
    }
}

#[test]
fn what_was_sent_is_kept_until_the_copy_is_made() {
    let (sender, receiver) = (Double::new(500), Double::new(500));
    let tensor = sender.sendable(numbers(2, 0.1)).unwrap();
    let sender = Lane::Queue(Box::new(sender));
    let receiver = Lane::Queue(Box::new(receiver));
    let made = sender.made().unwrap();
    let tensors: Tensors = vec![Some(tensor), None];
    let mut lent = Lent::default();
    lent.keep(&tensors, made.as_ref()).unwrap();

    // Nobody has taken it.
    sender.synchronize().unwrap();
    lent.let_go().unwrap();
    assert_eq!(lent.len(), 1);
    // A copy before the queue waits is refused.
    let early = receiver.take_over(tensors.clone(), made.as_ref());
    assert!(early.unwrap_err().to_string().contains("before its tensor is made"));
    // The copy is queued, and the device has not come to it.
    receiver.await_made(made.as_ref()).unwrap();
    let taken = receiver.take_over(tensors, made.as_ref()).unwrap();
    assert!(taken[0].is_some() && taken[1].is_none());
    lent.let_go().unwrap();
    assert_eq!(lent.len(), 1);
    receiver.synchronize().unwrap();
    lent.let_go().unwrap();
    assert_eq!(lent.len(), 0);

    // On the host nothing is kept: the receiver has the tensor itself.
    let host = Lane::Host(Device::Cpu);
    assert!(host.made().unwrap().is_none());
    lent.keep(&vec![Some(numbers(1, 0.1))], None).unwrap();
    assert_eq!(lent.len(), 0);
}

#[test]
fn a_part_of_a_batch_is_uploaded_alone() {
    let double = Lane::Queue(Box::new(Double::new(600)));
    let whole = numbers(8, 0.1);
    let part = double.upload(&whole.narrow(0, 6, 2).unwrap()).unwrap();
    let (storage, layout) = part.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { panic!("a double is on the host") };
    assert_eq!((storage.as_slice::<f32>().unwrap().len(), layout.start_offset()), (12, 0));
    assert_eq!(part.dtype(), DType::F32);
}

/// The plan rehearses on the device, and the ranks measure there. What was sent and is not copied yet
/// is in no plan: on the double that is every gradient until the step ends.
#[test]
fn the_measured_peak_on_a_device_is_the_planned_one_and_what_is_lent() {
    for (schedule, n_ranks, ordinal) in [
        (ScheduleName::OneFOneB, 1, 800),
        (ScheduleName::OneFOneB, 2, 801),
        (ScheduleName::ZbH1, 2, 802),
    ] {
        let config = sized(schedule, n_ranks, 1, WIDE, move |_, _| DeviceSpec::Double { ordinal });
        let rows = 64;
        let x = Tensor::ones((rows, WIDE), DType::F32, &Device::Cpu).unwrap();
        let of_one = |t: &Tensor| t.narrow(0, 0, rows / MICRO_BATCHES as usize).unwrap();
        let planned = rehearse(&config, &[of_one(&x)], &of_one(&x)).unwrap().unwrap();
        let data = Batch::split(std::slice::from_ref(&x), &x, MICRO_BATCHES as usize, 0).unwrap();
        let data = [Arc::new(data)];
        let mut ranks = Ranks::spawn(&config).unwrap();
        let mut measured = Vec::new();
        for step in 1..=2 {
            ranks.step(step, &data).unwrap();
            measured = ranks.update(0.01, 1.0).unwrap().into_places().collect();
        }
        let message = (rows / MICRO_BATCHES as usize * WIDE * 4) as f64;
        for (((_, rank), report), planned) in measured.into_iter().zip(planned) {
            let (peak, planned) = (report.memory.peak_bytes as f64, planned.peak_bytes() as f64);
            let lent = if n_ranks == 1 { 0.0 } else { MICRO_BATCHES as f64 * message };
            assert!(peak >= 0.95 * planned, "{schedule} {rank}: {peak} of {planned}");
            assert!(peak <= 1.05 * planned + lent, "{schedule} {rank}: {peak} of {planned}");
            assert!(report.memory.stash_bytes > 0, "{schedule} {rank}");
        }
    }
}

#[test]
fn bytes_on_a_device_are_counted_apart_from_those_of_the_host() {
    std::thread::spawn(|| {
        memory::device_is_counted();
        let meter = Meter::Device;
        assert!(meter.is_counted());
        meter.reset_peak();
        memory::note_device(3000);
        memory::note_device(-1000);
        assert_eq!((meter.live_bytes(), meter.peak_bytes()), (2000, 3000));
        meter.reset_peak();
        assert_eq!(meter.peak_bytes(), 2000);
        assert_eq!(Meter::Host.live_bytes(), memory::live_bytes());
        assert_eq!(Meter::of(&Device::Cpu), Meter::Host);
        memory::note_device(-2000);
    })
    .join()
    .unwrap();
}
