//! Pipeline-parallel training that one can see.
fn main() {}
