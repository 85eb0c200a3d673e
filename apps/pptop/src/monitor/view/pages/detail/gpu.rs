//! The lines about the GPU of a rank.

use pp_telemetry::{Gpu, GpuState, Model, RankState};
use ratatui::style::Style;

use super::Text;
use crate::monitor::view::theme::STRONG;
use crate::monitor::words::format;

/// A line that says that the GPU of a rank does not answer.
pub(super) fn put_gpu_error(text: &mut Text, model: &Model, rank: &RankState) {
    let gpu = model.gpu_of(rank.replica, rank.rank);
    if let Some(error) = gpu.and_then(|gpu| gpu.latest.error.as_deref()) {
        let bad = text.theme.bad();
        text.name("GPU").put(format::plain(error), bad);
    }
}

/// All values that a GPU reports, and why it does not report the others.
pub(super) fn put_gpu(text: &mut Text, state: &GpuState) {
    let theme = text.theme;
    let gpu = &state.latest;
    text.name("GPU").put(format::plain(gpu.name.as_deref().unwrap_or("no name")), STRONG);
    text.name("").put(format::plain(gpu.pci.as_deref().unwrap_or("")), theme.dim());
    text.put(format!("  {}", format::plain(&gpu.uuid)), theme.dim());
    let share = |share: f64| format!("{:.0}%", share * 100.0);
    let rate = |bytes: f64| format!("{}/s", format::bytes(bytes.max(0.0) as u64));
    let numbers: [&[(&str, &str, Option<String>)]; 5] = [
        &[
            ("utilisation", "utilisation", gpu.utilisation.map(share)),
            ("SM", "sm_active", gpu.sm_active.map(share)),
            ("tensor", "tensor_active", gpu.tensor_active.map(share)),
        ],
        &[
            ("used", "used_bytes", gpu.used_bytes.map(format::bytes)),
            ("of", "total_bytes", gpu.total_bytes.map(format::whole_bytes)),
            ("processes", "processes", gpu.processes.map(|n| n.to_string())),
        ],
        &[
            ("power", "power_watts", gpu.power_watts.map(|watts| format!("{watts:.0}W"))),
            (
                "energy",
                "energy_joules",
                state.joules().map(|joules| format!("{}J", format::count(joules))),
            ),
            (
                "temperature",
                "temperature_celsius",
                gpu.temperature_celsius.map(|celsius| format!("{celsius:.0}C")),
            ),
        ],
        &[
            ("SM clock", "sm_clock_mhz", gpu.sm_clock_mhz.map(|mhz| format!("{mhz} MHz"))),
            (
                "memory clock",
                "memory_clock_mhz",
                gpu.memory_clock_mhz.map(|mhz| format!("{mhz} MHz")),
            ),
        ],
        &[
            ("PCIe sends", "pcie_sent_bytes_per_second", gpu.pcie_sent_bytes_per_second.map(rate)),
            (
                "receives",
                "pcie_received_bytes_per_second",
                gpu.pcie_received_bytes_per_second.map(rate),
            ),
        ],
    ];
    if gpu.error.is_none() {
        for line in numbers {
            text.name("");
            for (at, (name, key, value)) in line.iter().enumerate() {
                text.text(if at > 0 { "  " } else { "" }).text(format!("{name} "));
                match value {
                    Some(value) => text.put(value, STRONG),
                    None => text.put(absence(gpu, key), theme.dim()),
                };
            }
        }
        let throttled = !gpu.throttle.is_empty();
        let reasons =
            if throttled { format::plain(&gpu.throttle.join(", ")) } else { "no".to_owned() };
        let style = if throttled { theme.notice() } else { Style::new() };
        text.name("").text("throttled ").put(reasons, style);
    }
    let is_told = |what: &str| numbers.iter().flat_map(|line| line.iter()).any(|n| n.1 == what);
    for unavailable in gpu.unavailable.iter().filter(|number| !is_told(&number.what)) {
        let what = format::plain(&unavailable.what).replace('_', " ");
        text.name("").text(format!("{what} "));
        text.put(absence(gpu, &unavailable.what), theme.dim());
    }
}

/// The reason for a missing number.
fn absence(gpu: &Gpu, what: &str) -> String {
    match gpu.unavailable.iter().find(|number| number.what == what) {
        Some(number) => format!("n/a ({})", format::plain(&number.why)),
        None => "n/a".to_owned(),
    }
}
