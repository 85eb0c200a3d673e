//! Half a round trip of a tensor between two processes, beside that of the same bytes by MPI alone.
//!
//! `mpirun -np 2 target/release/examples/ping_pong` prints a line for each size: microseconds of
//! both, in turns, and the ratio of their speeds. `just bench` runs it.
#![expect(clippy::print_stdout, reason = "it is a measurement")]

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use ferrompi::Communicator;
use pp_executor::{LABEL_WORDS, LinkError, Port};

/// As in `pptop`: the allocator of the system gives large buffers back at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];
const ROUNDS: usize = 9;

/// Messages of a round, to and fro. The memory of a round is new, and the first trips through it are
/// slower: of 8 trips with 16 MiB these are most, and of 64 few.
fn trips(bytes: usize) -> usize {
    ((64 << 20) / bytes).clamp(64, 1000)
}

/// Half a round trip by MPI alone. What arrives goes back, as it does by a port.
fn bare(comm: &Communicator, bytes: usize) -> ferrompi::Result<f64> {
    let (me, other) = (comm.rank(), 1 - comm.rank());
    let mut values = vec![1.0_f32; bytes / 4];
    let n = trips(bytes);
    let begun = Instant::now();
    for _ in 0..n {
        if me == 0 {
            comm.send(&values, other, 7)?;
            comm.recv(&mut values, other, 7)?;
        } else {
            comm.recv(&mut values, other, 7)?;
            comm.send(&values, other, 7)?;
        }
    }
    Ok(begun.elapsed().as_secs_f64() / (2 * n) as f64)
}

fn receive(port: &mut dyn Port) -> Result<Vec<Tensor>, LinkError> {
    loop {
        if let Some(message) = port.poll()? {
            return Ok(message.tensors);
        }
        std::hint::spin_loop();
    }
}

/// Half a round trip of a tensor. What arrives goes back.
fn ours(port: &mut dyn Port, me: u32, bytes: usize) -> Result<f64, LinkError> {
    let wrong = |error: candle_core::Error| LinkError(error.to_string());
    let out = Tensor::ones(bytes / 4, DType::F32, &Device::Cpu).map_err(wrong)?;
    let n = trips(bytes);
    let begun = Instant::now();
    let mut tensors = vec![out];
    for trip in 0..n as u64 {
        if me == 0 {
            port.send(1, [trip; LABEL_WORDS], None, tensors)?;
            tensors = receive(port)?;
        } else {
            let back = receive(port)?;
            port.send(0, [trip; LABEL_WORDS], None, back)?;
            tensors = Vec::new();
        }
    }
    Ok(begun.elapsed().as_secs_f64() / (2 * n) as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let session = pp_mpi::Session::begin(Duration::from_secs(10))?;
    let world = session.world();
    if world.size() != 2 {
        return Err("start it with mpirun -np 2".into());
    }
    let me = world.index();
    let comm = session.communicator()?;
    let mut failed = None;
    world.open(&mut |mut port| {
        let mut measure = || -> Result<(), Box<dyn std::error::Error>> {
            for bytes in SIZES {
                let (mut all, mut alone) = (Vec::new(), Vec::new());
                for _ in 0..ROUNDS {
                    alone.push(bare(&comm, bytes)?);
                    all.push(ours(port.as_mut(), me, bytes)?);
                }
                let (ours, bare) = (median(all), median(alone));
                if me == 0 {
                    let (ratio, us) = (bare / ours, 1e6);
                    println!(
                        "{:>6} KiB: {:9.1} us by a port, {:9.1} us by MPI alone, {ratio:.2} of its speed",
                        bytes >> 10,
                        ours * us,
                        bare * us
                    );
                }
            }
            Ok(())
        };
        failed = measure().err();
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(session.end()?),
    }
}
