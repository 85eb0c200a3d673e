//! GPUs that are there, not there, half there, and stuck; the driver's library is a stand-in.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod machine;

use std::time::{Duration, Instant};

use machine::{EVERY, Machine, Watch, healthy};
use pp_devices::{Library, NoGpus, Options, Samplers, probe};
use pp_telemetry::{DeviceMapEntry, Event, Follower, Gpu, Hello, Model, StageInfo};

fn is_well(look: &Gpu) -> bool {
    look.error.is_none()
}

#[test]
fn a_healthy_gpu_tells_everything() {
    let machine = Machine::new(&healthy(&["GPU-a"]));
    let watch = machine.watch();
    let look = watch.until("counters need two looks", |look| look.sm_active.is_some());
    let expected = Gpu {
        elapsed_ns: look.elapsed_ns,
        uuid: "GPU-a".to_owned(),
        pci: Some("00000000:10:00.0".to_owned()),
        name: Some("NVIDIA H100 80GB HBM3".to_owned()),
        utilisation: Some(0.7),
        sm_active: Some(0.685),
        tensor_active: Some(0.41),
        used_bytes: Some(52_720_000_000),
        total_bytes: Some(85_520_809_984),
        power_watts: Some(512.25),
        energy_joules: Some(1000.5),
        temperature_celsius: Some(61.0),
        sm_clock_mhz: Some(1845),
        memory_clock_mhz: Some(2619),
        throttle: vec!["SW power cap".to_owned()],
        pcie_sent_bytes_per_second: Some(1.2e9),
        pcie_received_bytes_per_second: Some(0.8e9),
        processes: Some(2),
        unavailable: Vec::new(),
        error: None,
    };
    assert_eq!(look, expected);
    machine.says(&healthy(&["GPU-a"]).replace("power = 512250", "power = 99000"));
    watch.until("the next looks see what has changed", |look| look.power_watts == Some(99.0));
    assert!(look.elapsed_ns > 0);
    // What never changes is asked for once, what takes long at some looks.
    let n_looks = watch.looks().len();
    drop(watch);
    assert_eq!(machine.calls("nvmlDeviceGetName"), 1);
    assert_eq!(machine.calls("nvmlDeviceGetUUID"), 1);
    assert!(machine.calls("nvmlDeviceGetPcieThroughput") <= 2 * (n_looks / 5 + 2));
    machine.until_called("nvmlShutdown");
}

#[test]
fn one_four_and_eight_gpus() {
    for n in [1, 4, 8] {
        let uuids: Vec<String> = (0..n).map(|at| format!("GPU-{at}")).collect();
        let uuids: Vec<&str> = uuids.iter().map(String::as_str).collect();
        let machine = Machine::new(&healthy(&uuids));
        let watch = machine.watch();
        watch.until("the last one", |look| look.uuid == format!("GPU-{}", n - 1));
        let looks = watch.looks();
        let seen: Vec<&str> = looks
            .iter()
            .filter(|look| is_well(look))
            .take(n)
            .map(|look| look.uuid.as_str())
            .collect();
        assert_eq!(seen, uuids);
    }
}

#[test]
fn why_there_is_none() {
    let cases = [
        (
            "init = error 9",
            NoGpus::DriverNotLoaded,
            "the NVIDIA driver is not loaded (NVML error 9)",
        ),
        (
            "init = error 18",
            NoGpus::VersionMismatch,
            "the NVIDIA driver's library and its kernel module have different versions (NVML error 18); restart the machine",
        ),
        (
            "init = error 999",
            NoGpus::Code { code: 999, why: "an internal driver error occurred".to_owned() },
            "NVML cannot be used: error 999 (an internal driver error occurred)",
        ),
        (
            "init = error 4711",
            NoGpus::Code { code: 4711, why: "unexpected enum variant value: 4711".to_owned() },
            "NVML cannot be used: error 4711 (unexpected enum variant value: 4711)",
        ),
        ("", NoGpus::None, "the NVIDIA driver is loaded, but finds no GPU"),
        (
            "gpu GPU-a\nlost",
            NoGpus::Unreachable {
                count: 1,
                why: "GpuLost: it fell off the bus, or cannot be reached".to_owned(),
            },
            "none of the driver's 1 GPUs can be queried: GpuLost: it fell off the bus, or cannot be reached",
        ),
    ];
    for (script, expected, message) in cases {
        let machine = Machine::new(script);
        let watch = machine.watch();
        assert_eq!(watch.first_log(), format!("no GPU is monitored: {message}"), "{script}");
        assert_eq!(watch.sampler.none(), Some(expected), "{script}");
        assert_eq!(probe(&machine.library()).why_none.as_deref(), Some(message), "{script}");
    }
}

#[test]
fn no_library_and_a_library_that_is_another() {
    let missing = Library::At("/nowhere/libnvidia-ml.so.1".into());
    let why = Watch::of(missing.clone()).first_log();
    assert!(
        why.starts_with(
            "no GPU is monitored: the NVIDIA driver's library cannot be loaded: /nowhere/"
        ),
        "{why}"
    );
    let found = probe(&missing);
    assert_eq!(found.library.as_deref(), Some("/nowhere/libnvidia-ml.so.1"));
    assert_eq!(found.gpus, []);
    let machine = Machine::without("nvmlInit_v2", "");
    let why = machine.watch().first_log();
    assert!(why.contains("libnvidia-ml.so.1 is not NVML: "), "{why}");
    assert!(!why.contains('\n'), "{why}");
    assert_eq!(Watch::of(Library::Off).first_log(), "no GPU is monitored: NVML is switched off");
}

#[test]
fn each_number_may_be_unsupported_or_forbidden() {
    let numbers: [(&str, &str, &str); 10] = [
        ("utilisation", "utilisation", "nvmlDeviceGetUtilizationRates"),
        ("used_bytes", "used_bytes", "nvmlDeviceGetMemoryInfo_v2"),
        ("power", "power_watts", "nvmlDeviceGetPowerUsage"),
        ("energy", "energy_joules", "nvmlDeviceGetTotalEnergyConsumption"),
        ("temperature", "temperature_celsius", "nvmlDeviceGetTemperature"),
        ("sm_clock", "sm_clock_mhz", ""),
        ("memory_clock", "memory_clock_mhz", ""),
        ("throttle", "throttle", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        ("pcie_sent", "pcie_sent_bytes_per_second", ""),
        ("processes", "processes", "nvmlDeviceGetComputeRunningProcesses_v3"),
    ];
    let without = |key: &str, value: &str| {
        let script = healthy(&["GPU-a"]);
        let line = script.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
        script.replace(line, value)
    };
    for (key, what, function) in numbers {
        let machine = Machine::new(&without(key, ""));
        let watch = machine.watch();
        let look = watch.until("a look", is_well);
        watch.until("a second look", is_well);
        watch.until("a third look", is_well);
        assert_eq!(look.error, None, "{key}");
        let told = serde_json::to_value(&look).unwrap();
        assert!(told.get(what).is_none(), "{told}");
        assert_eq!(told["unavailable"][0]["what"], what, "{told}");
        assert_eq!(told["unavailable"][0]["why"], "NotSupported", "{told}");
        assert_eq!(look.unavailable.len(), 1, "{told}");
        if !function.is_empty() {
            assert_eq!(machine.calls(function), 1, "{function} is asked for once");
        }
        machine.says(&without(key, &format!("{key} = error 4")));
        drop(watch);
        let watch = machine.watch();
        let look = watch.until("a look without permission", |look| {
            is_well(look) && !look.unavailable.is_empty()
        });
        assert_eq!(look.unavailable[0].why, "NoPermission", "{key}");
        machine.says(&healthy(&["GPU-a"]));
        watch.until("permission may come", |look| look.unavailable.is_empty());
    }
}

#[test]
fn an_unknown_code_is_told_as_a_number_and_may_pass() {
    let machine = Machine::new(&healthy(&["GPU-a"]).replace("power = 512250", "power = error 999"));
    let watch = machine.watch();
    let look = watch.until("a look", is_well);
    assert_eq!(look.unavailable[0].what, "power_watts");
    assert_eq!(look.unavailable[0].why, "error 999 (an internal driver error occurred)");
    machine.says(&healthy(&["GPU-a"]).replace("power = 512250", "power = error 4711"));
    watch.until("another code", |look| {
        look.unavailable.first().is_some_and(|u| u.why == "error 4711")
    });
    machine.says(&healthy(&["GPU-a"]));
    watch.until("power again", |look| look.power_watts.is_some() && look.unavailable.is_empty());
}

#[test]
fn activity_is_counted_only_where_the_device_counts_it() {
    let script =
        healthy(&["GPU-a"]).replace("sm_active = 68.5", "").replace("tensor_active = 41", "");
    let machine = Machine::new(&script);
    let watch = machine.watch();
    watch.until("a look", is_well);
    let look = watch.until("a second look", is_well);
    assert_eq!((look.sm_active, look.tensor_active), (None, None));
    let why: Vec<_> = look.unavailable.iter().map(|u| (u.what.as_str(), u.why.as_str())).collect();
    assert_eq!(why, [("sm_active", "NotSupported"), ("tensor_active", "NotSupported")]);
    assert_eq!(machine.calls("nvmlGpmSampleGet"), 0);

    let machine = Machine::new(&healthy(&["GPU-a"]).replace("tensor_active = 41", ""));
    let watch = machine.watch();
    watch.until("one of the two", |look| look.sm_active.is_some() && look.unavailable.len() == 1);
    watch.until("and again", |look| look.sm_active.is_some() && look.tensor_active.is_none());
}

#[test]
fn a_gpu_is_lost_and_returns() {
    let both = ["GPU-a", "GPU-b"];
    let machine = Machine::new(&healthy(&both));
    let watch = machine.watch();
    watch.until("the second one", |look| look.uuid == "GPU-b" && is_well(look));
    machine.says(&format!("{}lost\n", healthy(&both)));
    let look = watch.until("it is lost", |look| look.uuid == "GPU-b" && !is_well(look));
    assert_eq!(look.error.as_deref(), Some("GpuLost: it fell off the bus, or cannot be reached"));
    assert_eq!(look.pci.as_deref(), Some("00000000:11:00.0"));
    assert_eq!(look.utilisation, None);
    watch.until("the other one goes on", |look| look.uuid == "GPU-a" && is_well(look));
    machine.says(&healthy(&both));
    let look = watch.until("it is back", |look| look.uuid == "GPU-b" && is_well(look));
    assert_eq!(look.utilisation, Some(0.71));
}

/// After a reset some GPUs answer only who has opened the library since.
#[test]
fn a_gpu_that_returns_to_a_new_client_only() {
    let machine = Machine::new(&healthy(&["GPU-a", "GPU-b"]));
    let watch = machine.watch();
    watch.until("all is well", |look| look.uuid == "GPU-b" && is_well(look));
    machine.says(&format!("{}lost_until_init = 3\n", healthy(&["GPU-a", "GPU-b"])));
    watch.until("it is lost", |look| look.uuid == "GPU-b" && !is_well(look));
    watch.until("it is back", |look| look.uuid == "GPU-b" && is_well(look));
    assert_eq!(machine.calls("nvmlInit_v2"), 3);
}

#[test]
fn a_gpu_that_was_lost_before_is_found_when_it_returns() {
    let both = ["GPU-a", "GPU-b"];
    let machine = Machine::new(&format!("{}lost\n", healthy(&both)));
    let watch = machine.watch();
    let message = "1 of the driver's 2 GPUs cannot be queried: GpuLost: it fell off the bus, or cannot be reached";
    assert_eq!(watch.first_log(), message);
    assert_eq!(probe(&machine.library()).unreachable.as_deref(), Some(message));
    watch.until("the first is watched", |look| look.uuid == "GPU-a" && is_well(look));
    machine.says(&healthy(&both));
    watch.until("and then the second", |look| look.uuid == "GPU-b" && is_well(look));
}

#[test]
fn the_driver_goes_and_comes() {
    let machine = Machine::new(&healthy(&["GPU-a"]));
    let watch = machine.watch();
    watch.until("all is well", is_well);
    machine.says("init = error 9\ngpu GPU-a\nlost\n");
    let gone = "the NVIDIA driver is not loaded (NVML error 9)";
    watch.until("the driver is gone", |look| look.error.as_deref() == Some(gone));
    machine.says(&healthy(&["GPU-a"]));
    watch.until("all is well again", is_well);
}

#[test]
fn an_older_library_lacks_a_function() {
    let machine = Machine::without("nvmlDeviceGetMemoryInfo_v2", &healthy(&["GPU-a"]));
    let look = machine.watch().until("a look", is_well);
    assert_eq!((look.used_bytes, look.utilisation), (None, Some(0.7)));
    assert_eq!(look.unavailable[0].what, "used_bytes");
    assert_eq!(look.unavailable[0].why, "FunctionNotFound");
}

/// The wrapper calls these two when something is dropped, whether they are there or not.
#[test]
fn a_library_that_cannot_be_shut_down_ends_nobody() {
    for function in ["nvmlShutdown", "nvmlGpmSampleFree"] {
        let machine = Machine::without(function, &healthy(&["GPU-a"]));
        assert_eq!(probe(&machine.library()).gpus.len(), 1);
        let watch = machine.watch();
        watch.until("a look", is_well);
        watch.until("and one more", is_well);
        drop(watch);
        assert_eq!(probe(&machine.library()).gpus.len(), 1);
    }
}

#[test]
fn a_call_that_hangs_is_noticed_and_holds_nobody_up() {
    let machine = Machine::new(&healthy(&["GPU-a"]));
    let watch = machine.watch();
    watch.until("all is well", is_well);
    machine.says(&format!("{}hang_ms = 600000\n", healthy(&["GPU-a"])));
    let look = watch.until("silence is noticed", |look| !is_well(look));
    assert_eq!(look.error.as_deref(), Some("does not answer"));
    assert_eq!(look.name.as_deref(), Some("NVIDIA H100 80GB HBM3"));
    machine.says(&healthy(&["GPU-a"]));
    watch.until("it answers again", is_well);

    machine.says(&format!("{}hang_ms = 600000\n", healthy(&["GPU-a"])));
    watch.until("silence again", |look| !is_well(look));
    let events = std::sync::Arc::clone(&watch.events);
    let began = Instant::now();
    drop(watch);
    assert!(began.elapsed() < Duration::from_secs(5), "the end waited for the call");
    let n_events = events.lock().unwrap().len();
    machine.says(&healthy(&["GPU-a"]));
    std::thread::sleep(EVERY * 10);
    assert_eq!(events.lock().unwrap().len(), n_events, "something was told after the end");
}

#[test]
fn a_driver_that_hangs_while_it_is_opened_is_told_of_and_found_later() {
    let machine = Machine::new(&format!("init_hang_ms = 6000\n{}", healthy(&["GPU-a"])));
    let watch = machine.watch();
    let began = Instant::now();
    let is_told = |event: &Event| matches!(event, Event::Log(log) if log.message == NoGpus::Silent.to_string());
    while !watch.events.lock().unwrap().iter().any(is_told) {
        assert!(began.elapsed() < machine::PATIENCE, "nothing is told");
        std::thread::sleep(Duration::from_millis(20));
    }
    watch.until("it answers in the end", is_well);
}

/// CUDA may count devices from the other end.
#[test]
fn ranks_find_their_gpus_by_uuid_or_address() {
    let machine = Machine::new(&healthy(&["GPU-a", "GPU-b", "GPU-c"]));
    let watch = machine.watch();
    watch.until("the last one", |look| look.uuid == "GPU-c");
    let entry = |rank, ordinal: u32, uuid: Option<&str>, pci: Option<&str>| DeviceMapEntry {
        stage: rank,
        rank,
        replica: 0,
        device: format!("cuda:{ordinal}"),
        host: None,
        uuid: uuid.map(ToOwned::to_owned),
        pci: pci.map(ToOwned::to_owned),
    };
    let device_map = vec![
        entry(0, 0, Some("GPU-c"), None),
        entry(1, 1, Some("GPU-b"), Some("0000:11:00.0")),
        // A part of a GPU has a UUID that NVML does not know it by.
        entry(2, 2, Some("MIG-x"), Some("0000:10:00.0")),
        entry(3, 0, None, None),
    ];
    let stages = (0..4).map(|rank| StageInfo { stage: rank, rank, ..StageInfo::default() });
    let hello = Hello { pp: 4, dp: 1, device_map, stages: stages.collect(), ..Hello::default() };
    let mut model = Model::new();
    model.apply(&Event::Hello(Box::new(hello)));
    watch.events.lock().unwrap().iter().for_each(|event| model.apply(event));
    let of = |rank| model.gpu_of(0, rank).map(|gpu| gpu.latest.uuid.as_str());
    assert_eq!([of(0), of(1), of(2), of(3)], [Some("GPU-c"), Some("GPU-b"), Some("GPU-a"), None]);
}

#[test]
fn a_probe_says_what_there_is() {
    let machine = Machine::new(&healthy(&["GPU-b", "GPU-a"]));
    let found = serde_json::to_value(probe(&machine.library())).unwrap();
    assert_eq!(found["driver"], "580.95.05");
    assert_eq!(found["cuda"], "13.0");
    assert_eq!(found["why_none"], serde_json::Value::Null);
    let gpu = |uuid: &str, pci: &str| {
        serde_json::json!({
            "uuid": uuid, "pci": pci, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 85_520_809_984_u64,
            "memory_free_bytes": 32_800_809_984_u64, "compute_capability": "9.0",
        })
    };
    let expected = [gpu("GPU-b", "00000000:10:00.0"), gpu("GPU-a", "00000000:11:00.0")];
    assert_eq!(found["gpus"], serde_json::Value::from(expected.to_vec()));
    assert_eq!(probe(&Library::Off).library, None);
}

#[test]
fn all_that_looks_writes_into_the_log_of_the_run() {
    let machine = Machine::new(&healthy(&["GPU-a"]));
    let dir = machine.run_dir();
    let recorder = pp_telemetry::recorder(&dir).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let work = move || stopped.recv().is_err();
    let rank = std::thread::Builder::new().name("rank 3.1".to_owned()).spawn(work).unwrap();
    // The new thread gives itself its name.
    let deadline = Instant::now() + machine::PATIENCE;
    let threads = loop {
        let threads = pp_devices::rank_threads();
        if !threads.is_empty() {
            break threads;
        }
        assert!(Instant::now() < deadline);
    };
    let options =
        Options { library: machine.library(), threads, every: EVERY, ..Options::default() };
    let samplers = Samplers::start(options, Instant::now(), &recorder);
    let mut follower = Follower::new(&dir.join(pp_telemetry::EVENTS_FILE));
    let (mut gpus, mut cpus) = (Vec::new(), Vec::new());
    while gpus.len() < 2 || cpus.len() < 2 {
        assert!(Instant::now() < deadline, "{gpus:?} {cpus:?}");
        follower
            .poll(|event| match event {
                Event::Gpu(gpu) => gpus.push(gpu),
                Event::Cpu(cpu) => cpus.push(cpu),
                _ => {}
            })
            .unwrap();
        std::thread::sleep(EVERY);
    }
    drop(samplers);
    assert_eq!(gpus[0].uuid, "GPU-a");
    assert_eq!((cpus[0].replica, cpus[0].rank), (1, 3));
    assert!(cpus[1].voluntary_switches >= 1 && cpus[1].elapsed_ns > cpus[0].elapsed_ns);
    drop(stop);
    assert!(rank.join().unwrap());
}
