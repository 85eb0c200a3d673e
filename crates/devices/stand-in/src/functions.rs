//! The functions of NVML, by their C names. All of them are called as NVML's header says: pointers
//! are valid for what the function writes or reads, and a handle is one that this library gave.

use std::ffi::{CStr, c_char, c_double, c_int, c_uint, c_ulonglong, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::script::{Code, INSUFFICIENT_SIZE, Keys, NOT_FOUND, NOT_SUPPORTED, SUCCESS, Script};

/// A GPU: its place in [`UUIDS`], counted from 1.
type Handle = usize;

/// The GPUs that somebody has a handle of.
static UUIDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn handle_of(uuid: &str) -> Handle {
    let mut uuids = UUIDS.lock().unwrap_or_else(PoisonError::into_inner);
    let at = uuids.iter().position(|known| known == uuid).unwrap_or_else(|| {
        uuids.push(uuid.to_owned());
        uuids.len() - 1
    });
    at + 1
}

fn uuid_of(handle: Handle) -> Result<String, Code> {
    let uuids = UUIDS.lock().unwrap_or_else(PoisonError::into_inner);
    handle.checked_sub(1).and_then(|at| uuids.get(at)).cloned().ok_or(NOT_FOUND)
}

/// The keys of the GPU that a call is about.
fn asked(function: &str, handle: Handle) -> Result<Keys, Code> {
    Script::at_call(function).gpu(&uuid_of(handle)?)
}

fn code(result: Result<(), Code>) -> Code {
    result.err().unwrap_or(SUCCESS)
}

/// Writes what was found where the caller wants it.
///
/// # Safety
/// `into` is valid for a write.
unsafe fn give<T>(into: *mut T, found: Result<T, Code>) -> Code {
    // SAFETY: the caller's promise.
    code(found.map(|value| unsafe { into.write(value) }))
}

/// Writes a text with its final zero.
///
/// # Safety
/// `into` is valid for `length` bytes.
unsafe fn give_text(into: *mut c_char, length: c_uint, found: Result<String, Code>) -> Code {
    code(found.and_then(|text| {
        if text.len() >= length as usize {
            return Err(INSUFFICIENT_SIZE);
        }
        // SAFETY: text and zero fit into what the caller promised.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr().cast(), into, text.len());
            into.add(text.len()).write(0);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Code {
    let script = Script::at_call("nvmlInit_v2");
    let hang = script.library.number("init_hang_ms").unwrap_or(0);
    std::thread::sleep(std::time::Duration::from_millis(hang));
    script.library.text("init").err().filter(|&code| code != NOT_SUPPORTED).unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Code {
    Script::at_call("nvmlShutdown");
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(into: *mut c_char, length: c_uint) -> Code {
    let script = Script::at_call("nvmlSystemGetDriverVersion");
    // SAFETY: as NVML's header says.
    unsafe { give_text(into, length, script.library.text("driver")) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(into: *mut c_int) -> Code {
    let script = Script::at_call("nvmlSystemGetCudaDriverVersion_v2");
    // SAFETY: as NVML's header says.
    unsafe { give(into, script.library.number("cuda")) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(into: *mut c_uint) -> Code {
    let script = Script::at_call("nvmlDeviceGetCount_v2");
    let found = match script.library.number("count") {
        Err(NOT_SUPPORTED) => Ok(script.gpus.len() as c_uint),
        found => found,
    };
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, into: *mut Handle) -> Code {
    let script = Script::at_call("nvmlDeviceGetHandleByIndex_v2");
    let uuid = script.gpus.get(index as usize).map(|(uuid, _)| uuid.clone());
    let found = uuid.ok_or(NOT_FOUND).and_then(|uuid| {
        script.gpu(&uuid)?;
        Ok(handle_of(&uuid))
    });
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, into: *mut Handle) -> Code {
    let script = Script::at_call("nvmlDeviceGetHandleByUUID");
    // SAFETY: as NVML's header says.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy().into_owned();
    let found = script.gpu(&uuid).map(|_| handle_of(&uuid));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(gpu: Handle, into: *mut c_char, length: c_uint) -> Code {
    let found = asked("nvmlDeviceGetUUID", gpu).and_then(|_| uuid_of(gpu));
    // SAFETY: as NVML's header says.
    unsafe { give_text(into, length, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(gpu: Handle, into: *mut c_char, length: c_uint) -> Code {
    let found = asked("nvmlDeviceGetName", gpu).and_then(|keys| keys.text("name"));
    // SAFETY: as NVML's header says.
    unsafe { give_text(into, length, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(
    gpu: Handle,
    major: *mut c_int,
    minor: *mut c_int,
) -> Code {
    let found = asked("nvmlDeviceGetCudaComputeCapability", gpu)
        .and_then(|keys| Ok((keys.number("major")?, keys.number("minor")?)));
    // SAFETY: as NVML's header says, of both.
    unsafe {
        match give(major, found.map(|(major, _)| major)) {
            SUCCESS => give(minor, found.map(|(_, minor)| minor)),
            code => code,
        }
    }
}

/// `nvmlPciInfo_t`.
#[repr(C)]
struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_sub_system_id: c_uint,
    bus_id: [c_char; 32],
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(gpu: Handle, into: *mut PciInfo) -> Code {
    let found = asked("nvmlDeviceGetPciInfo_v3", gpu).and_then(|keys| keys.text("pci"));
    let found = found.map(|text| {
        let mut bus_id = [0; 32];
        // The last byte stays zero.
        for (to, from) in bus_id.iter_mut().take(31).zip(text.bytes()) {
            *to = from as c_char;
        }
        PciInfo {
            bus_id_legacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            pci_device_id: 0,
            pci_sub_system_id: 0,
            bus_id,
        }
    });
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

/// `nvmlUtilization_t`.
#[repr(C)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUtilizationRates(gpu: Handle, into: *mut Utilization) -> Code {
    let found = asked("nvmlDeviceGetUtilizationRates", gpu)
        .and_then(|keys| Ok(Utilization { gpu: keys.number("utilisation")?, memory: 0 }));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
struct Memory {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(gpu: Handle, into: *mut Memory) -> Code {
    let found = asked("nvmlDeviceGetMemoryInfo_v2", gpu).and_then(|keys| {
        let (total, used): (u64, u64) = (keys.number("total_bytes")?, keys.number("used_bytes")?);
        Ok(Memory { version: 0, total, reserved: 0, free: total.saturating_sub(used), used })
    });
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPowerUsage(gpu: Handle, into: *mut c_uint) -> Code {
    let found = asked("nvmlDeviceGetPowerUsage", gpu).and_then(|keys| keys.number("power"));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    gpu: Handle,
    into: *mut c_ulonglong,
) -> Code {
    let found =
        asked("nvmlDeviceGetTotalEnergyConsumption", gpu).and_then(|keys| keys.number("energy"));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(
    gpu: Handle,
    _sensor: c_uint,
    into: *mut c_uint,
) -> Code {
    let found = asked("nvmlDeviceGetTemperature", gpu).and_then(|keys| keys.number("temperature"));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetClockInfo(gpu: Handle, clock: c_uint, into: *mut c_uint) -> Code {
    let key = match clock {
        1 => "sm_clock",
        2 => "memory_clock",
        _ => "clock",
    };
    let found = asked("nvmlDeviceGetClockInfo", gpu).and_then(|keys| keys.number(key));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    gpu: Handle,
    into: *mut c_ulonglong,
) -> Code {
    let found = asked("nvmlDeviceGetCurrentClocksThrottleReasons", gpu)
        .and_then(|keys| keys.number("throttle"));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetPcieThroughput(
    gpu: Handle,
    counter: c_uint,
    into: *mut c_uint,
) -> Code {
    let key = if counter == 0 { "pcie_sent" } else { "pcie_received" };
    let found = asked("nvmlDeviceGetPcieThroughput", gpu).and_then(|keys| keys.number(key));
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

/// Asked for their number alone, with room for none.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    gpu: Handle,
    count: *mut c_uint,
    _infos: *mut c_void,
) -> Code {
    let found = asked("nvmlDeviceGetComputeRunningProcesses_v3", gpu)
        .and_then(|keys| keys.number::<c_uint>("processes"));
    let any = found.is_ok_and(|n| n > 0);
    // SAFETY: as NVML's header says.
    let given = unsafe { give(count, found) };
    if any { INSUFFICIENT_SIZE } else { given }
}

/// `nvmlGpmSupport_t`.
#[repr(C)]
struct GpmSupport {
    version: c_uint,
    is_supported: c_uint,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmQueryDeviceSupport(gpu: Handle, into: *mut GpmSupport) -> Code {
    let found = asked("nvmlGpmQueryDeviceSupport", gpu).map(|keys| GpmSupport {
        version: 1,
        is_supported: c_uint::from(keys.text("sm_active").is_ok()),
    });
    // SAFETY: as NVML's header says.
    unsafe { give(into, found) }
}

/// A sample: the GPU that it was taken of.
type Sample = *mut Handle;

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleAlloc(into: *mut Sample) -> Code {
    // SAFETY: as NVML's header says.
    unsafe { give(into, Ok(Box::into_raw(Box::new(0)))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleFree(sample: Sample) -> Code {
    // SAFETY: it came out of a box in `nvmlGpmSampleAlloc`, and is given back once.
    drop(unsafe { Box::from_raw(sample) });
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmSampleGet(gpu: Handle, sample: Sample) -> Code {
    // SAFETY: `sample` is a box of `nvmlGpmSampleAlloc` that was not yet given back.
    unsafe { give(sample, asked("nvmlGpmSampleGet", gpu).map(|_| gpu)) }
}

/// `nvmlGpmMetric_t`.
#[repr(C)]
struct GpmMetric {
    id: c_uint,
    returned: Code,
    value: c_double,
    names: [*mut c_char; 3],
}

/// `nvmlGpmMetricsGet_t`, whose list is longer than this.
#[repr(C)]
struct GpmMetrics {
    version: c_uint,
    n_metrics: c_uint,
    samples: [Sample; 2],
    first: GpmMetric,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlGpmMetricsGet(request: *mut GpmMetrics) -> Code {
    // SAFETY: as NVML's header says: the request is whole, and its samples were taken.
    let (gpu, n_metrics) = unsafe { (*(*request).samples[1], (*request).n_metrics as usize) };
    let keys = match asked("nvmlGpmMetricsGet", gpu) {
        Ok(keys) => keys,
        Err(code) => return code,
    };
    // SAFETY: the list holds as many metrics as the request says; a raw pointer to its first never
    // becomes a reference.
    let metrics = unsafe { &raw mut (*request).first };
    for at in 0..n_metrics {
        // SAFETY: inside the list.
        unsafe {
            let metric = metrics.add(at);
            let key = match (*metric).id {
                2 => "sm_active",
                5 => "tensor_active",
                _ => "metric",
            };
            match keys.number(key) {
                Ok(value) => {
                    (*metric).returned = SUCCESS;
                    (*metric).value = value;
                }
                Err(code) => (*metric).returned = code,
            }
        }
    }
    SUCCESS
}
