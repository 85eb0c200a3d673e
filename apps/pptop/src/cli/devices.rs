//! `pptop devices`: what can be used here, and why not.

use serde_json::{Value, json};

#[cfg(feature = "train")]
use super::job::cores;
use super::{CliError, print, print_json};

/// What ranks can compute on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// The number of CUDA devices that can be used, or why there is none.
pub(crate) fn cuda() -> Result<u32, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this pptop was built without CUDA".to_owned());
    }
    let usable = |ordinal: u32| {
        // candle's binding panics where the driver's library is missing or too old.
        let made = std::panic::catch_unwind(|| candle_core::Device::new_cuda(ordinal as usize));
        match made {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or("unknown").to_owned()),
            Err(_) => Err("the NVIDIA driver could not be loaded".to_owned()),
        }
    };
    // A panic there is an answer, not an accident to be told.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let first = usable(0);
    std::panic::set_hook(hook);
    first.map_err(|why| format!("no CUDA device can be used ({why})"))?;
    let mut count = 1;
    while usable(count).is_ok() {
        count += 1;
    }
    Ok(count)
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let memory = rustix::system::sysinfo();
    let memory_bytes = memory.totalram as u64 * u64::from(memory.mem_unit);
    let mut devices = vec![json!({
        "id": "cpu", "kind": "cpu", "cores": cores(), "memory_bytes": memory_bytes, "usable": true,
    })];
    let mut unavailable: Vec<Value> = Vec::new();
    match cuda() {
        Ok(n) => devices.extend(
            (0..n).map(|i| json!({
            "id": format!("cuda:{i}"), "kind": "cuda", "usable": true,
            // Not asked for yet; the keys are part of the contract.
            "name": null, "uuid": null, "pci": null, "memory_bytes": null, "memory_free_bytes": null,
            "compute_capability": null, "driver": null,
        })),
        ),
        Err(reason) => {
            let fix = if candle_core::utils::cuda_is_available() {
                "install the NVIDIA driver, or make the device visible to this process"
            } else {
                "cargo build --release -p pptop --features cuda, with nvcc on PATH"
            };
            unavailable.push(json!({"kind": "cuda", "reason": reason, "fix": fix}));
        }
    }
    if args.json {
        return print_json(&json!({"devices": devices, "unavailable": unavailable}));
    }
    let mut text = format!(
        "cpu     {} cores, {} MiB; any number of ranks, each a thread\n",
        cores(),
        memory_bytes >> 20
    );
    for device in &devices[1..] {
        text.extend([device["id"].as_str().unwrap_or_default(), "  usable\n"]);
    }
    for missing in &unavailable {
        let word = |key: &str| missing[key].as_str().unwrap_or_default();
        let (kind, reason, fix) = (word("kind"), word("reason"), word("fix"));
        text.extend([kind, "    not usable: ", reason, "; to change that: ", fix, "\n"]);
    }
    print(&text)
}
