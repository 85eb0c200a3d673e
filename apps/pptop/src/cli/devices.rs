//! `pptop devices`: what can be used here, and why not.

use pp_devices::{Probe, ProbedGpu, probe};
use pp_telemetry::cores;
use pp_train::{GpuName, NoCuda, cuda_devices, gpu_name};
use serde_json::{Value, json};

use super::gpus::NvmlArgs;
use super::{CliError, print, print_json};

/// What ranks can compute on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    nvml: NvmlArgs,
}

/// The number of CUDA devices that can be used, or the reason why none can.
fn cuda() -> Result<u32, String> {
    cuda_devices().map_err(|no| why_no_cuda(&no))
}

/// The reason why no CUDA device can be used, in the words of this program.
pub(crate) fn why_no_cuda(no: &NoCuda) -> String {
    match no {
        NoCuda::NotBuilt => "this pptop was built without CUDA".to_owned(),
        other => other.to_string(),
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<(), CliError> {
    let memory = rustix::system::sysinfo();
    let memory_bytes = memory.totalram as u64 * u64::from(memory.mem_unit);
    let memory_bytes = pp_telemetry::host_memory_bytes().unwrap_or(memory_bytes);
    let mut devices = vec![json!({
        "id": "cpu", "kind": "cpu", "cores": cores(), "memory_bytes": memory_bytes, "usable": true,
    })];
    let nvml = probe(&args.nvml.library(&super::settings::config()?));
    let mut unavailable: Vec<Value> = Vec::new();
    match cuda() {
        Ok(n) => devices.extend((0..n).map(|ordinal| cuda_device(ordinal, &nvml))),
        Err(reason) => {
            let fix = if candle_core::utils::cuda_is_available() {
                "install or update the NVIDIA driver, or make the device visible to this process"
            } else {
                "cargo build --release -p pptop --features cuda, with nvcc on PATH"
            };
            unavailable.push(json!({"kind": "cuda", "reason": reason, "fix": fix}));
        }
    }
    if args.json {
        return print_json(&json!({"devices": devices, "unavailable": unavailable, "nvml": nvml}));
    }
    let mut text = format!(
        "cpu     {} cores, {} MiB; any number of ranks, each a thread\n",
        cores(),
        memory_bytes >> 20
    );
    for device in &devices[1..] {
        let word = |key: &str| device[key].as_str();
        let about = [word("name"), word("pci"), word("uuid")].into_iter().flatten();
        let about = about.collect::<Vec<_>>().join(", ");
        text.extend([word("id").unwrap_or_default(), "  usable", separator(&about), &about, "\n"]);
    }
    for missing in &unavailable {
        let word = |key: &str| missing[key].as_str().unwrap_or_default();
        let (kind, reason, fix) = (word("kind"), word("reason"), word("fix"));
        text.extend([kind, "    not usable: ", reason, "; to change that: ", fix, "\n"]);
    }
    text.push_str(&nvml_lines(&nvml));
    print(&text)
}

fn separator(about: &str) -> &'static str {
    if about.is_empty() { "" } else { ": " }
}

/// A CUDA device, with what NVML knows of the same GPU: found by UUID or address, since the two
/// count differently.
fn cuda_device(ordinal: u32, nvml: &Probe) -> Value {
    let name = gpu_name(ordinal);
    let gpu = same_gpu(&name, &nvml.gpus);
    let none = ProbedGpu::default();
    let known = gpu.unwrap_or(&none);
    json!({
        "id": format!("cuda:{ordinal}"), "kind": "cuda", "usable": true,
        "name": known.name, "uuid": name.uuid, "pci": name.pci,
        "memory_bytes": known.memory_bytes, "memory_free_bytes": known.memory_free_bytes,
        "compute_capability": known.compute_capability, "driver": nvml.driver,
    })
}

fn same_gpu<'a>(name: &GpuName, gpus: &'a [ProbedGpu]) -> Option<&'a ProbedGpu> {
    let by_uuid = gpus.iter().find(|gpu| Some(&gpu.uuid) == name.uuid.as_ref());
    by_uuid.or_else(|| gpus.iter().find(|gpu| gpu.pci.is_some() && gpu.pci == name.pci))
}

/// What NVML sees: it is what the monitor shows of GPUs.
fn nvml_lines(nvml: &Probe) -> String {
    if let Some(why) = &nvml.why_none {
        return format!("nvml    no GPU is monitored: {why}\n");
    }
    let word = |known: &Option<String>| known.clone().unwrap_or_else(|| "unknown".to_owned());
    let (driver, cuda) = (word(&nvml.driver), word(&nvml.cuda));
    let mut text = format!("nvml    driver {driver}, CUDA up to {cuda}\n");
    for gpu in &nvml.gpus {
        let about = [gpu.name.as_deref(), gpu.pci.as_deref()].into_iter().flatten();
        let about = about.collect::<Vec<_>>().join(", ");
        text.extend(["        ", &gpu.uuid, separator(&about), &about, "\n"]);
    }
    if let Some(more) = &nvml.unreachable {
        text.extend(["        ", more, "\n"]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_uuid_then_by_address() {
        let gpu = |uuid: &str, pci: &str| ProbedGpu {
            uuid: uuid.to_owned(),
            pci: Some(pci.to_owned()),
            ..ProbedGpu::default()
        };
        let gpus = [gpu("GPU-a", "00000000:10:00.0"), gpu("GPU-b", "00000000:11:00.0")];
        let found = |uuid: Option<&str>, pci: Option<&str>| {
            let name =
                GpuName { uuid: uuid.map(ToOwned::to_owned), pci: pci.map(ToOwned::to_owned) };
            same_gpu(&name, &gpus).map(|gpu| gpu.uuid.as_str())
        };
        assert_eq!(found(Some("GPU-b"), Some("00000000:10:00.0")), Some("GPU-b"));
        assert_eq!(found(Some("GPU-x"), Some("00000000:10:00.0")), Some("GPU-a"));
        assert_eq!(found(None, None), None);
    }

    #[test]
    fn what_nvml_sees_in_lines() {
        let none = Probe { why_none: Some("no driver".to_owned()), ..Probe::default() };
        assert_eq!(nvml_lines(&none), "nvml    no GPU is monitored: no driver\n");
        let gpu = ProbedGpu { uuid: "GPU-a".to_owned(), ..ProbedGpu::default() };
        let named = ProbedGpu { name: Some("H100".to_owned()), ..gpu.clone() };
        let driver = Some("580.95.05".to_owned());
        let some = Probe { driver, gpus: vec![gpu, named], ..Probe::default() };
        let lines =
            "nvml    driver 580.95.05, CUDA up to unknown\n        GPU-a\n        GPU-a: H100\n";
        assert_eq!(nvml_lines(&some), lines);
    }
}
