//! Draws a schedule, simulates its cost, and shows how validation refuses a broken one. Needs no
//! candle.
//!
//! `cargo run -p pp-examples --example draw_schedule`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use pp_schedule::{Costs, ScheduleName, Sizes, draw, simulate};

fn main() -> anyhow::Result<()> {
    let sizes =
        Sizes { n_ranks: 4, n_micro_batches: 8, n_virtual_stages: 1, interleave_group: None };
    let plan = ScheduleName::OneFOneB.generate(&sizes)?;
    let costs = Costs::uniform(plan.n_stages(), 1.0, 1.0, 1.0, 0.0);
    println!("{}", draw(&plan, &costs)?);
    let simulated = simulate(&plan, &costs)?;
    println!("makespan {}, bubble_ratio {:.4}", simulated.makespan, simulated.bubble_ratio);

    // The last rank runs a backward before its forward. The error names the cell.
    let mut draft = plan.into_draft();
    draft.rows[3].swap(0, 1);
    match draft.validate() {
        Ok(_) => anyhow::bail!("a plan that hangs was accepted"),
        Err(refused) => println!("\n{refused}"),
    }
    Ok(())
}
