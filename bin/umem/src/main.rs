//! `umem`: command line.

fn main() {}
