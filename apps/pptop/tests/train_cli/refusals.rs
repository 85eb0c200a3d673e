//! Bad input: exit code 2, one line that names what is wrong and what to do, and nothing written.

use std::time::{Duration, Instant};

use crate::home::{Home, words};
use crate::remedy::has_remedy;

/// No refusal needs training, or a look at more than sizes.
const QUICK: Duration = Duration::from_secs(10);

/// Each line must be refused with all of its parts in the first line on standard error.
fn refused(home: &Home, table: &[(&str, &[&str])]) {
    let before = home.contents();
    for (line, parts) in table {
        let start = Instant::now();
        let ran = home.run(&words(line));
        let took = start.elapsed();
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line}: {}", ran.stderr);
        let (first, rest) = ran.stderr.split_once('\n').unwrap();
        assert!(first.chars().count() <= 300, "{line}: {first}");
        assert!(first.starts_with("pptop: ") && has_remedy(first), "{line}: {first}");
        assert!(!first.ends_with('…'), "{line}: {first}");
        assert!(rest.is_empty() || rest.starts_with("\n  cell"), "{line}: {}", ran.stderr);
        for part in *parts {
            assert!(first.contains(part), "{line}: `{part}` is not in: {first}");
        }
        assert!(took < QUICK, "{line}: {took:?}");
    }
    assert_eq!(home.contents(), before, "something was written");
}

#[test]
fn sizes_of_the_pipeline() {
    refused(
        &Home::new(),
        &[
            ("train --pp 0", &["'0'", "--pp", "a whole number from 1"]),
            ("train --stages -3", &["'-3'", "--pp", "a whole number from 1"]),
            ("train --ranks two", &["'two'", "--pp", "a whole number from 1"]),
            ("train --dp 0", &["'0'", "--dp", "a whole number from 1"]),
            ("train --micro-batches 0", &["'0'", "--micro-batches", "a whole number from 1"]),
            ("train --micro-batches 1.5", &["'1.5'", "a whole number from 1"]),
            ("train --virtual-stages 0", &["'0'", "--virtual-stages"]),
            ("train --virtual-stages 2", &["1f1b does not run v=2", "use v=1", "interleaved-1f1b"]),
            ("train --interleave-group 2", &["1f1b has no interleave group", "2"]),
            ("train --batch-size 0", &["'0'", "--batch-size"]),
            (
                "train --batch-size 30",
                &["a batch of 30", "8 micro-batches", "--batch-size 24 or 32"],
            ),
            (
                "train --batch-size 24 --dp 2",
                &["a batch of 24", "8 micro-batches over 2 replicas", "--batch-size 16 or 32"],
            ),
            (
                "train --model wine-mlp --pp 5",
                &["5 layers", "wine-mlp has 4", "use at most --pp 4"],
            ),
            (
                "train --schedule interleaved-1f1b --layers 2 --pp 4",
                &[
                    "4 ranks of 2 stages",
                    "need 8 layers",
                    "gpt has 4",
                    "--pp 2 or --virtual-stages 1",
                ],
            ),
            (
                "train --schedule interleaved-1f1b --pp 4 --micro-batches 9 --batch-size 36",
                &["p=4", "m=9", "Megatron", "PyTorch", "use --micro-batches 6 or 12"],
            ),
            (
                "compare --model wine-mlp --pp 2 --micro-batches 3 --batch-size 33 --interleave-group 2",
                &["m=3"],
            ),
            ("compare --pp 0", &["'0'", "--pp"]),
            ("compare --batch-size 30", &["a batch of 30", "--batch-size 24 or 32"]),
            ("compare --model wine-mlp --pp 3", &["6 layers", "wine-mlp has 4"]),
        ],
    );
}

#[test]
fn cuts() {
    refused(
        &Home::new(),
        &[
            ("train --pp 2 --partition 1,2,3", &["1,2,3", "3 parts", "2 stages", "sum to 8"]),
            ("train --pp 2 --partition 4,5", &["4,5", "sums to 9", "8 layers"]),
            ("train --pp 2 --partition 0,8", &["0,8", "stage 0", "no layer"]),
            ("train --pp 2 --partition halves", &["'halves'", "uniform, parameters, time"]),
            ("train --pp 2 --partition 4,,4", &["'4,,4'", "uniform, parameters, time"]),
            (
                "train --pp 2 --partition 18446744073709551615,9",
                &["sums to 18446744073709551624", "8 layers"],
            ),
            ("compare --pp 2 --partition 4,5", &["4,5", "sums to 9", "8 layers"]),
        ],
    );
}

#[test]
fn numbers_of_the_optimizer() {
    refused(
        &Home::new(),
        &[
            ("train --lr nan", &["'nan'", "--lr", "a finite number above 0"]),
            ("train --lr inf", &["'inf'", "a finite number above 0"]),
            ("train --lr -0.1", &["'-0.1'", "a finite number above 0"]),
            ("train --lr 0", &["'0'", "a finite number above 0"]),
            ("train --lr-gamma 0.5", &["--lr-gamma", "--lr-schedule step"]),
            ("train --lr-schedule step --lr-step 0", &["'0'", "--lr-step"]),
            ("train --lr-schedule line", &["'line'", "constant, step or cosine"]),
            ("train --warmup -1", &["'-1'", "a whole number from 0"]),
            ("train --optimizer lion", &["'lion'", "sgd, adam or adamw"]),
            ("train --clip-norm nan", &["'nan'", "--clip-norm", "a finite number above 0"]),
            ("train --clip-norm 0", &["'0'", "--clip-norm"]),
            ("train --dropout 1", &["'1'", "--dropout", "from 0 to below 1"]),
            ("train --dropout -0.5", &["'-0.5'", "--dropout"]),
            ("train --steps 0", &["'0'", "--steps", "a whole number from 1"]),
            ("train --eval-every 0", &["'0'", "--eval-every"]),
            ("train --seed x", &["'x'", "--seed", "a whole number from 0"]),
            ("train --spans none", &["'none'", "all, auto, or a number of steps"]),
            ("compare --lr nan", &["'nan'", "--lr"]),
        ],
    );
}

#[test]
fn models_and_what_they_do_not_have() {
    refused(
        &Home::new(),
        &[
            ("train --model bert", &["'bert'", "seed-mlp, wine-mlp, gpt, llama or sleep"]),
            ("train --preset tree", &["'tree'", "use seed"]),
            ("train --preset seed --model gpt", &["seed-mlp", "the model is gpt"]),
            ("train --width 130", &["--width 130", "--heads 4", "use 128 or 132"]),
            ("train --heads 0", &["'0'", "--heads"]),
            ("train --model wine-mlp --layers 3", &["--layers", "gpt", "wine-mlp"]),
            ("train --model seed-mlp --data x.txt", &["--data", "gpt", "seed-mlp"]),
            ("train --sleep-link-ms 1", &["--sleep-link-ms", "sleep", "the model is gpt"]),
            ("train --model sleep --dropout 0.1", &["sleep", "--dropout"]),
            ("train --model sleep --sample 9", &["--sample", "gpt"]),
            ("train --model sleep --eval-every 9", &["--eval-every", "sleep"]),
            ("train --model sleep --sleep-forward-ms -1", &["'-1'", "milliseconds from 0"]),
            (
                "train --model sleep --pp 2 --sleep-slow-rank 2:3",
                &["rank 2", "has 2", "from 0 to 1"],
            ),
            ("train --model sleep --sleep-slow-rank 1", &["'1'", "RANK:FACTOR"]),
            ("train --model sleep --sleep-slow-rank 1:1e300", &["'1:1e300'", "at most 1000000"]),
            ("compare --model bert", &["'bert'", "seed-mlp, wine-mlp, gpt, llama or sleep"]),
        ],
    );
}

#[test]
fn data_and_results() {
    let home = Home::new();
    home.write("empty.txt", b"");
    home.write("short.txt", &[b'a'; 649]);
    home.write("noise.bin", &[0x9d; 4000]);
    std::fs::create_dir(home.path("folder")).unwrap();
    std::fs::create_dir(home.path("used")).unwrap();
    home.write("used/events.jsonl", b"{}\n");
    std::fs::create_dir(home.path("packed")).unwrap();
    home.write("packed/events.jsonl.zst", b"");
    // A header that promises more than there is.
    home.write("cut.safetensors", b"\x40\0\0\0\0\0\0\0{\"a\":");
    home.stdout(
        "train --model wine-mlp --steps 1 --pp 1 --save other.safetensors --dump-step dump.safetensors --run-dir a_run",
    );
    let gpt = "train --layers 1 --width 8 --heads 1";
    refused(
        &home,
        &[
            ("train --data nowhere.txt", &["nowhere.txt", "No such file", "a text file"]),
            ("train --data folder", &["folder", "it is a folder", "a text file"]),
            ("train --data /dev/zero", &["/dev/zero", "it is no file", "a text file"]),
            ("train --data empty.txt", &["empty.txt has 0 bytes", "needs 650", "a longer text"]),
            ("train --data short.txt", &["has 649 bytes", "needs 650", "--context at most 63"]),
            ("compare --data short.txt", &["has 649 bytes", "needs 650"]),
            ("train --context 49068", &["the embedded text has", "a context of 49068 needs"]),
            ("train --init nowhere.safetensors", &["nowhere.safetensors", "No such file"]),
            ("train --init folder", &["folder", "a file that --save wrote"]),
            ("train --init noise.bin", &["noise.bin", "a file that --save wrote"]),
            ("train --init cut.safetensors", &["cut.safetensors", "a file that --save wrote"]),
            (&format!("{gpt} --init other.safetensors"), &["other.safetensors", "layers.0."]),
            ("train --model wine-mlp --init dump.safetensors", &["the model has no"]),
            ("train --save nowhere/w.safetensors", &["nowhere/w.safetensors", "No such file"]),
            ("train --save folder", &["--save folder", "it is a folder"]),
            ("train --dump-step nowhere/d.safetensors", &["--dump-step", "No such file"]),
            ("train --save x --dump-step x", &["--save", "--dump-step", "two files"]),
            (&format!("{gpt} --run-dir used"), &["used already contains a run", "events.jsonl"]),
            (
                &format!("{gpt} --run-dir packed"),
                &["packed already contains a run", "events.jsonl.zst"],
            ),
            (&format!("{gpt} --run-dir noise.bin"), &["noise.bin", "a folder"]),
        ],
    );
}

#[test]
fn plans_from_files() {
    let home = Home::new();
    for (name, content) in [
        ("missing.csv", &b"0F0,0F1,0B0,0B1\n1F0,1B0,1B1\n"[..]),
        ("doubled.csv", b"0F0,0F0,0B0\n1F0,1B0\n"),
        ("deadlock.csv", b"0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n"),
        ("two_rows.csv", b"0F0,0F1,0B0\n1F0,1B0,1F1,0B1,1B1\n"),
        ("no_op.csv", b"0F0,0B0\n1F0,1X0\n"),
        ("binary.csv", b"\x7fELF\x02\x01\0\0\xff\xfe"),
        ("empty.csv", b""),
        ("forward.csv", b"0F0,0F1\n1F0,1F1\n"),
        ("good.csv", b"0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"),
        (
            "nine.csv",
            b"0F0,0B0\n1F0,1B0\n2F0,2B0\n3F0,3B0\n4F0,4B0\n5F0,5B0\n6F0,6B0\n7F0,7B0\n8F0,8B0\n",
        ),
    ] {
        home.write(name, content);
    }
    std::fs::create_dir(home.path("folder")).unwrap();
    refused(
        &home,
        &[
            ("train --schedule missing.csv", &["missing.csv", "row 1, column 3", "1F1 is missing"]),
            ("train --schedule doubled.csv", &["doubled.csv", "row 0, column 1", "0F0", "twice"]),
            ("train --schedule deadlock.csv", &["deadlock.csv", "0B0 waits for 1B0 of rank 1"]),
            ("train --schedule two_rows.csv", &["0B1 stands on row 1", "stage 0 is on row 0"]),
            ("train --schedule no_op.csv", &["no_op.csv", "row 1, column 1", "1X0"]),
            ("train --schedule binary.csv", &["binary.csv", "the byte 0x7f", "not text"]),
            ("train --schedule empty.csv", &["empty.csv", "no op"]),
            ("train --schedule forward.csv", &["forward.csv", "no backward", "a plan that trains"]),
            ("train --schedule nowhere.csv", &["nowhere.csv", "No such file"]),
            ("train --schedule folder", &["folder", "a file that can be read"]),
            ("train --schedule good.csv --pp 3", &["has 2", "--pp 3", "--pp 2"]),
            ("train --schedule good.csv --micro-batches 4 --batch-size 4", &["0F2 is missing"]),
            (
                "train --schedule good.csv --batch-size 31",
                &["a batch of 31", "--batch-size 30 or 32"],
            ),
            ("train --schedule nine.csv", &["9 layers", "gpt has 8"]),
            ("compare --schedules 1f1b,deadlock.csv", &["deadlock.csv", "0B0 waits for 1B0"]),
        ],
    );
}

#[test]
fn sizes_that_no_machine_holds() {
    refused(
        &Home::new(),
        &[
            (
                "compare --model wine-mlp --schedules all,nosuch --pp 2",
                &["unknown schedule `nosuch`"],
            ),
            (
                "train --model wine-mlp --schedule auto --pp 2 --interleave-group 4",
                &["auto has no interleave group"],
            ),
            (
                "train --model wine-mlp --schedule zb-auto --pp 2 --partition 1,1,1,1",
                &["--partition 1,1,1,1 has 4 parts", "2 stages"],
            ),
            ("train --model sleep --partition time", &["--partition time", "uniform"]),
            ("train --width 100000000", &["720000065600000000 parameters", "MiB are free"]),
            ("train --width 4294967295 --heads 1", &["parameters", "MiB are free"]),
            ("train --layers 4294967295", &["parameters", "MiB are free"]),
            ("train --context 4294967295", &["549757069184 parameters", "MiB are free"]),
            (
                "train --pp 4000000000",
                &["need 4000000000 layers", "gpt has 8", "use at most --pp 8"],
            ),
            (
                "train --model sleep --pp 4000000000",
                &["4000000000 ranks", "this system has", "or less"],
            ),
            ("train --model sleep --pp 1000000", &["1000000 ranks", "this system has", "or less"]),
            ("train --model sleep --dp 4000000000", &["4000000000 replicas", "this system has"]),
            ("train --dp 4000000000", &["4000000000 replicas", "this system has", "or less"]),
            ("train --micro-batches 4000000000", &["ops", "at most 4294967296"]),
            ("train --batch-size 18446744073709551608", &["18446744073709551608", "MiB are free"]),
            ("train --model seed-mlp --batch-size 320000000000", &["320000000000", "MiB are free"]),
            ("train --steps 18446744073709551616", &["18446744073709551616", "--steps"]),
            ("train --schedule zb-v --virtual-stages 3", &["zb-v does not run v=3", "use v=2"]),
            (
                "train --schedule hanayo --virtual-stages 3",
                &["hanayo does not run v=3", "use v=2 or v=4"],
            ),
            ("train --schedule chimera --pp 3", &["chimera does not run on p=3", "use p=2 or p=4"]),
            (
                "train --schedule chimera --pp 2 --micro-batches 7",
                &["m=7", "use --micro-batches 4 or 8"],
            ),
            (
                "train --schedule dualpipe-v --pp 4 --micro-batches 4",
                &["p=4", "m=4", "use --micro-batches 8"],
            ),
            (
                "train --schedule forward-only",
                &["forward-only", "no backward", "a plan that trains"],
            ),
            ("train --memory-limit 4", &["--memory-limit", "1f1b", "zb-auto or auto"]),
            ("compare --memory-limit 4", &["--memory-limit", "zb-auto and auto"]),
            ("train --schedule auto --memory-limit 0", &["'0'", "--memory-limit", "above 0"]),
            (
                "train --model sleep --schedule chimera --pp 2 --sleep-slow-rank 0:2",
                &["--sleep-slow-rank", "chimera", "another schedule"],
            ),
            ("compare --width 100000000", &["720000065600000000 parameters", "MiB are free"]),
        ],
    );
}

/// What is known only when the model was measured: the folder of such a run does not stay.
#[test]
fn a_limit_that_no_plan_keeps() {
    let home = Home::new();
    for job in
        ["--model seed-mlp --schedule zb-auto --pp 4", "--model sleep --schedule auto --pp 2"]
    {
        for folder in ["", " --run-dir new"] {
            let line = format!("train --headless {job} --memory-limit 0.5{folder}");
            let ran = home.run(&words(&line));
            assert_eq!(ran.code, Some(2), "{line}: {}", ran.stderr);
            for part in ["rank 0 may hold 0.5", "takes 1", "raise the memory limit to 1"] {
                assert!(ran.stderr.contains(part), "{line}: {}", ran.stderr);
            }
            assert!(!home.path("new").exists(), "{line}");
            let runs = std::fs::read_dir(home.path("state/runs"));
            let runs: Vec<_> = runs.into_iter().flatten().flatten().collect();
            assert!(runs.iter().all(|run| !run.path().is_dir()), "{line}: {runs:?}");
        }
    }
}

#[test]
fn names_that_come_later_and_names_of_nothing() {
    let home = Home::new();
    refused(
        &home,
        &[
            ("train --schedule zb-h9", &["`zb-h9`", "naive gpipe 1f1b interleaved-1f1b"]),
            ("compare --schedules 1f1b,best", &["`best`", "naive gpipe 1f1b interleaved-1f1b"]),
            ("train --model mamba", &["'mamba'", "seed-mlp, wine-mlp, gpt, llama or sleep"]),
            ("train --recompute=9 --pp 2", &["--recompute names stage 9", "has 2", "0 to 1"]),
            (
                "train --model sleep --pp 900 --micro-batches 1 --pin",
                &["--pin needs 900 cores for 900 ranks", "at most", "leave --pin out"],
            ),
            ("train --recompute=last", &["last", "all, or stages such as 0,1"]),
            ("train --transport nccl", &["'nccl'", "threads or mpi"]),
            ("train --lost-after soon", &["--lost-after", "a number of seconds"]),
            ("train --checkpoint-every 3d", &["3d", "90s, 10m or 2h"]),
            ("train --keep 0", &["--keep", "0", "from 1"]),
            ("train --resume", &["--resume", "DIR|RUN|latest"]),
            ("train --format svg", &["no flag --format"]),
            ("train --device tpu", &["'tpu'", "auto, cpu or cuda"]),
            ("train now", &["no argument 'now'"]),
            ("devices --watch", &["no flag --watch", "devices --help"]),
            ("devices all", &["no argument 'all'", "devices --help"]),
            ("plan", &["no command 'plan'", "train launch compare bubble schedule attach"]),
            ("attach", &["no runs in", "pptop train"]),
            ("export latest", &["no command 'latest'", "chrome-trace"]),
        ],
    );
    for command in ["train", "compare", "devices"] {
        let help = home.stdout(&format!("{command} --help"));
        for later in ["nccl", "mamba", "inject"] {
            assert!(!help.contains(later), "{later} is in the help of {command}");
        }
        // Rows of a comparison are never continued.
        for flag in ["--checkpoint-every", "--resume", "--restarts"] {
            assert_eq!(help.contains(flag), command == "train", "{flag}: {command}");
        }
    }
}

/// Where CUDA can be used there is nothing to refuse.
#[test]
fn a_device_that_is_not_there() {
    let home = Home::new();
    let devices: serde_json::Value = serde_json::from_str(&home.stdout("devices --json")).unwrap();
    let ids: Vec<_> = devices["devices"].as_array().unwrap().iter().map(|d| &d["kind"]).collect();
    if !ids.iter().any(|&kind| kind == "cuda") {
        refused(
            &home,
            &[
                ("train --device cuda", &["--device cuda", "auto or cpu"]),
                ("compare --device cuda", &["--device cuda", "auto or cpu"]),
            ],
        );
    }
}

#[test]
fn a_very_long_name_leaves_room_for_the_remedy() {
    let home = Home::new();
    let long = "x".repeat(5000);
    let lines = ["--data", "--schedule", "--init", "--save", "--partition", "--model"]
        .map(|flag| format!("train {flag} {long}"));
    for line in &lines {
        let ran = home.run(&words(line));
        let first = ran.stderr.lines().next().unwrap();
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{first}");
        assert!(first.chars().count() <= 300, "{first}");
    }
    assert!(home.contents().is_empty());
}

/// What a rename would destroy is refused before anything is trained.
#[test]
fn results_in_the_place_of_something_else() {
    let home = Home::new();
    home.write("target", b"kept");
    let target = home.path("target");
    let link = target.with_file_name("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let link = link.display().to_string();
    refused(
        &home,
        &[
            (&format!("train --save {link}"), &["--save", "not a regular file"]),
            (&format!("train --dump-step {link}"), &["--dump-step", "not a regular file"]),
            ("train --save /dev/null", &["--save /dev/null", "not a regular file"]),
        ],
    );
    assert_eq!(std::fs::read(&target).unwrap(), b"kept");
}

/// What would be found out by running out of memory, and command lines that clap itself refuses.
#[test]
fn activations_and_half_said_flags() {
    refused(
        &Home::new(),
        &[
            (
                "train --context 4000 --heads 128",
                &["4 samples of 4000 bytes", "activations", "MiB are free", "at most"],
            ),
            ("compare --model gpt --eval-every 3", &["so --eval-every has no effect"]),
            ("compare --pp 2 --partition 2,2", &["naive: ", "sums to 4"]),
            ("bubble --pp 4", &["--micro-batches"]),
            ("train --pp", &["--pp"]),
            ("train --pp 2 --pp 4", &["--pp is given twice"]),
            ("train --headless=yes", &["--headless"]),
            ("schedule simulate", &["NAME|FILE"]),
            (
                "schedule simulate 1f1b --pp 2 --micro-batches 2 --forward 1e308",
                &["more than a number holds"],
            ),
            (
                "schedule simulate 1f1b --pp 2 --micro-batches 2 --costs /dev/null",
                &["/dev/null", "it is a device"],
            ),
        ],
    );
}

#[test]
fn a_slip_is_answered_with_what_was_meant() {
    let home = Home::new();
    home.write("plan.csv", b"0F0,0B0\n");
    refused(
        &home,
        &[
            ("trian", &["no command 'trian'", "did you mean train?"]),
            ("TRAIN", &["did you mean train?"]),
            ("schedule simulat 1f1b", &["did you mean simulate?"]),
            ("export chrometrace", &["did you mean chrome-trace?"]),
            ("help trian", &["did you mean train?"]),
            ("train --scheduel gpipe", &["no flag --scheduel", "did you mean --schedule?"]),
            ("train --microbatches 4", &["did you mean --micro-batches?"]),
            ("compare --stpes 4", &["did you mean --steps?"]),
            ("train --schedule 1fb1", &["`1fb1`", "did you mean 1f1b?", "CSV file"]),
            ("train --schedule GPipe", &["did you mean gpipe?"]),
            ("train --schedule zb_h1", &["did you mean zb-h1?"]),
            ("train --schedule paln.csv", &["paln.csv", "No such file"]),
            ("compare --schedules gpipe,1fb1", &["did you mean 1f1b?"]),
            ("bubble --schedule interleaved", &["did you mean interleaved-1f1b"]),
            ("train --model gtp", &["'gtp'", "did you mean gpt?"]),
            ("train --optimizer adamm", &["did you mean adam"]),
            ("train --partition tiem", &["did you mean time?"]),
            ("train --device cdua", &["did you mean cuda?"]),
            ("snapshot --view overveiw", &["did you mean overview?"]),
            ("compare --format latx", &["did you mean latex?"]),
        ],
    );
}

/// What a refusal names is tried in its place: it has to be taken.
#[test]
fn sizes_that_do_not_divide_name_some_that_do() {
    let home = Home::new();
    let lines: [(&str, &str, &[&str]); 9] = [
        ("train --micro-batches 7", "--micro-batches", &["4", "8"]),
        ("train --heads 5", "--heads", &["4", "8"]),
        ("train --heads 300", "--heads", &["128"]),
        ("train --width 130", "--width", &["128", "132"]),
        ("train --batch-size 30", "--batch-size", &["24", "32"]),
        ("train --dp 3", "--dp", &["2", "4"]),
        ("train --dp 2 --micro-batches 5", "--micro-batches", &["4", "8"]),
        ("train --schedule dualpipe-v --pp 2 --micro-batches 3", "--micro-batches", &["4"]),
        (
            "train --schedule interleaved-1f1b --pp 3 --micro-batches 7 --batch-size 36",
            "--micro-batches",
            &["6", "9"],
        ),
    ];
    for (line, flag, named) in lines {
        let ran = home.run(&words(line));
        assert_eq!(ran.code, Some(2), "{line}: {}", ran.stderr);
        let remedy = ran.stderr.split_once("; use ").unwrap().1;
        for value in named {
            let has = remedy.split([' ', ',', '\n']).any(|word| word == *value);
            assert!(has, "{line}: {value} is not in: {}", ran.stderr);
            // The same line with this value fails, if at all, for another reason: there is no such
            // text.
            let mut args: Vec<&str> = words(line);
            match args.iter().position(|word| *word == flag) {
                Some(at) => args[at + 1] = value,
                None => args.extend([flag, value]),
            }
            args.extend(["--data", "nowhere.txt"]);
            let better = home.run(&args);
            assert!(better.stderr.contains("nowhere.txt"), "{args:?}: {}", better.stderr);
        }
    }
    assert!(home.contents().is_empty());
}
