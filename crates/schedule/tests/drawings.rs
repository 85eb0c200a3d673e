//! Small plans as text.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(
    clippy::needless_raw_string_hashes,
    reason = "expect-test writes them into every drawing"
)]

use expect_test::{Expect, expect};
use pp_schedule::{
    Costs, Instruction, RankShare, ScheduleName, Sizes, ValidPlan, draw, lower, lower_rendezvous,
    mailbox_peaks,
};

fn plan(
    name: ScheduleName,
    n_ranks: u32,
    n_micro_batches: u32,
    n_virtual_stages: u32,
) -> ValidPlan {
    name.generate(&Sizes { n_ranks, n_micro_batches, n_virtual_stages, interleave_group: None })
        .unwrap()
}

/// The rows as text, and the drawing. Several modules of the crate show these drawings.
fn check(plan: &ValidPlan, rows: &Expect, picture: &Expect) {
    rows.assert_eq(&plan.to_string());
    let costs = Costs::per_rank_share(plan.topology(), &RankShare::default());
    picture.assert_eq(&draw(plan, &costs).unwrap());
}

#[test]
fn naive() {
    check(
        &plan(ScheduleName::Naive, 3, 2, 1),
        &expect![[r#"
        0F0,0B0,0F1,0B1
        1F0,1B0,1F1,1B1
        2F0,2B0,2F1,2B1"#]],
        &expect![[r#"
        rank 0  F0|..................B0---|F1|..................B1---|
        rank 1  ...F0|.........B0---|.........F1|.........B1---|......
        rank 2  ......F0|B0---|..................F1|B1---|............"#]],
    );
}

#[test]
fn gpipe() {
    check(
        &plan(ScheduleName::Gpipe, 4, 4, 1),
        &expect![[r#"
        0F0,0F1,0F2,0F3,0B0,0B1,0B2,0B3
        1F0,1F1,1F2,1F3,1B0,1B1,1B2,1B3
        2F0,2F1,2F2,2F3,2B0,2B1,2B2,2B3
        3F0,3F1,3F2,3F3,3B0,3B1,3B2,3B3"#]],
        &expect![[r#"
        rank 0  F0|F1|F2|F3|...........................B0---|B1---|B2---|B3---|
        rank 1  ...F0|F1|F2|F3|..................B0---|B1---|B2---|B3---|......
        rank 2  ......F0|F1|F2|F3|.........B0---|B1---|B2---|B3---|............
        rank 3  .........F0|F1|F2|F3|B0---|B1---|B2---|B3---|.................."#]],
    );
}

#[test]
fn one_f_one_b() {
    check(
        &plan(ScheduleName::OneFOneB, 4, 6, 1),
        &expect![[r#"
        0F0,0F1,0F2,0F3,0B0,0F4,0B1,0F5,0B2,0B3,0B4,0B5
        1F0,1F1,1F2,1B0,1F3,1B1,1F4,1B2,1F5,1B3,1B4,1B5
        2F0,2F1,2B0,2F2,2B1,2F3,2B2,2F4,2B3,2F5,2B4,2B5
        3F0,3B0,3F1,3B1,3F2,3B2,3F3,3B3,3F4,3B4,3F5,3B5"#]],
        &expect![[r#"
        rank 0  F0|F1|F2|F3|..................B0---|F4|B1---|F5|B2---|...B3---|...B4---|...B5---|
        rank 1  ...F0|F1|F2|............B0---|F3|B1---|F4|B2---|F5|B3---|...B4---|...B5---|......
        rank 2  ......F0|F1|......B0---|F2|B1---|F3|B2---|F4|B3---|F5|B4---|...B5---|............
        rank 3  .........F0|B0---|F1|B1---|F2|B2---|F3|B3---|F4|B4---|F5|B5---|.................."#]],
    );
}

#[test]
fn one_f_one_b_with_fewer_micro_batches_than_ranks() {
    check(
        &plan(ScheduleName::OneFOneB, 4, 2, 1),
        &expect![[r#"
        0F0,0F1,0B0,0B1
        1F0,1F1,1B0,1B1
        2F0,2F1,2B0,2B1
        3F0,3B0,3F1,3B1"#]],
        &expect![[r#"
        rank 0  F0|F1|........................B0---|...B1---|
        rank 1  ...F0|F1|...............B0---|...B1---|......
        rank 2  ......F0|F1|......B0---|...B1---|............
        rank 3  .........F0|B0---|F1|B1---|.................."#]],
    );
}

#[test]
fn interleaved() {
    check(
        &plan(ScheduleName::InterleavedOneFOneB, 2, 4, 2),
        &expect![[r#"
        0F0,0F1,2F0,2F1,0F2,2B0,0F3,2B1,2F2,0B0,2F3,0B1,2B2,2B3,0B2,0B3
        1F0,1F1,3F0,3B0,3F1,3B1,1F2,1B0,1F3,1B1,3F2,3B2,3F3,3B3,1B2,1B3"#]],
        &expect![[r#"
        rank 0  0F0|0F1|2F0|2F1|0F2|....2B0----|0F3|2B1----|2F2|0B0----|2F3|0B1----|....2B2----|....2B3----|0B2----|0B3----|
        rank 1  ....1F0|1F1|3F0|3B0----|3F1|3B1----|1F2|1B0----|1F3|1B1----|3F2|3B2----|3F3|3B3----|1B2----|1B3----|........"#]],
    );
}

#[test]
fn interleaved_in_one_short_round() {
    check(
        &plan(ScheduleName::InterleavedOneFOneB, 3, 2, 2),
        &expect![[r#"
        0F0,0F1,3F0,3F1,3B0,3B1,0B0,0B1
        1F0,1F1,4F0,4F1,4B0,4B1,1B0,1B1
        2F0,2F1,5F0,5B0,5F1,5B1,2B0,2B1"#]],
        &expect![[r#"
        rank 0  0F0|0F1|....3F0|3F1|....................3B0----|....3B1----|....0B0----|....0B1----|
        rank 1  ....1F0|1F1|....4F0|4F1|........4B0----|....4B1----|....1B0----|....1B1----|........
        rank 2  ........2F0|2F1|....5F0|5B0----|5F1|5B1----|....2B0----|....2B1----|................"#]],
    );
}

#[test]
fn looped_bfs() {
    check(
        &plan(ScheduleName::LoopedBfs, 2, 2, 2),
        &expect![[r#"
        0F0,0F1,2F0,2F1,2B0,2B1,0B0,0B1
        1F0,1F1,3F0,3F1,3B0,3B1,1B0,1B1"#]],
        &expect![[r#"
        rank 0  0F0|0F1|2F0|2F1|............2B0----|2B1----|0B0----|0B1----|
        rank 1  ....1F0|1F1|3F0|3F1|3B0----|3B1----|1B0----|1B1----|........"#]],
    );
}

#[test]
fn zb_h1() {
    check(
        &plan(ScheduleName::ZbH1, 2, 3, 1),
        &expect![[r#"
        0F0,0F1,0I0,0W0,0F2,0I1,0W1,0I2,0W2
        1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2"#]],
        &expect![[r#"
        rank 0  F0|F1|...I0|W0|F2|I1|W1|I2|W2|
        rank 1  ...F0|I0|F1|I1|W0|F2|I2|W1|W2|"#]],
    );
}

#[test]
fn zb_h2() {
    check(
        &plan(ScheduleName::ZbH2, 2, 3, 1),
        &expect![[r#"
        0F0,0F1,0F2,0I0,0W0,0I1,0W1,0I2,0W2
        1F0,1I0,1F1,1I1,1F2,1I2,1W0,1W1,1W2"#]],
        &expect![[r#"
        rank 0  F0|F1|F2|I0|W0|I1|W1|I2|W2|...
        rank 1  ...F0|I0|F1|I1|F2|I2|W0|W1|W2|"#]],
    );
}

#[test]
fn interleaved_zero_bubble() {
    check(
        &plan(ScheduleName::InterleavedZb, 2, 4, 2),
        &expect![[r#"
        0F0,0F1,2F0,2F1,2I0,2W0,0F2,2I1,2W1,0F3,0I0,0W0,2F2,0I1,0W1,2F3,2I2,2W2,2I3,2W3,0I2,0W2,0I3,0W3
        1F0,1F1,3F0,3I0,3F1,3I1,3W0,1F2,1I0,3W1,1F3,1I1,1W0,3F2,3I2,1W1,3F3,3I3,3W2,1I2,3W3,1I3,1W2,1W3"#]],
        &expect![[r#"
        rank 0  0F0|0F1|2F0|2F1|....2I0|2W0|0F2|2I1|2W1|0F3|0I0|0W0|2F2|0I1|0W1|2F3|2I2|2W2|2I3|2W3|0I2|0W2|0I3|0W3|
        rank 1  ....1F0|1F1|3F0|3I0|3F1|3I1|3W0|1F2|1I0|3W1|1F3|1I1|1W0|3F2|3I2|1W1|3F3|3I3|3W2|1I2|3W3|1I3|1W2|1W3|"#]],
    );
}

#[test]
fn zb_v() {
    check(
        &plan(ScheduleName::ZbV, 2, 3, 2),
        &expect![[r#"
        0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0I0,0W0,3F2,3I2,3W2,0I1,0W1,0I2,0W2
        1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1I1,2I2,1I2,1W1,2W2,1W2"#]],
        &expect![[r#"
        rank 0  0F0|0F1|0F2|3F0|3I0|3W0|3F1|3I1|3W1|0I0|0W0|3F2|3I2|3W2|0I1|0W1|0I2|0W2|....
        rank 1  ....1F0|2F0|1F1|2F1|2I0|2W0|1F2|1I0|1W0|2F2|2I1|2W1|1I1|2I2|1I2|1W1|2W2|1W2|"#]],
    );
}

#[test]
fn v_half() {
    check(
        &plan(ScheduleName::VHalf, 4, 4, 2),
        &expect![[r#"
        0F0,0F1,0F2,7F0,7I0,7F1,0F3,7I1,7W0,7F2,7I2,7W1,0I0,0W0,7W2,7F3,7I3,0I1,0W1,0I2,7W3,0W2,0I3,0W3
        1F0,1F1,1F2,6F0,6F1,6I0,6F2,6W0,1F3,6I1,6W1,1I0,6I2,1W0,6F3,6W2,1I1,6I3,1I2,1W1,6W3,1W2,1I3,1W3
        2F0,2F1,2F2,5F0,5F1,5F2,5I0,5W0,2F3,2I0,5I1,2W0,5F3,5I2,2I1,5W1,2I2,5I3,2W1,5W2,2I3,2W2,5W3,2W3
        3F0,4F0,3F1,4F1,3F2,4F2,4I0,3I0,4W0,3F3,3W0,4F3,4I1,3I1,4I2,3I2,4W1,3W1,4I3,3I3,4W2,3W2,4W3,3W3"#]],
        &expect![[r#"
        rank 0  0F0|0F1|0F2|................7F0|7I0|7F1|0F3|7I1|7W0|7F2|7I2|7W1|0I0|0W0|7W2|7F3|7I3|0I1|0W1|0I2|7W3|0W2|....0I3|0W3|
        rank 1  ....1F0|1F1|1F2|........6F0|....6F1|6I0|6F2|6W0|1F3|6I1|6W1|1I0|6I2|1W0|6F3|6W2|1I1|6I3|1I2|1W1|6W3|1W2|1I3|1W3|....
        rank 2  ........2F0|2F1|2F2|5F0|....5F1|....5F2|5I0|5W0|....2F3|2I0|5I1|2W0|5F3|5I2|2I1|5W1|2I2|5I3|2W1|5W2|2I3|2W2|5W3|2W3|
        rank 3  ............3F0|4F0|3F1|4F1|3F2|4F2|........4I0|3I0|4W0|3F3|3W0|4F3|4I1|3I1|4I2|3I2|4W1|3W1|4I3|3I3|4W2|3W2|4W3|3W3|"#]],
    );
}

#[test]
fn v_min() {
    check(
        &plan(ScheduleName::VMin, 4, 4, 2),
        &expect![[r#"
        0F0,0F1,7F0,7I0,7W0,0F2,7F1,7I1,0I0,7W1,0W0,0F3,7F2,7I2,0I1,7W2,0W1,7F3,7I3,0I2,7W3,0W2,0I3,0W3
        1F0,6F0,1F1,6I0,6W0,6F1,1F2,1I0,6I1,1W0,6W1,6F2,1F3,1I1,6I2,1W1,6W2,6F3,1I2,6I3,1W2,6W3,1I3,1W3
        2F0,5F0,2F1,5I0,5F1,5W0,2I0,2F2,2W0,5I1,5F2,5W1,2I1,2F3,2W1,5I2,5F3,5W2,2I2,2W2,5I3,5W3,2I3,2W3
        3F0,4F0,3F1,4F1,4I0,3I0,4W0,3W0,3F2,4F2,4I1,3I1,4W1,3W1,3F3,4F3,4I2,3I2,4W2,3W2,4I3,3I3,4W3,3W3"#]],
        &expect![[r#"
        rank 0  0F0|0F1|....................7F0|7I0|7W0|0F2|........7F1|7I1|0I0|7W1|0W0|0F3|7F2|7I2|0I1|7W2|0W1|....7F3|7I3|0I2|7W3|0W2|............0I3|0W3|
        rank 1  ....1F0|................6F0|1F1|....6I0|6W0|....6F1|1F2|1I0|6I1|1W0|6W1|6F2|1F3|1I1|6I2|1W1|6W2|6F3|....1I2|6I3|1W2|6W3|........1I3|1W3|....
        rank 2  ........2F0|........5F0|........2F1|....5I0|5F1|5W0|2I0|2F2|2W0|5I1|5F2|5W1|2I1|2F3|2W1|5I2|5F3|5W2|2I2|2W2|....5I3|5W3|....2I3|2W3|........
        rank 3  ............3F0|4F0|................3F1|4F1|4I0|3I0|4W0|3W0|3F2|4F2|4I1|3I1|4W1|3W1|3F3|4F3|4I2|3I2|4W2|3W2|........4I3|3I3|4W3|3W3|........"#]],
    );
}

#[test]
fn dual_pipe_v() {
    check(
        &plan(ScheduleName::DualPipeV, 2, 4, 2),
        &expect![[r#"
        0F0,0F1,0F2,3F0,3I0,3W0,3F1,(0F3;3B1)OVERLAP_F_B,(3F2;0B0)OVERLAP_F_B,3B2,(3F3;0B1)OVERLAP_F_B,3B3,0I2,0W2,0I3,0W3
        1F0,2F0,1F1,2F1,1F2,2B0,(2F2;1B0)OVERLAP_F_B,(1F3;2B1)OVERLAP_F_B,(2F3;1B1)OVERLAP_F_B,2B2,1B2,2I3,1I3,2W3,1W3"#]],
        &expect![[r#"
        rank 0  0F0----|0F1----|0F2----|3F0----|3I0----|3W0----|3F1----|0F3&3B1----------------|........3F2&0B0----------------|3B2------------|........3F3&0B1----------------|3B3------------|0I2----|0W2----|0I3----|0W3----|
        rank 1  ........1F0----|2F0----|1F1----|2F1----|1F2----|2B0------------|2F2&1B0----------------|1F3&2B1----------------|2F3&1B1----------------|2B2------------|1B2------------|........2I3----|1I3----|2W3----|1W3----|"#]],
    );
}

#[test]
fn chimera() {
    check(
        &plan(ScheduleName::Chimera, 4, 4, 1),
        &expect![[r#"
        0F0,0F1,3F2,3B2,3F3,3B3,0B0,0B1
        1F0,2F2,1F1,2F3,2B2,1B0,2B3,1B1
        1F2,2F0,1F3,2F1,2B0,1B2,2B1,1B3
        0F2,0F3,3F0,3B0,3F1,3B1,0B2,0B3"#]],
        &expect![[r#"
        rank 0  0F0|0F1|....3F2|3B2----|3F3|3B3----|....0B0----|........0B1----|
        rank 1  ....1F0|2F2|1F1|2F3|....2B2----|1B0----|2B3----|1B1----|........
        rank 2  ....1F2|2F0|1F3|2F1|....2B0----|1B2----|2B1----|1B3----|........
        rank 3  0F2|0F3|....3F0|3B0----|3F1|3B1----|....0B2----|........0B3----|"#]],
    );
}

#[test]
fn hanayo() {
    check(
        &plan(ScheduleName::Hanayo, 2, 2, 2),
        &expect![[r#"
        0F0,0F1,3F0,3B0,3F1,3B1,0B0,0B1
        1F0,2F0,1F1,2F1,2B0,1B0,2B1,1B1"#]],
        &expect![[r#"
        rank 0  0F0|0F1|....3F0|3B0----|3F1|3B1----|....0B0----|........0B1----|
        rank 1  ....1F0|2F0|1F1|2F1|....2B0----|1B0----|2B1----|1B1----|........"#]],
    );
}

#[test]
fn zb_auto() {
    check(
        &plan(ScheduleName::ZbAuto, 2, 3, 1),
        &expect![[r#"
        0F0,0F1,0I0,0W0,0F2,0I1,0W1,0I2,0W2
        1F0,1I0,1F1,1I1,1W0,1F2,1I2,1W1,1W2"#]],
        &expect![[r#"
        rank 0  F0|F1|...I0|W0|F2|I1|W1|I2|W2|
        rank 1  ...F0|I0|F1|I1|W0|F2|I2|W1|W2|"#]],
    );
}

#[test]
fn auto() {
    check(
        &plan(ScheduleName::Auto, 2, 3, 2),
        &expect![[r#"
        0F0,0F1,0F2,3F0,3I0,3W0,3F1,3I1,3W1,0I0,0W0,3F2,3I2,3W2,0I1,0W1,0I2,0W2
        1F0,2F0,1F1,2F1,2I0,2W0,1F2,1I0,1W0,2F2,2I1,2W1,1I1,2I2,1I2,1W1,2W2,1W2"#]],
        &expect![[r#"
        rank 0  0F0|0F1|0F2|3F0|3I0|3W0|3F1|3I1|3W1|0I0|0W0|3F2|3I2|3W2|0I1|0W1|0I2|0W2|....
        rank 1  ....1F0|2F0|1F1|2F1|2I0|2W0|1F2|1I0|1W0|2F2|2I1|2W1|1I1|2I2|1I2|1W1|2W2|1W2|"#]],
    );
}

#[test]
fn forward_only() {
    check(
        &plan(ScheduleName::ForwardOnly, 2, 3, 1),
        &expect![[r#"
        0F0,0F1,0F2
        1F0,1F1,1F2"#]],
        &expect![[r#"
        rank 0  F0|F1|F2|...
        rank 1  ...F0|F1|F2|"#]],
    );
}

#[test]
fn messages_take_time() {
    let plan = plan(ScheduleName::OneFOneB, 2, 3, 1);
    let costs = Costs::uniform(2, 1.0, 0.5, 0.5, 1.0);
    expect![[r#"
        rank 0  F0|F1|.........B0|F2|B1|.........B2|
        rank 1  ......F0|B0|F1|B1|......F2|B2|......"#]]
    .assert_eq(&draw(&plan, &costs).unwrap());
}

fn text(rows: &[Vec<Instruction>]) -> String {
    let line =
        |row: &Vec<Instruction>| row.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn messages_between_ranks() {
    let plan_of_two = plan(ScheduleName::OneFOneB, 2, 2, 1);
    let lowered = lower(&plan_of_two);
    expect![[r#"
        0F0 send(0>1a0) 0F1 send(0>1a1) recv(1>0g0) 0B0 recv(1>0g1) 0B1
        recv(0>1a0) 1F0 1B0 send(1>0g0) recv(0>1a1) 1F1 1B1 send(1>0g1)"#]]
    .assert_eq(&text(&lowered.rows));
    assert_eq!(mailbox_peaks(&plan_of_two), [2, 2]);
    expect![[r#"
        0F0 send(0>1a0) 0F1 send(0>1a1) recv(1>0g0) recv(1>0g1) 0B0 0B1
        recv(0>1a0) recv(0>1a1) 1F0 1B0 send(1>0g0) 1F1 1B1 send(1>0g1)"#]]
    .assert_eq(&text(&lower_rendezvous(&plan_of_two)));
}

#[test]
fn no_message_inside_a_rank() {
    let alone = plan(ScheduleName::InterleavedOneFOneB, 1, 1, 2);
    let lowered = lower(&alone);
    expect!["0F0 1F0 1B0 0B0"].assert_eq(&text(&lowered.rows));
    assert_eq!(mailbox_peaks(&alone), [0]);
}
