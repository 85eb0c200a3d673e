//! For every rule a plan that breaks it, with the exact text; and files that are no plans.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::needless_raw_string_hashes,
    reason = "expect-test writes them into every drawing"
)]

use expect_test::{Expect, expect};
use pp_schedule::{
    Action, Draft, Placement, Rank, ScheduleError, ScheduleName, Sizes, Topology, import_csv,
};

/// Two ranks, one stage each, and these rows.
fn draft(n_micro_batches: u32, rows: &[&str]) -> Draft {
    let row = |row: &&str| row.split_whitespace().map(|op| op.parse::<Action>().unwrap()).collect();
    let topology = Topology::new(2, 1, Placement::Loop).unwrap();
    Draft {
        name: "test".to_owned(),
        topology,
        n_micro_batches,
        rows: rows.iter().map(row).collect(),
    }
}

fn check(draft: Draft, rule: &str, expected: &Expect) {
    let refused = draft.validate().unwrap_err();
    assert_eq!(refused.rule(), rule, "{refused}");
    assert!(refused.headline().len() <= 300);
    expected.assert_eq(&refused.to_string());
}

#[test]
fn as_many_rows_as_ranks() {
    check(
        draft(1, &["0F0 0B0"]),
        "rows",
        &expect![[r#"
            rank 1, cell 0: the plan has 1 rows and its topology 2 ranks; write one row for each rank

              cell   0     1
            rank 0  0F0   0B0"#]],
    );
    check(
        draft(1, &["0F0 0B0", "1F0 1B0", "1F0"]),
        "rows",
        &expect![[r#"
            rank 2, cell 0: the plan has 3 rows and its topology 2 ranks; write one row for each rank

              cell   0     1
            rank 0  0F0   0B0
            rank 1  1F0   1B0
            rank 2 [1F0]"#]],
    );
}

#[test]
fn ids_in_range() {
    check(
        draft(1, &["0F0 0B0", "1F0 2B0"]),
        "range",
        &expect![[r#"
            rank 1, cell 1: 2B0 names stage 2 of 2; use one from 0 to 1

              cell   0     1
            rank 0  0F0   0B0
            rank 1  1F0  [2B0]"#]],
    );
    check(
        draft(1, &["0F0 0B0", "1F0 1B7"]),
        "range",
        &expect![[r#"
            rank 1, cell 1: 1B7 names micro-batch 7 of 1; use 0, the only one

              cell   0     1
            rank 0  0F0   0B0
            rank 1  1F0  [1B7]"#]],
    );
}

#[test]
fn a_stage_on_one_row() {
    check(
        draft(2, &["0F0 0F1 0B0 0B1", "1F0 1B0 0F1 1B1"]),
        "stage-on-two-rows",
        &expect![[r#"
            rank 1, cell 2: 0F1 stands on row 1, but stage 0 is on row 0; keep a stage on one row

              cell   0     1     2     3
            rank 0  0F0   0F1   0B0   0B1
            rank 1  1F0   1B0  [0F1]  1B1"#]],
    );
}

#[test]
fn no_op_twice() {
    check(
        draft(2, &["0F0 0F0 0B0 0B1", "1F0 1B0 1F1 1B1"]),
        "duplicate",
        &expect![[r#"
            rank 0, cell 1: 0F0 stands twice on row 0; remove one of the two

              cell   0     1     2     3
            rank 0  0F0  [0F0]  0B0   0B1
            rank 1  1F0   1B0   1F1   1B1"#]],
    );
}

#[test]
fn no_full_backward_beside_its_halves() {
    check(
        draft(1, &["0F0 0B0 0W0", "1F0 1B0"]),
        "mixed",
        &expect![[r#"
            rank 0, cell 2: 0W0 stands beside 0B0: the gradient would count twice; keep one B, or one I and one W

              cell   0     1     2
            rank 0  0F0   0B0  [0W0]
            rank 1  1F0   1B0"#]],
    );
    check(
        draft(1, &["0F0 0I0 0B0", "1F0 1B0"]),
        "mixed",
        &expect![[r#"
            rank 0, cell 2: 0B0 stands beside 0I0: the gradient would count twice; keep one B, or one I and one W

              cell   0     1     2
            rank 0  0F0   0I0  [0B0]
            rank 1  1F0   1B0"#]],
    );
}

#[test]
fn no_op_missing() {
    check(
        draft(2, &["0F0 0F1 0B0 0B1", "1F0 1B0 1B1"]),
        "missing",
        &expect![[r#"
            rank 1, cell 3: 1F1 is missing from row 1; add it: every stage needs an F of every micro-batch

              cell   0      1      2      3
            rank 0  0F0    0F1    0B0    0B1
            rank 1  1F0    1B0    1B1   [1F1?]"#]],
    );
    check(
        draft(2, &["0F0 0F1 0B0 0B1", "1F0 1B0 1F1"]),
        "missing",
        &expect![[r#"
            rank 1, cell 3: 1B1 is missing from row 1; add it: every F needs a B, or an I and a W, unless the plan has no backward at all

              cell   0      1      2      3
            rank 0  0F0    0F1    0B0    0B1
            rank 1  1F0    1B0    1F1   [1B1?]"#]],
    );
    check(
        draft(1, &["0F0 0I0", "1F0 1B0"]),
        "missing",
        &expect![[r#"
            rank 0, cell 2: 0W0 is missing from row 0; add it: I and W come together; or write one B for both

              cell   0      1      2
            rank 0  0F0    0I0   [0W0?]
            rank 1  1F0    1B0"#]],
    );
    check(
        draft(1, &["0F0 0W0", "1F0 1B0"]),
        "missing",
        &expect![[r#"
            rank 0, cell 2: 0I0 is missing from row 0; add it: I and W come together; or write one B for both

              cell   0      1      2
            rank 0  0F0    0W0   [0I0?]
            rank 1  1F0    1B0"#]],
    );
}

#[test]
fn huge_numbers_claim_no_memory() {
    check(
        draft(u32::MAX, &["0F0 0F2 0B0", "1F0 1B0"]),
        "missing",
        &expect![[r#"
            rank 0, cell 3: 0F1 is missing from row 0; add it: every stage needs an F of every micro-batch

              cell   0      1      2      3
            rank 0  0F0    0F2    0B0   [0F1?]
            rank 1  1F0    1B0"#]],
    );
    check(draft(0, &["", ""]), "size", &expect!["the number of micro-batches is 0; use 1 or more"]);
}

#[test]
fn order_inside_a_row() {
    check(
        draft(1, &["0B0 0F0", "1F0 1B0"]),
        "order",
        &expect![[r#"
            rank 0, cell 0: 0B0 stands before 0F0, which it needs; put 0F0 first

              cell   0     1
            rank 0 [0B0]  0F0
            rank 1  1F0   1B0"#]],
    );
    check(
        draft(1, &["0F0 0W0 0I0", "1F0 1B0"]),
        "order",
        &expect![[r#"
            rank 0, cell 1: 0W0 stands before 0I0, which it needs; put 0I0 first

              cell   0     1     2
            rank 0  0F0  [0W0]  0I0
            rank 1  1F0   1B0"#]],
    );
    check(
        draft(2, &["0F0 (0F1;0B1)OVERLAP_F_B 0B0", "1F0 1B0 1F1 1B1"]),
        "order",
        &expect![[r#"
            rank 0, cell 1: (0F1;0B1)OVERLAP_F_B overlaps 0B1 with 0F1, which it needs; put 0F1 first

              cell     0         1         2         3
            rank 0    0F0    [0F1&0B1]    0B0
            rank 1    1F0       1B0       1F1       1B1"#]],
    );
    check(
        draft(2, &["0F0 0F1 0B0 0B1", "1F0 (1F1;1B0)OVERLAP_F_B (1F1;1B1)OVERLAP_F_B"]),
        "duplicate",
        &expect![[r#"
            rank 1, cell 2: 1F1 stands twice on row 1; remove one of the two

              cell     0         1         2         3
            rank 0    0F0       0F1       0B0       0B1
            rank 1    1F0     1F1&1B0  [1F1&1B1]"#]],
    );
    let mut one_rank = draft(1, &["1F0 0F0"]);
    one_rank.topology = Topology::new(1, 2, Placement::Loop).unwrap();
    check(
        one_rank,
        "order",
        &expect![[r#"
            rank 0, cell 0: 1F0 stands before 0F0, which it needs; put 0F0 first

              cell   0     1
            rank 0 [1F0]  0F0"#]],
    );
}

#[test]
fn no_circle_of_ranks() {
    check(
        draft(2, &["0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"]),
        "deadlock",
        &expect![[r#"
            rank 0, cell 1: deadlock: rank 0 at 0B0 waits for 1B0 of rank 1, rank 1 at 1F1 waits for 0F1 of rank 0; reorder the ops so that no ranks wait for each other

              cell   0     1     2     3
            rank 0  0F0  [0B0]  0F1   0B1
            rank 1  1F0   1F1   1B0   1B1"#]],
    );
}

#[test]
fn a_pair_waits_for_both_its_inputs() {
    check(
        draft(2, &["0F0 (0F1;0B0)OVERLAP_F_B 0B1", "1F0 1F1 1B0 1B1"]),
        "deadlock",
        &expect![[r#"
            rank 0, cell 1: deadlock: rank 0 at 0B0 waits for 1B0 of rank 1, rank 1 at 1F1 waits for 0F1 of rank 0; reorder the ops so that no ranks wait for each other

              cell     0         1         2         3
            rank 0    0F0    [0F1&0B0]    0B1
            rank 1    1F0       1F1       1B0       1B1"#]],
    );
}

#[test]
fn copies_of_the_model_share_out_the_micro_batches() {
    let down: Vec<Rank> = vec![Rank(0), Rank(1)];
    let up: Vec<Rank> = vec![Rank(1), Rank(0)];
    let two = |n_micro_batches, rows: &[&str]| Draft {
        topology: Topology::from_pipes(&[down.clone(), up.clone()]).unwrap(),
        ..draft(n_micro_batches, rows)
    };
    check(
        two(3, &["0F0 0B0", "1F0 1B0"]),
        "size",
        &expect!["3 micro-batches do not divide over 2 copies of the model; use 2 or 4"],
    );
    check(
        two(2, &["0F0 0F1 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"]),
        "stage-on-two-rows",
        &expect![[r#"
            rank 0, cell 1: 0F1 stands on row 0, but stage 0 is on row 1; keep a stage on one row

              cell   0     1     2     3     4
            rank 0  0F0  [0F1]  1F1   1B1   0B0
            rank 1  0F1   1F0   1B0   0B1"#]],
    );
    let valid = two(2, &["0F0 1F1 1B1 0B0", "0F1 1F0 1B0 0B1"]).validate().unwrap();
    assert_eq!(valid.peak_activations(), [2, 2]);
}

#[test]
fn a_large_grid_shows_the_part_that_matters() {
    let sizes =
        Sizes { n_ranks: 64, n_micro_batches: 64, n_virtual_stages: 1, interleave_group: None };
    let mut draft = ScheduleName::OneFOneB.generate(&sizes).unwrap().into_draft();
    draft.rows[40].swap(30, 80);
    check(
        draft,
        "order",
        &expect![[r#"
            rank 40, cell 30: 40B28 stands before 40F28, which it needs; put 40F28 first

               cell   24      25      26      27      28      29      30      31      32      33      34      35      36
            rank 32…  32F24   32F25   32F26   32F27   32F28   32F29   32F30   32F31   32B0    32F32   32B1    32F33   32B2 …
            rank 33…  33F24   33F25   33F26   33F27   33F28   33F29   33F30   33B0    33F31   33B1    33F32   33B2    33F33 …
            rank 34…  34F24   34F25   34F26   34F27   34F28   34F29   34B0    34F30   34B1    34F31   34B2    34F32   34B3 …
            rank 35…  35F24   35F25   35F26   35F27   35F28   35B0    35F29   35B1    35F30   35B2    35F31   35B3    35F32 …
            rank 36…  36F24   36F25   36F26   36F27   36B0    36F28   36B1    36F29   36B2    36F30   36B3    36F31   36B4 …
            rank 37…  37F24   37F25   37F26   37B0    37F27   37B1    37F28   37B2    37F29   37B3    37F30   37B4    37F31 …
            rank 38…  38F24   38F25   38B0    38F26   38B1    38F27   38B2    38F28   38B3    38F29   38B4    38F30   38B5 …
            rank 39…  39F24   39B0    39F25   39B1    39F26   39B2    39F27   39B3    39F28   39B4    39F29   39B5    39F30 …
            rank 40…  40B0    40F24   40B1    40F25   40B2    40F26  [40B28]  40F27   40B4    40F28   40B5    40F29   40B6 …
            rank 41…  41F23   41B1    41F24   41B2    41F25   41B3    41F26   41B4    41F27   41B5    41F28   41B6    41F29 …
            rank 42…  42B1    42F23   42B2    42F24   42B3    42F25   42B4    42F26   42B5    42F27   42B6    42F28   42B7 …
            rank 43…  43F22   43B2    43F23   43B3    43F24   43B4    43F25   43B5    43F26   43B6    43F27   43B7    43F28 …
            rank 44…  44B2    44F22   44B3    44F23   44B4    44F24   44B5    44F25   44B6    44F26   44B7    44F27   44B8 …
            rank 45…  45F21   45B3    45F22   45B4    45F23   45B5    45F24   45B6    45F25   45B7    45F26   45B8    45F27 …
            rank 46…  46B3    46F21   46B4    46F22   46B5    46F23   46B6    46F24   46B7    46F25   46B8    46F26   46B9 …
            rank 47…  47F20   47B4    47F21   47B5    47F22   47B6    47F23   47B7    47F24   47B8    47F25   47B9    47F26 …
            rank 48…  48B4    48F20   48B5    48F21   48B6    48F22   48B7    48F23   48B8    48F24   48B9    48F25   48B10 …"#]],
    );
}

fn csv(bytes: &[u8]) -> ScheduleError {
    let refused = import_csv("test.csv", bytes, None).unwrap_err();
    assert!(refused.headline().len() <= 300);
    refused
}

#[test]
fn files_that_are_no_plans() {
    let check = |bytes: &[u8], rule: &str, expected: Expect| {
        let refused = csv(bytes);
        assert_eq!(refused.rule(), rule, "{refused}");
        expected.assert_eq(&refused.to_string());
    };
    check(
        b"",
        "format",
        expect![
            "not a plan in CSV: it contains no op; write one line per rank, with cells such as 0F0,0F1,0B0"
        ],
    );
    check(
        b",,\n,",
        "format",
        expect![
            "not a plan in CSV: it contains no op; write one line per rank, with cells such as 0F0,0F1,0B0"
        ],
    );
    check(
        b"0F0,0B0\n\n1F0,1B0\n",
        "format",
        expect!["not a plan in CSV: row 1 contains no op; give every row at least one stage"],
    );
    check(
        b"\x7fELF\x02\x01\x01\0",
        "format",
        expect![
            "row 0, column 0: cell `\u{fffd}ELF\u{fffd}\u{fffd}\u{fffd}\u{fffd}` holds the byte 0x7f, which is not text; use a text file of cells such as 0F0,0F1,0B0"
        ],
    );
    check(
        b"0F0,0B0\n\xff\xfe",
        "format",
        expect![
            "row 1, column 0: cell `\u{fffd}\u{fffd}` holds the byte 0xff, which is not text; use a text file of cells such as 0F0,0F1,0B0"
        ],
    );
    check(
        b"0F0,,0G0\n",
        "cell",
        expect![
            "row 0, column 2: cell `0G0` is not an op; write stage, one of F B I W and micro-batch, such as 2F0, a pair such as (0F7;7B3)OVERLAP_F_B, or leave the cell empty"
        ],
    );
    check(
        b"0F0,0B\n",
        "cell",
        expect![
            "row 0, column 1: cell `0B` is not an op; write stage, one of F B I W and micro-batch, such as 2F0, a pair such as (0F7;7B3)OVERLAP_F_B, or leave the cell empty"
        ],
    );
    check(
        b"rank,op\n0,0F0\n",
        "cell",
        expect![
            "row 0, column 0: cell `rank` is not an op; write stage, one of F B I W and micro-batch, such as 2F0, a pair such as (0F7;7B3)OVERLAP_F_B, or leave the cell empty"
        ],
    );
    check(
        b"0F0,(0F1;0I0)OVERLAP_F_B,0B1\n",
        "cell",
        expect![
            "row 0, column 1: cell `(0F1;0I0)OVERLAP_F_B` is not an op; write stage, one of F B I W and micro-batch, such as 2F0, a pair such as (0F7;7B3)OVERLAP_F_B, or leave the cell empty"
        ],
    );
    check(
        b"0F0,0B0\n0SEND_F0,1F0\n",
        "cell",
        expect![
            "row 1, column 0: cell `0SEND_F0` is not an op; write stage, one of F B I W and micro-batch, such as 2F0, a pair such as (0F7;7B3)OVERLAP_F_B, or leave the cell empty"
        ],
    );
    check(
        b"0F0,4000000000B0\n",
        "range",
        expect![
            "row 0, column 1: cell `4000000000B0` names stage 4000000000, but the file has only 2 ops, and each stage needs one; use a number below 2"
        ],
    );
    check(
        b"0F0,0B0\n2F0,2B0\n",
        "missing",
        expect![
            "row 1, column 0: cell `2F0` names stage 2, but stage 1 has no op on any row; number the stages from 0 to 2 without a gap"
        ],
    );
}

#[test]
fn cells_of_a_file_count_its_bubbles() {
    let refused = csv(b"0F0,,,0F0,0B0\n,1F0,1B0\n");
    assert_eq!(
        (refused.rule(), refused.place(), refused.culprit().as_deref()),
        ("duplicate", Some((Rank(0), 3)), Some("0F0"))
    );
    let refused = csv(b"0F0,,0B0\n,0F1,0B1\n");
    assert_eq!((refused.rule(), refused.place()), ("stage-on-two-rows", Some((Rank(1), 1))));
    let refused = csv(b"0F0,,0B0,\n,1F0\n");
    assert_eq!(
        (refused.rule(), refused.place(), refused.culprit().as_deref()),
        ("missing", Some((Rank(1), 2)), Some("1B0"))
    );
}

#[test]
fn a_plan_for_inference_is_valid() {
    let plan = import_csv("test.csv", b"0F0,0F1\n1F0,1F1", None).unwrap();
    assert!(plan.is_forward_only());
    assert_eq!(plan.peak_activations(), [1, 1]);
    let refused = import_csv("test.csv", b"0F0,0F1\n1F0,1F1", Some(3)).unwrap_err();
    assert_eq!((refused.rule(), refused.culprit().as_deref()), ("missing", Some("0F2")));
}

#[test]
fn sizes_that_a_schedule_does_not_take() {
    let generate = |name: &str, p, m, v, interleave_group| {
        let sizes = Sizes { n_ranks: p, n_micro_batches: m, n_virtual_stages: v, interleave_group };
        let refused =
            name.parse::<ScheduleName>().and_then(|name| name.generate(&sizes)).unwrap_err();
        assert!(refused.to_string().len() <= 300);
        refused.to_string()
    };
    let unknown = generate("zb-h9", 4, 8, 1, None);
    assert!(
        unknown.starts_with("unknown schedule `zb-h9`; did you mean zb-h1 or zb-h2? The schedules are naive gpipe 1f1b "),
        "{unknown}"
    );
    assert!(ScheduleName::ALL.iter().all(|name| unknown.contains(name.as_str())), "{unknown}");
    expect!["zb-v does not run v=1 virtual stages on each rank; use v=2"]
        .assert_eq(&generate("zb-v", 4, 8, 1, None));
    expect![
        "hanayo does not run v=3 virtual stages on each rank; use v=2 or v=4: every wave takes two"
    ]
    .assert_eq(&generate("hanayo", 4, 8, 3, None));
    expect!["zb-h1 does not run v=2 virtual stages on each rank; use v=1, or a schedule that takes any: interleaved-1f1b, looped-bfs, interleaved-zb"].assert_eq(&generate("zb-h1", 4, 8, 2, None));
    expect!["dualpipe-v with p=4 does not run m=7 micro-batches; use m=8 or more"]
        .assert_eq(&generate("dualpipe-v", 4, 7, 2, None));
    expect!["chimera does not run on p=3 ranks, an odd number; use p=2 or p=4"]
        .assert_eq(&generate("chimera", 3, 8, 1, None));
    expect!["chimera does not run on p=1 ranks, an odd number; use p=2"]
        .assert_eq(&generate("chimera", 1, 8, 1, None));
    expect![
        "chimera with p=4 does not run m=7 micro-batches: half of them go each way; use m=6 or m=8"
    ]
    .assert_eq(&generate("chimera", 4, 7, 1, None));
    expect!["interleaved-zb with p=4 does not run m=9 micro-batches: it runs max(1, m/p) rounds of equal length; use m=8 or m=10"].assert_eq(&generate("interleaved-zb", 4, 9, 2, None));
    expect!["interleaved-zb has no interleave group, but 4 was given; leave it out, or use interleaved-1f1b"].assert_eq(&generate("interleaved-zb", 4, 8, 2, Some(4)));
    expect!["the number of ranks is 0; use 1 or more"].assert_eq(&generate("gpipe", 0, 8, 1, None));
    expect!["the number of micro-batches is 0; use 1 or more"]
        .assert_eq(&generate("gpipe", 4, 0, 1, None));
    expect![
        "1f1b does not run v=2 virtual stages on each rank; use v=1, or a schedule that takes any: interleaved-1f1b, looped-bfs, interleaved-zb"
    ]
    .assert_eq(&generate("1f1b", 4, 8, 2, None));
    expect![
        "gpipe has no interleave group, but 4 was given; leave it out, or use interleaved-1f1b"
    ]
    .assert_eq(&generate("gpipe", 4, 8, 1, Some(4)));
    expect!["interleaved-1f1b with p=4 refuses m=9: Megatron's table needs a multiple of p=4, PyTorch's rounds need a multiple of m/p rounded down, here 2; use m=8 or m=10, or an interleave group of 5"].assert_eq(&generate("interleaved-1f1b", 4, 9, 2, None));
    expect!["an interleave group of N=6 does not fit p=4 ranks and m=9 micro-batches: Megatron's table needs p <= N <= m, and m mod N to be 0 or at least p; use N=5, for example"].assert_eq(&generate("interleaved-1f1b", 4, 9, 2, Some(6)));
    expect!["2199023255552 ops are too many for a plan; use at most 4294967296"]
        .assert_eq(&generate("gpipe", 1 << 20, 1 << 20, 1, None));
}
